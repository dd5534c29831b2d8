"""The storage on the embedded engine: one owner, one transaction at a time, and a ledger."""

# ruff: noqa: S608 - the names in the statements come from the schema, and every value is bound

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import attrs

from pattern_core.abc import Append, Changes, Health, Insert, Position, Write
from pattern_core.errors import DataLossError, StorageError
from pattern_core.schema import COMMIT_LOG, DropTable, SchemaStep
from pattern_surreal import SurrealStorage
from pattern_surreal.array_column import adopt_array_columns
from pattern_surreal.commit import Transaction
from pattern_surreal.connection import closed

from .engine import EmbeddedEngine
from .folder import Folder
from .ledger import Entry, Ledger

__all__ = ["EmbeddedStorage"]

T = TypeVar("T")

_TABLE: Final = "pattern_ledger"
_DEFINE: Final = (
    f"DEFINE TABLE IF NOT EXISTS {_TABLE} SCHEMAFULL; DEFINE FIELD IF NOT EXISTS sequence ON {_TABLE} TYPE int"
)
_READ: Final = f"SELECT VALUE sequence FROM {_TABLE}"
_COUNT_UP: Final = f"UPSERT ONLY {_TABLE}:main SET sequence = (sequence ?? 0) + 1 RETURN VALUE sequence"


