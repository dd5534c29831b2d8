"""The three contracts that plugins fulfil: `Storage`, `VectorStore` and `Embedder`.

All methods are called from one asyncio event loop and must not block it. A call that its caller cancels may or may
not take effect, but never takes effect in part; core calls `Storage.commit` and `VectorStore.apply` from a task that
nobody cancels.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import attrs
import numpy as np
from numpy.typing import NDArray

from .filters import Filter
from .schema import Order, SchemaStep, Table

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "AsyncResource",
    "Check",
    "CheckNone",
    "Delete",
    "Detail",
    "Embedder",
    "Health",
    "IndexSpec",
    "Insert",
    "Matches",
    "Patch",
    "Put",
    "Row",
    "Signature",
    "Storage",
    "Vector",
    "VectorChange",
    "VectorStore",
    "Write",
]

Row = dict[str, Any]
"""A record's columns by name; the Python value for each is told by `pattern_core.schema.Kind`. Null is None."""

Vector = NDArray[np.float32]
"""A float32 array, shape ``[dimensions]``, finite, not all zeros."""


class AsyncResource(ABC):
    """Something that has to be closed. ``async with`` closes it."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of everything that is held. A second call does nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


Detail = str | int | float | bool
"""A figure or a word that is shown to people."""


@attrs.frozen
class Health:
    """What a part of the system says of itself.

    Attributes:
        ok: Whether it can do its work.
        engine: Its name and version.
        details: Anything worth showing, without secrets.
    """

    ok: bool
    engine: str
    details: Mapping[str, Detail] = attrs.field(factory=dict)


@attrs.frozen
class Insert:
    """Write a new record. `AlreadyExistsError` where the id or a unique key is taken.

    Attributes:
        table: The table.
        row: Every column.
    """

    table: Table
    row: Row


@attrs.frozen
class Put:
    """Write a whole record, new or over the one with its id. `AlreadyExistsError` where a unique key is taken.

    Attributes:
        table: The table.
        row: Every column.
    """

    table: Table
    row: Row


@attrs.frozen
class Patch:
    """Set some columns of a record, each as a whole. `NotFoundError` where it is missing and no revision is expected.

    Attributes:
        table: The table.
        id: The record.
        changes: The columns to set; None makes one null.
        revision: The revision that the record must have, else `ConflictError`; None for any.
    """

    table: Table
    id: str
    changes: Row
    revision: int | None = None


@attrs.frozen
class Delete:
    """Remove a record; a missing one is no error where no revision is expected.

    Attributes:
        table: The table.
        id: The record.
        revision: The revision that the record must have, else `ConflictError`; None for any.
    """

    table: Table
    id: str
    revision: int | None = None


@attrs.frozen
class Check:
    """Write nothing, but let the batch fail unless a record is as expected.

    Attributes:
        table: The table.
        id: The record.
        revision: None: it must exist, else `NotFoundError`. 0: it must not exist, else `ConflictError`. Any other:
            it must have that revision, else `ConflictError`.
    """

    table: Table
    id: str
    revision: int | None = None


@attrs.frozen
class CheckNone:
    """Write nothing, but let the batch fail with `ConflictError` if a record satisfies a filter.

    It sees the writes before it in the batch: behind deletions, it makes sure that nothing was added meanwhile.

    Attributes:
        table: The table.
        where: The filter.
    """

    table: Table
    where: Filter


Write = Insert | Put | Patch | Delete | Check | CheckNone


class Storage(AsyncResource):
    """A database that holds the records. It is the only truth: indexes can be made again from it.

    Rows handed out belong to the caller. Vectors are left out of rows unless they are asked for. Once the storage is
    closed, every call raises `ClosedError`; where the engine fails, or a table is missing, `StorageError`.
    """

    @abstractmethod
    async def tables(self) -> frozenset[str]:
        """Return the names of the tables that exist, those of others in the same database included."""

    @abstractmethod
    async def apply_schema(self, step: SchemaStep) -> None:
        """Carry out one schema step. It is idempotent.

        After a crash a table is there wholly or not at all; `AlterTable` may have come part of the way, and gets to the
        end when it is carried out again.
        """

    @abstractmethod
    async def get(self, table: Table, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        """Read records by id.

        Args:
            table: The table.
            ids: The ids, in any order, repeats allowed.
            vectors: Whether to read the vector as well.

        Returns:
            For each id, in the order given, its row, or None where there is no such record.
        """

    @abstractmethod
    async def find(
        self,
        table: Table,
        where: Filter | None = None,
        *,
        order: Sequence[Order] = (),
        limit: int | None = None,
        vectors: bool = False,
    ) -> list[Row]:
        """Read the records that satisfy a filter.

        Args:
            table: The table.
            where: The filter (its meaning: `pattern_core.filters`); None for all. The caller has checked it against
                the table.
            order: The keys to sort by, the first one first. Null is less than everything, texts sort by code point.
                Ties, and everything where there is no key, sort by id.
            limit: The most rows to return, taken after filter and order; None for all.
            vectors: Whether to read the vector as well.

        Returns:
            The rows, in order.
        """

    @abstractmethod
    async def count(self, table: Table, where: Filter | None = None) -> int:
        """Return how many records satisfy a filter; None counts all."""

    @abstractmethod
    def scan(
        self,
        table: Table,
        where: Filter | None = None,
        *,
        columns: Sequence[str] | None = None,
        batch_rows: int = 1024,
    ) -> AsyncIterator[pa.RecordBatch]:
        """Stream records as Arrow, without holding all of them in memory.

        Args:
            table: The table.
            where: The filter; None for all.
            columns: The columns to read; None for all, the vector included.
            batch_rows: The most rows in a batch.

        Returns:
            Batches with the schema ``table.arrow_schema(columns)``, ordered by id. A record that is there all through
            the scan comes exactly once; one that is written meanwhile may or may not come, but whole.
        """

    @abstractmethod
    async def commit(self, batch: Sequence[Write]) -> None:
        """Apply writes in order, all of them or none; when it returns, they survive a crash and every read sees them.

        An empty batch does nothing. Each write sees the effect of those before it in the batch.

        Args:
            batch: The writes.

        Raises:
            AlreadyExistsError: An id or unique key is taken.
            ConflictError: A record has not the expected revision.
            NotFoundError: A record to patch or check is missing.
            StorageError: The engine failed. The message says whether the batch may have taken effect.
        """

    @abstractmethod
    async def health(self) -> Health:
        """Ask the engine whether it works."""

    async def foreign_commits(self) -> int:
        """Return a number that is another one after others than this object have committed; own commits may change it.

        What keeps data of the storage in memory asks before it relies on it. A storage that may be open in several
        processes has to answer; where only this object writes, the number is always the same.
        """
        return 0

    async def maintain(self) -> Mapping[str, Detail]:
        """Do now the upkeep that the engine needs from time to time, and say what was done.

        A storage that does its own upkeep in the background does all that is due; one that needs none does nothing.
        """
        return {}

    @abstractmethod
    async def execute(self, statement: str, parameters: Mapping[str, Any] | None = None) -> Any:
        """Run a statement of the engine's own language: a way out that core itself never takes.

        Args:
            statement: The statement, never made from user text.
            parameters: Values to bind.

        Returns:
            Whatever the engine answers.
        """


@attrs.frozen
class IndexSpec:
    """What an index is for.

    Attributes:
        table: The table whose vectors it holds; ``table.partition`` names the column that partitions it.
        dimensions: The length of the vectors.
        metric: ``cosine``, ``euclidean`` or ``manhattan``.
        database: What tells the database that the index belongs to from all others, and the time that an index in this
            place was kept up from all others. An external index that was made for another one is made anew.
    """

    table: Table
    dimensions: int
    metric: str
    database: str = ""


@attrs.frozen
class VectorChange:
    """What the index has to hold of one record from now on.

    Attributes:
        id: The record.
        partition: The value of its partition column.
        vector: Its vector; None where it has none, or is gone.
    """

    id: str
    partition: str
    vector: Vector | None


@attrs.frozen
class Matches:
    """What a vector search found.

    Attributes:
        ids: The records, closest first, ties by id.
        scores: For each, how close it is, more is closer: the cosine similarity, or the distance times -1.
        exact: Whether every candidate was compared.
    """

    ids: tuple[str, ...]
    scores: tuple[float, ...]
    exact: bool


class VectorStore(AsyncResource):
    """An index over the vectors that a storage holds. It can always be made again from there.

    Once it is closed, every call raises `ClosedError`; for a table without an index, `StorageError`.
    """

    @property
    def place(self) -> str | None:
        """Where the index is kept, if that is a place of its own, which a crash may leave behind the storage; else None.

        For such an external index core keeps an outbox in the storage: a commit also records which records the index has
        yet to learn of, and forgets it when `apply` has returned. So `apply` returns when its changes survive a crash;
        and an index that `create` had not finished when it was interrupted does not pass for a ready one.

        The place tells the index from others: an index that was not kept up for a while, because the database was used
        with one in another place or with none, is made anew.
        """
        return None

    @abstractmethod
    async def create(self, index: IndexSpec) -> None:
        """Make the index of a table ready for search, from what the storage holds; do nothing where it is ready.

        An index that was made for other dimensions, another metric, another database or other parameters is made anew.
        """

    @abstractmethod
    async def exists(self, table: Table) -> bool:
        """Return whether the table has an index."""

    @abstractmethod
    async def apply(self, table: Table, changes: Sequence[VectorChange]) -> None:
        """Make the index agree with records that a commit has changed. Repeats do no harm.

        Core calls it in the order of the commits, one call at a time; where several processes write, each of them
        does, and repeats itself until the index agrees with the storage.

        Args:
            table: The table.
            changes: What it has to hold from now on.
        """

    @abstractmethod
    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, ids: Sequence[str] | None = None
    ) -> Matches:
        """Find the closest vectors.

        Args:
            table: The table.
            vector: The query, float32 ``[dimensions]``.
            partitions: The partitions to look in, and no others.
            limit: The most matches to return. Fewer come only where the partitions hold fewer.
            ids: The only records to consider; None for all.

        Returns:
            The matches, closest first, ties by id.

        Raises:
            InvalidVectorError: The query has another length than the index, is all zeros, or not finite.
        """

    @abstractmethod
    async def count(self, table: Table) -> int:
        """Return how many vectors of a table can be found."""

    @abstractmethod
    async def drop(self, table: Table) -> None:
        """Remove the index of a table; do nothing where there is none."""

    async def maintain(self) -> Mapping[str, Detail]:
        """Do now the upkeep that is due, and say what was done, as `Storage.maintain`."""
        return {}

    @abstractmethod
    async def health(self) -> Health:
        """Ask the engine whether it works."""


@attrs.frozen(kw_only=True)
class Signature:
    """All that decides what vector a text gets. Vectors of two signatures are never compared.

    Attributes:
        provider: The plugin's name.
        model: The model's name, as the user writes it.
        revision: What tells two contents of one name apart: a hash of the weights, say.
        dimensions: The length of the vectors.
        normalized: Whether vectors have length 1.
        query_prompt: What is put before a query.
        document_prompt: What is put before a document.
        max_tokens: How many tokens the model reads; None without a limit.
    """

    provider: str
    model: str
    revision: str
    dimensions: int
    normalized: bool
    query_prompt: str = ""
    document_prompt: str = ""
    max_tokens: int | None = None

    def to_json(self) -> str:
        """Return the signature as a JSON text that is the same for equal signatures."""
        return json.dumps(attrs.asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the signature that `to_json` wrote."""
        return cls(**json.loads(text))

    @property
    def digest(self) -> str:
        """What tells the signature from others, 64 bits of SHA-256, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.provider} {self.model} ({self.dimensions} dimensions, revision {self.revision[:12]})"


class Embedder(AsyncResource):
    """A model that turns texts into vectors.

    Core cuts long lists into batches, removes repeats, checks what comes back, keeps it for the next time, and repeats
    calls that fail with an error that says it is ``transient``; an embedder only embeds.
    """

    @property
    @abstractmethod
    def signature(self) -> Signature:
        """All that decides what vector a text gets."""

    @property
    @abstractmethod
    def max_batch(self) -> int:
        """How many texts one call of `embed_documents` takes at most."""

    @property
    def max_batch_tokens(self) -> int | None:
        """How many tokens the texts of one call may have in all; None without a limit. Needs `count_tokens`."""
        return None

    @property
    def concurrency(self) -> int:
        """How many calls of `embed_documents` core may have under way at once."""
        return 1

    @abstractmethod
    async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts that are to be found.

        Args:
            texts: 1 to `max_batch` texts, none of them blank, none of more than ``signature.max_tokens`` tokens.

        Returns:
            A float32 array, shape ``[len(texts), dimensions]``, in the order of the texts. The same text gets the
            same vector whatever stands beside it, to within float rounding.

        Raises:
            ModelUnavailableError: The model cannot be reached.
            EmbeddingError: It failed.
        """

    @abstractmethod
    async def embed_query(self, text: str) -> Vector:
        """Embed a text to find others by.

        Args:
            text: The text, not blank. What the model does not read of it is cut off.

        Returns:
            A float32 array, shape ``[dimensions]``.

        Raises:
            ModelUnavailableError: The model cannot be reached.
            EmbeddingError: It failed.
        """

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens that the model would read of each text, had it no limit.

        Core asks only where ``signature.max_tokens`` is not None, so an embedder without a limit need not answer.

        Args:
            texts: The texts, without the document prompt.

        Returns:
            The counts, the prompt's and the model's own special tokens included.
        """
        raise NotImplementedError(f"{type(self).__name__} has a token limit, so it must count tokens")
