"""The storage on SurrealDB, for every transport."""

# ruff: noqa: S608 - the names in the statements come from the schema, and every value is bound

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pattern_core.abc import Append, Health, Insert, Patch, Position, Row, Storage, Write
from pattern_core.errors import PatternError, StorageError
from pattern_core.filters import And, Compare, Filter, Op
from pattern_core.schema import AlterTable, Column, CreateTable, Kind, Order, SchemaStep, Table

from .array_column import (
    ID_BLOCK,
    clear_and_remove,
    drop_array_column,
    is_outdated,
    reload_columns,
    set_state,
    with_column_check,
)
from .commit import ArrayColumns, Transaction, explain, failed_write, is_thrown, plan
from .connection import Connection, StatementError, closed
from .dialect import Parameters, name, order_by, source, where_clause
from .tables import create_table, define_field, drop_table
from .values import decode_row, record, record_batch, record_range

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SurrealStorage"]

_ANY: Final = " WHERE `id` != NONE"
"""Follows a list of records without a condition, which SurrealDB 3.0 rejects."""
_RELOADS: Final = 3
"""How often a commit is repeated because another process has just added or removed an array column."""
_INLINE_ROWS: Final = 200
"""Up to so many rows are decoded on the event loop, in about a millisecond; more in a thread."""


