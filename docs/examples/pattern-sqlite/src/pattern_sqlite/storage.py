"""The storage of the plugin. Every call runs in one thread, off the event loop."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from pattern_core.abc import Changes, Detail, Health, Position, Row, Storage, Write
from pattern_core.errors import ClosedError, PatternError, StorageError
from pattern_core.filters import Filter
from pattern_core.schema import Order, SchemaStep, Table

from .engine import Engine
from .options import SqliteOptions

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SqliteStorage"]

P = ParamSpec("P")
T = TypeVar("T")


class SqliteStorage(Storage):
    """A storage in an SQLite file. `open` makes one.

    Args:
        options: The options.
    """

    def __init__(self, options: SqliteOptions) -> None:
        self._path = options.path
        self._closed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pattern-sqlite")
        self._opening = self._thread.submit(Engine, options)

    @classmethod
    async def open(cls, options: SqliteOptions) -> Self:
        """Open the storage; raise `StorageError` if the file cannot be opened."""
        storage = cls(options)
        try:
            await storage.health()
        except BaseException:
            await storage.aclose()
            raise
        return storage

    async def tables(self) -> frozenset[str]:
        return await self._run(Engine.tables)

    async def apply_schema(self, step: SchemaStep) -> None:
        await self._run(Engine.apply_schema, step)

    async def get(self, table: Table, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        return await self._run(Engine.get, table, ids, vectors=vectors)

    async def find(
        self,
        table: Table,
        where: Filter | None = None,
        *,
        order: Sequence[Order] = (),
        limit: int | None = None,
        vectors: bool = False,
    ) -> list[Row]:
        return await self._run(Engine.find, table, where, order, limit, vectors=vectors)

    async def count(self, table: Table, where: Filter | None = None) -> int:
        return await self._run(Engine.count, table, where)

    async def scan(
        self, table: Table, where: Filter | None = None, *, columns: Sequence[str] | None = None, batch_rows: int = 1024
    ) -> AsyncIterator[pa.RecordBatch]:
        last: str | None = None
        while page := await self._run(Engine.page, table, where, columns, last, batch_rows):
            batch, last = page
            yield batch

    async def commit(self, batch: Sequence[Write]) -> Position | None:
        return await self._run(Engine.commit, batch)

    async def health(self) -> Health:
        return await self._run(Engine.health)

    async def changes_since(self, position: Position | None, *, limit: int = 1000) -> Changes | None:
        newest = await self._run(Engine.newest)
        if position in (None, newest):  # the answer to most searches, at the price of one lookup
            return Changes((), newest)
        return await super().changes_since(position, limit=limit)

    async def maintain(self) -> Mapping[str, Detail]:
        return await self._run(Engine.maintain)

    async def execute(self, statement: str, parameters: Mapping[str, Any] | None = None) -> Any:
        return await self._run(Engine.execute, statement, parameters)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            closing = self._thread.submit(self._close)  # after the calls that wait
            self._thread.shutdown(wait=False)
            await asyncio.shield(asyncio.wrap_future(closing))

    async def _run(self, method: Callable[Concatenate[Engine, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a method of the engine in the thread, always to its end."""

        def call() -> T:
            return method(self._opening.result(), *args, **kwargs)

        if self._closed:
            raise ClosedError(f"the database {self._path} is closed. Open it again.")
        try:
            return await asyncio.wrap_future(self._thread.submit(call))
        except PatternError:
            raise
        except (sqlite3.Error, OSError, OverflowError, TypeError, ValueError) as error:
            message = f"the database {self._path} failed: {error} ({type(error).__name__}). Nothing was written."
            raise StorageError(message) from error

    def _close(self) -> None:
        if self._opening.exception() is None:
            self._opening.result().close()
