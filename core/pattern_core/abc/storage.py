"""The contract of a storage."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pattern_core.filters import Filter
from pattern_core.schema import Order, SchemaStep, Table

from .base import AsyncResource, Detail, Health, Row
from .writes import Write

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Storage"]


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
