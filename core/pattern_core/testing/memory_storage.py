"""An in-memory storage: simple, strict and correct, for tests that need no engine."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np

from pattern_core.abc import (
    Append,
    Check,
    CheckNone,
    Delete,
    Health,
    Insert,
    Patch,
    Position,
    Put,
    Row,
    Storage,
    Write,
)
from pattern_core.errors import AlreadyExistsError, ClosedError, ConflictError, NotFoundError, StorageError, shorten
from pattern_core.filters import Filter, matches
from pattern_core.hookspecs import StorageSpec
from pattern_core.schema import AlterTable, Column, CreateTable, DropTable, Kind, Order, SchemaStep, Table

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MemoryData", "MemoryOptions", "MemoryStorage", "memory_storage"]

MemoryData = dict[str, dict[str, Row]]
"""The data of a `MemoryStorage`: rows by table and id."""

_PYTHON_TYPES: Final[Mapping[Kind, type]] = {
    Kind.TEXT: str,
    Kind.INTEGER: int,
    Kind.NUMBER: float,
    Kind.BOOLEAN: bool,
    Kind.TIME: datetime,
    Kind.OBJECT: dict,
    Kind.OBJECTS: list,
    Kind.TEXTS: list,
    Kind.VECTOR: np.ndarray,
}


class MemoryStorage(Storage):
    """A storage in a dict: simple, strict and correct, for tests.

    Args:
        data: The dict to keep the rows in; None for a new one. Another storage with the same dict finds the rows.

    Attributes:
        uri: A text that identifies the dict.
    """

    def __init__(self, data: MemoryData | None = None) -> None:
        self._data: MemoryData | None = {} if data is None else data
        self.uri = f"memory:{id(self._data)}"

    async def tables(self) -> frozenset[str]:
        return frozenset(self._open())

    async def apply_schema(self, step: SchemaStep) -> None:
        data = self._open()
        match step:
            case CreateTable(table):
                data.setdefault(table.name, {})
            case DropTable(table):
                data.pop(table.name, None)
            case AlterTable(_, after):
                names = [column.name for column in after.columns]
                rows = self._rows(after)
                data[after.name] = {id: {name: row.get(name) for name in names} for id, row in rows.items()}

    async def get(self, table: Table, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        rows = self._rows(table)
        return [_copy(table, rows[id], vectors=vectors) if id in rows else None for id in ids]

    async def find(
        self,
        table: Table,
        where: Filter | None = None,
        *,
        order: Sequence[Order] = (),
        limit: int | None = None,
        vectors: bool = False,
    ) -> list[Row]:
        found = self._select(table, where)
        for key in reversed(order):
            found.sort(key=lambda row: _rank(row[key.column]), reverse=key.descending)
        return [_copy(table, row, vectors=vectors) for row in found[:limit]]

    async def count(self, table: Table, where: Filter | None = None) -> int:
        return len(self._select(table, where))

    async def scan(
        self,
        table: Table,
        where: Filter | None = None,
        *,
        columns: Sequence[str] | None = None,
        batch_rows: int = 1024,
    ) -> AsyncIterator[pa.RecordBatch]:
        import pyarrow as pa

        schema = table.arrow_schema(columns)
        chosen = [table.column(name) for name in schema.names]
        rows = self._select(table, where)
        for start in range(0, len(rows), batch_rows):
            self._open()
            page = rows[start : start + batch_rows]
            values = [[_arrow(column, row[column.name]) for row in page] for column in chosen]
            yield pa.record_batch([pa.array(*each) for each in zip(values, schema.types, strict=True)], schema=schema)

    async def commit(self, batch: Sequence[Write]) -> Position | None:
        position = None
        data = self._open()
        # Rows are replaced, never changed, so copying the dicts is enough to undo the batch.
        after = {name: dict(self._rows(write.table)) for write in batch for name in [write.table.name]}
        for write in batch:
            if isinstance(write, Append):
                rows = after[write.table.name]
                sequence = 1 + max((row["sequence"] for row in rows.values()), default=0)
                write = Insert(write.table, write.row | {"sequence": sequence})  # noqa: PLW2901
                position = Position(sequence, write.row["id"])
            _apply(after[write.table.name], write)
        data.update(after)
        return position

    async def health(self) -> Health:
        data = self._open()
        return Health(ok=True, engine="memory", details={"records": sum(map(len, data.values()))})

    async def execute(self, statement: str, parameters: Mapping[str, Any] | None = None) -> Any:
        self._open()
        raise StorageError(f"the in-memory storage has no query language, got {shorten(statement)}. Use its methods.")

    async def aclose(self) -> None:
        self._data = None

    def _open(self) -> MemoryData:
        if self._data is None:
            raise ClosedError("the in-memory storage is closed. Open it again.")
        return self._data

    def _rows(self, table: Table) -> dict[str, Row]:
        try:
            return self._open()[table.name]
        except KeyError:
            raise StorageError(f"there is no table {table.name}. Create it with apply_schema.") from None

    def _select(self, table: Table, where: Filter | None) -> list[Row]:
        rows = self._rows(table)
        return [rows[id] for id in sorted(rows) if matches(where, rows[id])]


def _apply(rows: dict[str, Row], write: Write) -> None:
    table = write.table
    match write:
        case Insert(_, row):
            if row["id"] in rows:
                raise AlreadyExistsError(table.name, {"id": row["id"]})
            _store(table, rows, row)
        case Put(_, row):
            _store(table, rows, row)
        case Patch(_, id, changes, revision):
            _expect(table, rows.get(id), id, revision, must_exist=True)
            _store(table, rows, rows[id] | changes)
        case Delete(_, id, revision):
            _expect(table, rows.get(id), id, revision, must_exist=False)
            rows.pop(id, None)
        case CheckNone(_, where):
            if any(matches(where, row) for row in rows.values()):
                raise ConflictError(table.name, str(where), None)
        case Check(_, id, 0):
            if id in rows:
                raise ConflictError(table.name, id, None)
        case Check(_, id, revision):
            _expect(table, rows.get(id), id, revision, must_exist=True)


def _expect(table: Table, row: Row | None, id: str, revision: int | None, *, must_exist: bool) -> None:
    if revision is not None and (row is None or row["revision"] != revision):
        raise ConflictError(table.name, id, revision)
    if row is None and must_exist:
        raise NotFoundError(table.name, id)


def _store(table: Table, rows: dict[str, Row], row: Row) -> None:
    _check(table, row)
    for key in table.unique:
        values = {name: row[name] for name in key}
        if any(other["id"] != row["id"] and values.items() <= other.items() for other in rows.values()):
            raise AlreadyExistsError(table.name, values)
    rows[row["id"]] = copy.deepcopy(row)


def _check(table: Table, row: Row) -> None:
    """Reject a row that a strict database rejects, so that tests without one find the mistake."""
    if wrong := row.keys() ^ {column.name for column in table.columns}:
        raise StorageError(
            f"a row of {table.name} has exactly its columns. Missing or unknown: {shorten(sorted(wrong))}."
        )
    for column in table.columns:
        value = row[column.name]
        fits = column.optional if value is None else isinstance(value, _PYTHON_TYPES[column.kind])
        if not fits or (isinstance(value, bool) and column.kind is not Kind.BOOLEAN):
            message = f"{table.name}.{column.name} is of kind {column.kind.value}, got {shorten(value)}"
            raise StorageError(message)


def _copy(table: Table, row: Row, *, vectors: bool) -> Row:
    left_out = table.vector.name if table.vector and not vectors else None
    return {name: copy.deepcopy(value) for name, value in row.items() if name != left_out}


def _rank(value: Any) -> tuple[Any, ...]:
    return () if value is None else (value,)


def _arrow(column: Column, value: Any) -> Any:
    if value is not None and column.kind in (Kind.OBJECT, Kind.OBJECTS):
        return json.dumps(value, ensure_ascii=False)
    return value


@attrs.frozen(kw_only=True)
class MemoryOptions:
    """The options of the in-memory storage.

    Attributes:
        data: The dict that holds the rows.
    """

    data: MemoryData = attrs.field(factory=dict)


async def _open_memory(options: MemoryOptions) -> MemoryStorage:
    return MemoryStorage(options.data)


def memory_storage() -> StorageSpec:
    """Describe the in-memory storage, as the hook of a plugin does.

    Returns:
        The spec.
    """
    return StorageSpec(options=MemoryOptions, open=_open_memory, persistent=False, summary="a dict, for tests")
