"""The connection to SQLite. Its methods block, and run in one thread."""

# ruff: noqa: S608 - statements contain names of the schema, and values are bound

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pattern_core.abc import Append, Check, CheckNone, Delete, Detail, Health, Insert, Patch, Position, Put, Row, Write
from pattern_core.errors import AlreadyExistsError, ConflictError, NotFoundError, StorageError
from pattern_core.filters import And, Field, Filter
from pattern_core.schema import COMMIT_LOG, AlterTable, Column, DropTable, Kind, Order, SchemaStep, Table

from .options import SqliteOptions
from .query import Query, order_by, quoted
from .values import arrow_value, decode_row, encode

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Engine"]


class Engine:
    """A connection to a database file. It has the methods of `Storage`, but they block.

    Args:
        options: The options.
    """

    def __init__(self, options: SqliteOptions) -> None:
        options.path.parent.mkdir(parents=True, exist_ok=True)
        self._sqlite = sqlite3.connect(options.path, timeout=options.busy_timeout, isolation_level=None)
        self._query: Query | None = None
        try:
            self._enable_wal(options.busy_timeout)
            self._sqlite.execute("PRAGMA synchronous = FULL")  # sync each commit
            self._sqlite.create_function("predicate", 2, self._predicate)
        except BaseException:
            self._sqlite.close()
            raise

    def _enable_wal(self, timeout: float) -> None:
        """Use a write-ahead log: readers and writers do not block each other."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._sqlite.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:  # not covered by busy_timeout
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    def close(self) -> None:
        self._sqlite.close()

    def tables(self) -> frozenset[str]:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*'"
        return frozenset(name for (name,) in self._sqlite.execute(query))

    def apply_schema(self, step: SchemaStep) -> None:
        table = step.table
        with self._transaction():
            if isinstance(step, DropTable):
                self._sqlite.execute(f"DROP TABLE IF EXISTS {quoted([table.name])}")
                return
            if isinstance(step, AlterTable):
                self._alter(table)
                return
            # Columns have no types: REAL, for example, loses the sign of -0.0.
            columns = [f"{quoted([each.name])}{'' if each.optional else ' NOT NULL'}" for each in table.columns]
            keys = [f"UNIQUE ({quoted(key)})" for key in (("id",), *table.unique)]
            declared = ", ".join([*columns, *keys])
            self._sqlite.execute(f"CREATE TABLE IF NOT EXISTS {quoted([table.name])} ({declared})")
            for names in table.indexes:
                index = quoted(["_".join((table.name, *names))])
                self._sqlite.execute(f"CREATE INDEX IF NOT EXISTS {index} ON {quoted([table.name])} ({quoted(names)})")

    def _alter(self, table: Table) -> None:
        existing = {name for _, name, *_ in self._sqlite.execute(f"PRAGMA table_info({quoted([table.name])})")}
        wanted = {column.name for column in table.columns}
        for name in existing - wanted:
            self._sqlite.execute(f"ALTER TABLE {quoted([table.name])} DROP COLUMN {quoted([name])}")
        for name in wanted - existing:
            self._sqlite.execute(f"ALTER TABLE {quoted([table.name])} ADD COLUMN {quoted([name])}")

    def get(self, table: Table, ids: Sequence[str], *, vectors: bool) -> list[Row | None]:
        columns = _columns(table, vectors=vectors)
        key = [column.name for column in columns].index("id")
        stored = {each[key]: each for each in self._select(table, columns, Field("id").in_(ids))}
        return [decode_row(columns, stored[id]) if id in stored else None for id in ids]

    def find(
        self, table: Table, where: Filter | None, order: Sequence[Order], limit: int | None, *, vectors: bool
    ) -> list[Row]:
        columns = _columns(table, vectors=vectors)
        return [decode_row(columns, each) for each in self._select(table, columns, where, order, limit)]

    def count(self, table: Table, where: Filter | None) -> int:
        ((count,),) = self._read("count(*)", table, where)
        return int(count)

    def page(
        self, table: Table, where: Filter | None, names: Sequence[str] | None, after: str | None, rows: int
    ) -> tuple[pa.RecordBatch, str] | None:
        """Return the next rows after an id, and their last id; None at the end."""
        import pyarrow as pa  # slow to import, and only scans need it

        if after is not None:
            where = Field("id") > after if where is None else where & (Field("id") > after)
        schema = table.arrow_schema(names)
        columns = [table.column(name) for name in schema.names]
        if not (found := self._select(table, [*columns, table.column("id")], where, limit=rows)):
            return None
        *values, ids = zip(*found, strict=True)
        arrays = [
            pa.array([arrow_value(column, each) for each in stored], kind)
            for column, stored, kind in zip(columns, values, schema.types, strict=True)
        ]
        return pa.record_batch(arrays, schema=schema), ids[-1]

    def commit(self, batch: Sequence[Write]) -> Position | None:
        with self._transaction():
            positions = [self._write(write) for write in batch]
        return next(filter(None, positions), None)

    def health(self) -> Health:
        query = "SELECT sqlite_version(), page_count * page_size FROM pragma_page_count, pragma_page_size"
        ((version, size),) = self._sqlite.execute(query)
        return Health(ok=True, engine=f"SQLite {version}", details={"bytes": size})

    def maintain(self) -> Mapping[str, Detail]:
        self._sqlite.execute("PRAGMA optimize")  # updates statistics
        ((_, logged, moved),) = self._sqlite.execute("PRAGMA wal_checkpoint")
        return {"log_pages": logged, "moved_pages": moved}

    def execute(self, statement: str, parameters: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        try:
            cursor = self._sqlite.execute(statement, parameters or {})
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor]
        finally:
            self._sqlite.rollback()  # a transaction left open would block writers

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run a transaction that holds the write lock from its start."""
        try:
            self._sqlite.execute("BEGIN IMMEDIATE")
            yield
            try:
                self._sqlite.execute("COMMIT")
            except sqlite3.Error as error:
                message = f"SQLite failed to commit ({error}). The batch may have taken effect: check the records."
                raise StorageError(message) from error
        finally:
            self._sqlite.rollback()  # does nothing after COMMIT

    def _predicate(self, number: int, stored: Any) -> bool:
        """Evaluate a predicate of the current query, for SQLite."""
        return self._query is not None and self._query.predicates[number](stored)

    def _read(self, selected: str, table: Table, where: Filter | None, tail: str = "", *bound: Any) -> list[Any]:
        self._query = Query(table, where)
        statement = f"SELECT {selected} FROM {quoted([table.name])} WHERE {self._query.condition} {tail}"
        return self._sqlite.execute(statement, [*self._query.parameters, *bound]).fetchall()

    def _select(
        self,
        table: Table,
        columns: Sequence[Column],
        where: Filter | None,
        order: Sequence[Order] = (),
        limit: int | None = None,
    ) -> list[Any]:
        tail = f"{order_by(order)} LIMIT ?"
        return self._read(quoted(each.name for each in columns), table, where, tail, -1 if limit is None else limit)

    def newest(self) -> Position:
        found = self._sqlite.execute(f"SELECT sequence, id FROM {COMMIT_LOG.name} ORDER BY sequence DESC LIMIT 1")
        return Position(*(found.fetchone() or (0,)))

    def _write(self, write: Write) -> Position | None:
        table = write.table
        if isinstance(write, Append):
            position = Position(self.newest().sequence + 1, write.row["id"])
            self._store(table, position.token, write.row | {"sequence": position.sequence}, new=True)
            return position
        if isinstance(write, CheckNone):
            if self.count(table, write.where):
                raise ConflictError(table.name, str(write.where), None)
            return None
        id = write.row["id"] if isinstance(write, Insert | Put) else write.id
        ((revision,),) = self._read("max(revision)", table, Field("id") == id)  # None if missing
        match write:
            case Insert() if revision is not None:
                raise AlreadyExistsError(table.name, {"id": id})
            case Insert(_, row) | Put(_, row):
                self._store(table, id, row, new=revision is None)
            case Check(revision=0):
                if revision is not None:
                    raise ConflictError(table.name, id, None)
            case Patch() | Delete() | Check():
                if write.revision not in (None, revision):
                    raise ConflictError(table.name, id, write.revision)
                if revision is None and not isinstance(write, Delete):
                    raise NotFoundError(table.name, id)
                if isinstance(write, Delete):
                    self._sqlite.execute(f"DELETE FROM {quoted([table.name])} WHERE id = ?", [id])
                elif isinstance(write, Patch):
                    self._store(table, id, write.changes, new=False)
        return None

    def _store(self, table: Table, id: str, values: Row, *, new: bool) -> None:
        """Insert a new row, or update columns of an existing one."""
        stored = [encode(table.column(name), value) for name, value in values.items()]
        if new:
            marks = ", ".join("?" * len(values))
            statement = f"INSERT INTO {quoted([table.name])} ({quoted(values)}) VALUES ({marks})"
        else:
            changes = ", ".join(f"{quoted([name])} = ?" for name in values) or '"id" = "id"'
            statement = f"UPDATE {quoted([table.name])} SET {changes} WHERE id = ?"
            stored.append(id)
        try:
            self._sqlite.execute(statement, stored)
        except sqlite3.IntegrityError:
            before = {} if new else self.find(table, Field("id") == id, (), None, vectors=False)[0]
            self._check_unique(table, id, before | values)
            raise

    def _check_unique(self, table: Table, id: str, row: Row) -> None:
        for key in table.unique:
            values = {name: row[name] for name in key}
            same = [Field(name) == value for name, value in values.items()]
            if self.count(table, And((*same, Field("id") != id))):
                raise AlreadyExistsError(table.name, values)


def _columns(table: Table, *, vectors: bool) -> list[Column]:
    return [column for column in table.columns if vectors or column.kind is not Kind.VECTOR]