class SurrealStorage(Storage):
    """Records in a SurrealDB database.

    Args:
        connection: The connection. It is closed with the storage.

    Attributes:
        array_columns: The array columns that commits write.
    """

    _internal_tables: frozenset[str] = frozenset()
    _shared = False
    """Whether other processes may write, and add or remove array columns."""

    def __init__(self, connection: Connection) -> None:
        self.array_columns: ArrayColumns = {}
        self._connection = connection
        self._closed = False
        self._known: frozenset[str] = frozenset()

    async def query(self, text: str, variables: Mapping[str, Any] | None = None) -> list[Any]:
        """Run statements that read, and return their results."""
        if self._closed:
            raise closed()
        return await self._connection.query(text, variables or {})

    async def transact(self, make: Callable[[], Transaction]) -> list[Any]:
        """Run one transaction.

        Args:
            make: Makes the transaction. It is called when the transaction may start.

        Returns:
            The answers of the engine.
        """
        transaction = make()
        text = ";\n".join(["BEGIN", *transaction.statements, "COMMIT"]) + ";"
        return await self.query(text, transaction.variables)

    async def tables(self) -> frozenset[str]:
        [info] = await self.query("INFO FOR DB")
        self._known = frozenset(info["tables"])
        return self._known - self._internal_tables

    async def apply_schema(self, step: SchemaStep) -> None:
        table = step.table
        if isinstance(step, AlterTable):
            await self._alter(step)
            return

        def make() -> Transaction:
            if isinstance(step, CreateTable):
                return self._creation(table)
            self.array_columns = {each: made for each, made in self.array_columns.items() if each != table.name}
            return self._removal(table)

        await self.transact(make)
        self._known -= {table.name}

    def _creation(self, table: Table) -> Transaction:
        """Return the statements that create a table; a transport may extend this and the next two."""
        return Transaction(create_table(table), {}, [])

    def _removal(self, table: Table) -> Transaction:
        return Transaction([*drop_table(table), set_state(table.name, None)], {}, [])

    def _number(self, write: Append) -> Insert:
        """Return an appended row with its number. Called when this transaction's turn has come."""
        raise StorageError(f"{write.table.name}: this transport does not number rows")

    def _plan(self, batch: Sequence[Write], *, grouped: bool) -> Transaction:
        numbered = [self._number(write) if isinstance(write, Append) else write for write in batch]
        return plan(numbered, self.array_columns, grouped=grouped)

    async def _alter(self, step: AlterTable) -> None:
        before, after = ({column.name: column for column in table.columns} for table in (step.before, step.after))
        gone = [column for name, column in before.items() if name not in after]
        if any(column.kind is Kind.VECTOR for column in gone):
            await drop_array_column(self, step.table.name, wait_for=step.before)
        for column in gone:
            await clear_and_remove(self, step.table.name, column.name)
        new = [column for name, column in after.items() if name not in before]
        added = [each for column in new for each in define_field(step.table, column)]
        if added:
            await self.transact(lambda: Transaction(added, {}, []))

    async def get(self, table: Table, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        await self._check_table(table)
        if not ids:
            return []
        columns = _columns(table, vectors=vectors)
        bound = [record(table, id) for id in dict.fromkeys(ids)]
        [found] = await self.query(f"SELECT {_names(columns)} FROM $ids{_ANY}", {"ids": bound})
        rows = {row["id"].id: row for row in found}
        wanted = [rows.get(id) for id in ids]  # rows belong to the caller, so a repeated id is decoded again
        decoded = iter(await _decode(columns, [row for row in wanted if row is not None]))
        return [None if row is None else next(decoded) for row in wanted]

    async def find(
        self,
        table: Table,
        where: Filter | None = None,
        *,
        order: Sequence[Order] = (),
        limit: int | None = None,
        vectors: bool = False,
    ) -> list[Row]:
        await self._check_table(table)
        if limit is not None and limit < 1:
            return []
        columns = _columns(table, vectors=vectors)
        parameters = Parameters()
        names = _names(columns)
        text = f"SELECT {names} {_selected(names, table, where, parameters)}{order_by(table, order)}"
        if limit is not None:
            text += f" LIMIT {parameters.bind(limit)}"
        [found] = await self.query(parameters.statement(text), parameters.values)
        return await _decode(columns, found)

    async def count(self, table: Table, where: Filter | None = None) -> int:
        await self._check_table(table)
        parameters = Parameters()
        selected = _source(table, where, parameters)
        if selected.startswith("FROM $"):  # `count() … GROUP ALL` counts only tables
            [found] = await self.query(parameters.statement(f"SELECT VALUE `id` {selected}"), parameters.values)
            return len(found)
        [groups] = await self.query(f"SELECT count() {selected} GROUP ALL", parameters.values)
        return int(groups[0]["count"]) if groups else 0

    async def scan(
        self,
        table: Table,
        where: Filter | None = None,
        *,
        columns: Sequence[str] | None = None,
        batch_rows: int = 1024,
    ) -> AsyncIterator[pa.RecordBatch]:
        # The engine reads a range or a list of ids directly, but scans everything before x for `id > x LIMIT n`. So a
        # scan first reads the ids, then the records.
        await self._check_table(table)
        names = [column.name for column in table.columns if columns is None or column.name in columns]
        picked = ", ".join("record::id(`id`) AS `id`" if each == "id" else name(each) for each in names)
        wanted = picked if "id" in names else f"record::id(`id`) AS `id`, {picked}".rstrip(", ")
        last: str | None = None
        while block := await self._next_ids(table, where, last):
            last = block[-1]
            for start in range(0, len(block), batch_rows):
                page = block[start : start + batch_rows]
                parameters = Parameters()
                if where is None:
                    at = parameters.bind(record_range(table, page[0], page[-1]))
                else:
                    at = parameters.bind([record(table, id) for id in page])
                condition = where_clause(table, where, parameters)
                [rows] = await self.query(f"SELECT {wanted} FROM {at}{condition} ORDER BY `id`", parameters.values)
                known = set(page)  # the range may hold new records
                rows = [row for row in rows if row["id"] in known]
                if rows:
                    yield await asyncio.to_thread(record_batch, table, columns, rows)

    async def _next_ids(self, table: Table, where: Filter | None, last: str | None) -> list[str]:
        if last is not None:
            later = Compare(("id",), Op.GT, last)
            where = later if where is None else And((where, later))
        parameters = Parameters()
        limit = parameters.bind(ID_BLOCK)
        text = f"SELECT VALUE `id` {_selected('`id`', table, where, parameters)} ORDER BY `id` LIMIT {limit}"
        [ids] = await self.query(parameters.statement(text), parameters.values)
        return [each.id for each in ids]

    async def commit(self, batch: Sequence[Write]) -> Position | None:
        await self._write(batch)
        return None

    async def _write(self, batch: Sequence[Write]) -> list[Any]:
        """Commit a batch, and return the engine's answers; none if it is not known what they were."""
        for table in {write.table.name: write.table for write in batch}.values():
            await self._check_table(table)
        if not batch:
            return await self.query("RETURN NONE")
        answers, failure = await self._apply(batch, grouped=True)
        if failure is not None and len(batch) > 1 and not is_thrown(failure[1]):
            # The engine does not tell which row of an INSERT it rejected. Nothing was written, so the batch is repeated
            # with a statement for each write.
            answers, failure = await self._apply(batch, grouped=False)
        if failure is not None:
            raise await self._explain(batch, *failure) from None
        return answers

    async def _apply(
        self, batch: Sequence[Write], *, grouped: bool
    ) -> tuple[list[Any], tuple[int, StatementError] | None]:
        planned: list[Transaction] = []

        def make() -> Transaction:
            transaction = self._plan(batch, grouped=grouped)
            planned.append(with_column_check(transaction, batch, self.array_columns) if self._shared else transaction)
            return planned[-1]

        for attempt in range(_RELOADS + 1):
            try:
                return await self.transact(make), None
            except StatementError as error:
                if is_outdated(error) and attempt < _RELOADS:
                    await reload_columns(self, (write.table.name for write in batch))
                    continue
                place = failed_write(planned[-1], error) if planned else None
                if place is None:
                    raise
                return [], (place, error)
        raise AssertionError  # the last attempt returns or raises

    async def _explain(self, batch: Sequence[Write], place: int, error: StatementError) -> PatternError:
        write = batch[place]
        before = (await self.get(write.table, [write.id]))[0] if isinstance(write, Patch) else None
        return explain(batch, place, error, before)

    async def health(self) -> Health:
        tables = await self.tables()
        return Health(ok=True, engine=self._connection.engine, details={"tables": len(tables)})

    async def execute(self, statement: str, parameters: Mapping[str, Any] | None = None) -> Any:
        results = await self.query(statement, parameters)
        return results[0] if len(results) == 1 else results

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await self._connection.aclose()

    async def _check_table(self, table: Table) -> None:
        """Raise `StorageError` for a missing table: the engine would create one without a schema on the first write."""
        if self._closed or table.name not in self._known:
            await self.tables()
            if table.name not in self._known:
                raise StorageError(f"there is no table {table.name}. Create it with apply_schema.")


def _columns(table: Table, *, vectors: bool) -> list[Column]:
    return [column for column in table.columns if vectors or column.kind is not Kind.VECTOR]


def _names(columns: Sequence[Column]) -> str:
    return ", ".join(name(column.name) for column in columns)


def _source(table: Table, where: Filter | None, parameters: Parameters) -> str:
    at, rest = source(table, where, parameters)
    condition = where_clause(table, rest, parameters)
    return f"FROM {at}{condition or _ANY}" if at.startswith("$") else f"FROM {at}{condition}"


def _selected(columns: str, table: Table, where: Filter | None, parameters: Parameters) -> str:
    """Return a FROM clause that can be ordered: SurrealDB 3.0 rejects ORDER BY on a list of records."""
    chosen = _source(table, where, parameters)
    return f"FROM (SELECT {columns} {chosen})" if chosen.startswith("FROM $") else chosen


async def _decode(columns: Sequence[Column], found: Sequence[Mapping[str, Any]]) -> list[Row]:
    def decode() -> list[Row]:
        return [decode_row(columns, row) for row in found]

    return decode() if len(found) <= _INLINE_ROWS else await asyncio.to_thread(decode)
