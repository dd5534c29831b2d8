"""The contract of a storage."""

from __future__ import annotations

import uuid
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from pattern_core.filters import Field, Filter
from pattern_core.schema import COMMIT_LOG, Order, SchemaStep, Table

from .base import AsyncResource, Detail, Health, Row
from .changes import Changes, Commit, Position
from .writes import Write

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Storage"]

_BY_SEQUENCE: Final = Order("sequence")


class Storage(AsyncResource):
    """A database that holds the records. It is the only source of truth: indexes can be rebuilt from it.

    Returned rows belong to the caller. Rows contain vectors only on request. After `aclose`, every call raises
    `ClosedError`. If the engine fails or a table is missing, a call raises `StorageError`.
    """

    @abstractmethod
    async def tables(self) -> frozenset[str]:
        """Return the names of all tables in the database, foreign ones included."""

    @abstractmethod
    async def apply_schema(self, step: SchemaStep) -> None:
        """Apply one schema step. It is idempotent.

        After a crash, a table exists completely or not at all. An interrupted `AlterTable` may be half done, and is
        completed when it is applied again.

        Args:
            step: The step.
        """

    @abstractmethod
    async def get(self, table: Table, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        """Read records by id.

        Args:
            table: The table.
            ids: The ids, in any order, repeats allowed.
            vectors: Whether to include the vector.

        Returns:
            The row of each id, in the order given; None for a missing record.
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
            where: The filter, with the meaning that `pattern_core.filters` defines; None for all. The caller has
                checked it against the table.
            order: The sort keys, the most significant first. Null sorts before everything, texts sort by code point.
                Ties sort by id, and so does everything without a key.
            limit: The most rows to return, applied after filter and order; None for all.
            vectors: Whether to include the vector.

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
        """Stream records as Arrow record batches, without holding all of them in memory.

        Args:
            table: The table.
            where: The filter; None for all.
            columns: The columns to read; None for all, the vector included.
            batch_rows: The most rows in a batch.

        Returns:
            Batches with the schema ``table.arrow_schema(columns)``, ordered by id. A record that exists throughout the
            scan comes exactly once. A record that is written meanwhile may or may not come, but comes whole.
        """

    @abstractmethod
    async def commit(self, batch: Sequence[Write]) -> Position | None:
        """Apply a batch of writes in order, all or none.

        When it returns, the writes survive a crash, and every read sees them. Each write sees the effect of those
        before it in the batch. An empty batch does nothing.

        Args:
            batch: The writes.

        Returns:
            The position after the commit; None if the batch holds no `Append`.

        Raises:
            AlreadyExistsError: An id or unique key is taken.
            ConflictError: A record does not have the expected revision.
            NotFoundError: A record to patch or check is missing.
            StorageError: The engine failed. The message says whether the batch may have taken effect.
        """

    @abstractmethod
    async def health(self) -> Health:
        """Return whether the engine works."""

    @cached_property
    def writer(self) -> str:
        """A text that identifies this object among all that commit to the database."""
        return uuid.uuid4().hex[:12]

    async def changes_since(self, position: Position | None, *, limit: int = 1000) -> Changes | None:
        """Return the commits after a position.

        The default reads the commit log, which `Append` numbers. A storage may answer faster; one that numbers the
        commits of each writer must implement it.

        Args:
            position: The position; None for the newest one, after which there are no commits yet.
            limit: The most commits to return.

        Returns:
            The commits, none skipped and none twice. None if the log cannot tell, because it no longer holds the position,
            or the position is of another database, of an older copy of the files, or of the time before a restore.
        """
        if position is None:
            newest = await self.find(COMMIT_LOG, order=[Order("sequence", descending=True)], limit=1)
            return Changes((), Position(newest[0]["sequence"], newest[0]["id"]) if newest else Position(0))
        rows = await self.find(
            COMMIT_LOG, Field("sequence") >= position.sequence, order=[_BY_SEQUENCE], limit=limit + 1
        )
        if position.sequence:
            if not rows or rows[0]["id"] != position.token:
                return None
            rows = rows[1:]
        elif rows and rows[0]["sequence"] != 1:
            return None
        commits = [commit for row in rows[:limit] if (commit := Commit.from_row(row)) is not None]
        if len(commits) < len(rows[:limit]):
            return None
        return Changes(tuple(commits), commits[-1].position if commits else position, more=len(rows) >= limit)

    async def maintain(self) -> Mapping[str, Detail]:
        """Run pending maintenance of the engine, and report what was done.

        A storage that maintains itself in the background does now what it would do later. The default does nothing.
        """
        return {}

    @abstractmethod
    async def execute(self, statement: str, parameters: Mapping[str, Any] | None = None) -> Any:
        """Run a statement in the engine's own language. Core never does.

        Args:
            statement: The statement. Never build it from user text.
            parameters: Values to bind.

        Returns:
            The engine's answer.
        """
