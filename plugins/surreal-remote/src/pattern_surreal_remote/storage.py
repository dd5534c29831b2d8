"""The storage on a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from pattern_core.abc import Append, Changes, Health, Insert, Position, Put, Write
from pattern_core.errors import (
    AccessError,
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    PatternError,
    StorageError,
)
from pattern_core.schema import COMMIT_LOG, Table
from pattern_surreal import StatementError, SurrealStorage
from pattern_surreal.commit import Transaction, plan
from pattern_surreal.connection import closed

from .account import Version
from .commit_log import HEADS, CommitLog
from .committer import INTERNAL_TABLES, Committer, ContendedError
from .connection import RemoteConnection
from .write_conditions import LOCKS, hold, lock, locks_of_new_table, locks_of_old_table

__all__ = ["RemoteStorage"]


class RemoteStorage(SurrealStorage):
    """Records on a SurrealDB server.

    Args:
        connection: The connections to the server. They are closed with the storage.
    """

    _internal_tables = INTERNAL_TABLES
    _shared = True

    def __init__(self, connection: RemoteConnection) -> None:
        super().__init__(connection)
        self._remote = connection
        self._committer = Committer(connection)
        self._log = CommitLog(self.query, self.writer)
        self._end: asyncio.Task[None] | None = None

    @property
    def version(self) -> Version:
        """The server's version."""
        return self._remote.version

    async def transact(self, make: Callable[[], Transaction]) -> list[Any]:
        if self._closed:
            raise closed()
        return await self._committer.run(make)

    async def tables(self) -> frozenset[str]:
        if not self._remote.account.is_record:
            return await super().tables()
        # A record user may not list tables. Each table of this plugin has lock rows.
        [rows] = await self.query(f"SELECT VALUE id FROM {LOCKS}")  # noqa: S608 - a constant
        self._known = frozenset(str(row.id[0]) for row in rows)
        return self._known

    def _creation(self, table: Table) -> Transaction:
        return _joined(super()._creation(table), locks_of_new_table(table))

    def _removal(self, table: Table) -> Transaction:
        removal = _joined(super()._removal(table), locks_of_old_table(table))
        if table.name == COMMIT_LOG.name:
            removal = attrs.evolve(removal, statements=[*removal.statements, f"DELETE {HEADS} RETURN NONE"])
        return removal

    def _plan(self, batch: Sequence[Write], *, grouped: bool) -> Transaction:
        distrust = self._remote.account.is_record
        rest = [write for write in batch if not isinstance(write, Append)]
        transaction = plan(rest, self.array_columns, grouped=grouped, guard=hold(distrust=distrust))
        transaction = lock(transaction, rest, distrust=distrust)
        for place, write in enumerate(batch):
            if isinstance(write, Append):
                entry = self._log.statements(write, place)
                writes = [*transaction.writes, *entry.writes]
                transaction = attrs.evolve(_joined(transaction, entry), writes=writes)
        return transaction

    async def commit(self, batch: Sequence[Write]) -> Position | None:
        ordered = sorted(batch, key=lambda write: isinstance(write, Append))
        if not any(isinstance(write, Append) for write in batch):
            await self._write(ordered)
            return None
        async with self._log.lock:
            try:
                answers = await self._write(ordered)
            except (AlreadyExistsError, ConflictError, NotFoundError):
                raise  # nothing was written
            except BaseException:
                self._log.restart()
                raise
            self._log.advance()
            return self._log.position(answers) or await self._log.last_position()

    async def _write(self, batch: Sequence[Write]) -> list[Any]:
        try:
            return await super()._write(batch)
        except ContendedError as error:
            write = batch[0]
            id = write.row["id"] if isinstance(write, Insert | Put) else getattr(write, "id", "")
            raise ConflictError(write.table.name, str(id), getattr(write, "revision", None)) from error

    async def _explain(self, batch: Sequence[Write], place: int, error: StatementError) -> PatternError:
        if "pattern denied" in error.detail:
            return AccessError(
                f"the account may not write this record of {batch[place].table.name}. Nothing was written."
            )
        if "pattern gone" not in error.detail:
            return await super()._explain(batch, place, error)
        table = batch[int(error.detail.rpartition(" ")[2])].table.name
        self._known -= {table}
        return StorageError(f"there is no table {table}; create it with apply_schema")

    async def changes_since(self, position: Position | None, *, limit: int = 1000) -> Changes | None:
        await self._check_table(COMMIT_LOG)
        if position is None:
            return Changes((), await self._log.newest())
        return await self._log.changes_since(position, limit)

    async def execute(self, statement: str, parameters: Mapping[str, Any] | None = None) -> Any:
        if self._closed:
            raise closed()
        results = await self._remote.send(statement, parameters or {}, deadline=self._remote.deadline(), repeat=False)
        return results[0] if len(results) == 1 else results

    async def health(self) -> Health:
        health = await super().health()
        place = {"url": self._remote.url, "database": self._remote.account.place}
        return attrs.evolve(health, details={**place, **health.details, "connections": self._remote.size})

    async def aclose(self) -> None:
        self._closed = True
        if self._end is None:
            self._end = asyncio.create_task(self._finish())
        await asyncio.shield(self._end)

    async def _finish(self) -> None:
        try:
            await self._committer.finish()
        finally:
            await self._remote.aclose()


def _joined(first: Transaction, second: Transaction) -> Transaction:
    return Transaction([*first.statements, *second.statements], {**first.variables, **second.variables}, [])