class EmbeddedStorage(SurrealStorage):
    """Records in an embedded SurrealDB. `EmbeddedStorage.open` makes one.

    Args:
        engine: The open engine.
        folder: Its folder.
        ledger: The open ledger.
        sequence: The number of the last transaction.
    """

    _internal_tables = frozenset({_TABLE})

    def __init__(self, engine: EmbeddedEngine, folder: Folder, ledger: Ledger, sequence: int) -> None:
        super().__init__(engine)
        self._engine = engine
        self._folder = folder
        self._ledger = ledger
        self._sequence = sequence
        self._write_lock = asyncio.Lock()
        self._writes: set[asyncio.Task[Any]] = set()
        self._newest: Position | None = None
        self._numbered: Position | None = None
        self._numbers: dict[str, Position] = {}
        self._end: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, path: Path | None, *, strict: bool = False) -> Self:
        """Open a database, or create it.

        Args:
            path: The folder; None creates a temporary one, which is removed with the storage.
            strict: Whether the engine rejects writes to undefined tables.

        Raises:
            DatabaseLockedError: This process or another one has it open.
            DataLossError: Acknowledged writes are missing. Nothing was changed.
            StorageError: The engine cannot open it.
        """
        opening = asyncio.create_task(cls._open(path, strict=strict))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The opening holds files and a thread, so it is completed, and then closed.
            await asyncio.wait([opening])
            if not opening.cancelled() and opening.exception() is None:
                await opening.result().aclose()
            raise
        except OSError as error:
            raise StorageError(f"{path} cannot be used as the folder of a database: {error}") from error

    @classmethod
    async def _open(cls, path: Path | None, *, strict: bool) -> Self:
        async with contextlib.AsyncExitStack() as undo:
            folder = await asyncio.to_thread(Folder.acquire, path)
            undo.callback(folder.release)
            await _verify(folder)
            engine = await EmbeddedEngine.open(f"surrealkv://{folder.engine}", strict=strict)
            undo.push_async_callback(engine.aclose)
            await engine.query(_DEFINE, {})
            sequence = await _read_sequence(engine)
            ledger = await asyncio.to_thread(Ledger, folder.ledger, Entry(sequence))
            undo.callback(ledger.close)
            storage = cls(engine, folder, ledger, sequence)
            await adopt_array_columns(storage)
            undo.pop_all()
            return storage
        raise AssertionError  # an exit stack swallows nothing

    async def apply_schema(self, step: SchemaStep) -> None:
        await super().apply_schema(step)
        if isinstance(step, DropTable) and step.table.name == COMMIT_LOG.name:
            self._newest = None

    async def commit(self, batch: Sequence[Write]) -> Position | None:
        appended = next((write for write in batch if isinstance(write, Append)), None)
        if appended is None:
            return await super().commit(batch)
        await self._read_newest()
        try:
            await super().commit(batch)
            return self._numbers.get(appended.row["id"])
        finally:
            self._numbers.pop(appended.row["id"], None)

    def _number(self, write: Append) -> Insert:
        newest = self._newest or Position(0)
        self._numbered = Position(newest.sequence + 1, write.row["id"])
        self._numbers[write.row["id"]] = self._numbered
        return Insert(write.table, write.row | {"sequence": self._numbered.sequence})

    async def _read_newest(self) -> Position:
        if self._newest is None:
            async with self._write_lock:
                if self._newest is None:
                    found = await super().changes_since(None)
                    self._newest = found.position if found else Position(0)
        return self._newest

    async def changes_since(self, position: Position | None, *, limit: int = 1000) -> Changes | None:
        newest = await self._read_newest()  # only this object writes, so it knows
        if position in (None, newest):
            if self._closed:
                raise closed()
            return Changes((), newest)
        return await super().changes_since(position, limit=limit)

    async def transact(self, make: Callable[[], Transaction]) -> list[Any]:
        return await self._shielded(self._transact(make))

    async def _transact(self, make: Callable[[], Transaction]) -> list[Any]:
        def counted() -> Transaction:
            transaction = make()
            return attrs.evolve(transaction, statements=[*transaction.statements, _COUNT_UP])

        async with self._write_lock:
            self._numbered = None
            results = await super().transact(counted)
            self._newest = self._numbered or self._newest
            self._sequence = int(results[-2])  # the last one is that of COMMIT
            with contextlib.suppress(OSError):  # the transaction is acknowledged, and the ledger may lag behind
                self._ledger.write(Entry(self._sequence))
            return results

    async def execute(self, statement: str, parameters: Mapping[str, Any] | None = None) -> Any:
        return await self._shielded(self._execute(statement, parameters))

    async def _execute(self, statement: str, parameters: Mapping[str, Any] | None) -> Any:
        async with self._write_lock:  # the statement may write
            return await super().execute(statement, parameters)

    async def _shielded(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a write that continues if the caller is cancelled."""
        task = asyncio.create_task(work)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return await asyncio.shield(task)

    async def health(self) -> Health:
        health = await super().health()
        details = {"path": str(self._folder.path), **health.details, "transactions": self._sequence}
        return attrs.evolve(health, details=details)

    async def aclose(self) -> None:
        self._closed = True
        if self._end is None:
            self._end = asyncio.create_task(self._finish())
        await asyncio.shield(self._end)

    async def _finish(self) -> None:
        await asyncio.gather(*self._writes, return_exceptions=True)
        try:
            counts = await _count(self._engine)
            await self._engine.aclose()
            self._ledger.write(Entry(self._sequence, counts))
        finally:
            await self._engine.aclose()
            self._ledger.close()
            await asyncio.to_thread(self._folder.release)


async def _verify(folder: Folder) -> None:
    """Compare a copy of the database with its ledger, so that nothing is changed if data are missing."""
    folder.clear()
    ledger = Ledger.read(folder.ledger, folder.path)
    if ledger is None:  # it is new, or its creation was interrupted
        return
    if not folder.engine.is_dir():
        raise _loss(folder, f"the folder of its data, {folder.engine.name}, is missing")
    found = await _check_recovery(folder, counting=ledger.counts is not None)
    if found.sequence < ledger.sequence:
        raise _loss(folder, f"transaction {ledger.sequence} was acknowledged, and the data end at {found.sequence}")
    if found.sequence == ledger.sequence and found.counts != ledger.counts:
        now, then = found.counts or {}, ledger.counts or {}
        differing = sorted(table for table in {*now, *then} if now.get(table) != then.get(table))
        shown = ", ".join(f"{now.get(each, 0):,} of {then.get(each, 0):,} {each}" for each in differing)
        raise _loss(folder, f"it has other record counts than when it was closed: {shown}")


async def _check_recovery(folder: Folder, *, counting: bool) -> Entry:
    """Open a copy of the engine's files, and return the sequence and the counts that the database has."""
    copy = await asyncio.to_thread(folder.recovery_copy)
    async with contextlib.AsyncExitStack() as end:
        end.push_async_callback(asyncio.to_thread, folder.clear)
        try:
            engine = await EmbeddedEngine.open(f"surrealkv://{copy}")
            end.push_async_callback(engine.aclose)
            return Entry(await _read_sequence(engine), await _count(engine) if counting else None)
        except StorageError as error:
            raise _loss(folder, f"the engine cannot read its files: {error}") from error
    raise AssertionError  # an exit stack swallows nothing


def _loss(folder: Folder, what: str) -> DataLossError:
    message = (
        f"the database {folder.path} has lost data: {what}. Nothing was changed. "
        f"Restore the whole folder from a backup; or, to continue with the remaining data, delete its file "
        f"{folder.ledger.name}."
    )
    return DataLossError(str(folder.path), message)


async def _read_sequence(engine: EmbeddedEngine) -> int:
    [info] = await engine.query("INFO FOR DB", {})
    if _TABLE not in info["tables"]:
        return 0
    [found] = await engine.query(_READ, {})
    return int(found[0]) if found else 0


async def _count(engine: EmbeddedEngine) -> dict[str, int]:
    """Count the records of each table."""
    [info] = await engine.query("INFO FOR DB", {})
    tables = sorted(table for table in info["tables"] if table.isidentifier())
    if not tables:
        return {}
    answers = await engine.query(";".join(f"SELECT count() FROM `{table}` GROUP ALL" for table in tables), {})
    return {table: int(found[0]["count"]) if found else 0 for table, found in zip(tables, answers, strict=True)}
