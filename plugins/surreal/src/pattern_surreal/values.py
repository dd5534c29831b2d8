"""Converts rows to SurrealDB's values and back, without loss.

The engine has two null values: a column without a value is NONE (the SDK's ``None``), and a null inside JSON is NULL
(the SDK's ``Null``). Floats in an array cost twenty times as much as the same floats in bytes, so a vector is stored as
little-endian float32 bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from surrealdb import Null, RecordID
from surrealdb.data.types.range import BoundIncluded, Range

from pattern_core.abc import Row, Vector
from pattern_core.errors import StorageError, shorten
from pattern_core.schema import Column, Kind, Table

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "decode_row",
    "encode_row",
    "encode_value",
    "from_bytes",
    "record",
    "record_batch",
    "record_range",
    "to_bytes",
    "to_json_value",
]

_FLOAT32: Final = np.dtype("<f4")


def record(table: Table, id: str) -> RecordID:
    """Return the value to bind for a record's id. Ids are never part of a statement."""
    if not isinstance(id, str):
        raise StorageError(f"an id of {table.name} must be a text, got {shorten(id)}")
    return RecordID(table.name, id)


def record_range(table: Table, first: str, last: str) -> RecordID:
    """Return the value to bind for all ids from the first to the last, both included."""
    return RecordID(table.name, Range(BoundIncluded(first), BoundIncluded(last)))


def to_bytes(vector: Vector) -> bytes:
    """Return a vector, float32 ``[dimensions]``, as bytes."""
    return np.ascontiguousarray(vector, dtype=_FLOAT32).tobytes()


def from_bytes(data: bytes) -> Vector:
    """Return the vector, float32 ``[dimensions]``, that `to_bytes` wrote."""
    return np.frombuffer(data, dtype=_FLOAT32).astype(np.float32)


def to_json_value(value: Any) -> Any:
    """Convert a JSON value for the engine: None, at any depth, becomes NULL."""
    if value is None:
        return Null
    if isinstance(value, dict):
        return {key: to_json_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_value(each) for each in value]
    return value


def _from_json_value(value: Any) -> Any:
    if value is Null:
        return None
    if isinstance(value, dict):
        return {key: _from_json_value(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_from_json_value(each) for each in value]
    return value


def _to_time(value: datetime) -> datetime:
    return value.astimezone(UTC)


def _from_time(value: datetime) -> datetime:
    # The SDK's datetimes have nanoseconds.
    day = (value.year, value.month, value.day)
    return datetime(*day, value.hour, value.minute, value.second, value.microsecond, tzinfo=UTC)


_ENCODE: Final[Mapping[Kind, Callable[[Any], Any]]] = {
    Kind.NUMBER: float,
    Kind.TIME: _to_time,
    Kind.OBJECT: to_json_value,
    Kind.OBJECTS: to_json_value,
    Kind.TEXTS: list,
    Kind.VECTOR: to_bytes,
}
_DECODE: Final[Mapping[Kind, Callable[[Any], Any]]] = {
    Kind.NUMBER: float,
    Kind.TIME: _from_time,
    Kind.OBJECT: _from_json_value,
    Kind.OBJECTS: _from_json_value,
    Kind.TEXTS: list,
    Kind.VECTOR: from_bytes,
}


def encode_value(table: Table, name: str, value: Any) -> Any:
    """Return the engine's value for a column's value.

    Args:
        table: The table.
        name: The column's name.
        value: The value; None for null.

    Raises:
        StorageError: There is no such column, or the value is of another type.
    """
    column = next((column for column in table.columns if column.name == name), None)
    if column is None:
        raise StorageError(f"{table.name} has no column {shorten(name)}")
    if value is None:
        if not column.optional:
            raise StorageError(f"{table.name}.{name} is of kind {column.kind.value}, and must not be null")
        return None
    encode = _ENCODE.get(column.kind)
    try:
        return encode(value) if encode else value
    except (TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"{table.name}.{name} is of kind {column.kind.value}, got {shorten(value)}") from error


def encode_row(table: Table, row: Row) -> dict[str, Any]:
    """Return a whole row in the engine's values, the id as a record id.

    Raises:
        StorageError: A column is missing, there is one too many, or a value is of another type.
    """
    names = {column.name for column in table.columns}
    if row.keys() != names:
        raise StorageError(
            f"a row of {table.name} must have exactly the columns of the table. "
            f"Missing: {sorted(names - row.keys())}, unknown: {shorten(sorted(map(str, row.keys() - names)))}"
        )
    encoded = {name: encode_value(table, name, value) for name, value in row.items()}
    encoded["id"] = record(table, row["id"])
    return encoded


def decode_row(columns: Iterable[Column], raw: Mapping[str, Any]) -> Row:
    """Convert an answer of the engine to a row.

    Args:
        columns: The requested columns.
        raw: The engine's values by column. A missing one is null.
    """
    row: Row = {}
    for column in columns:
        value = raw.get(column.name)
        if column.name == "id":
            row["id"] = value.id if isinstance(value, RecordID) else value
        elif value is None or value is Null:
            row[column.name] = None
        else:
            decode = _DECODE.get(column.kind)
            row[column.name] = decode(value) if decode else value
    return row


def record_batch(table: Table, columns: Sequence[str] | None, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    """Convert an answer of the engine to an Arrow batch.

    Args:
        table: The table.
        columns: The requested columns; None for all.
        rows: The engine's values by column.

    Returns:
        The batch, with the schema ``table.arrow_schema(columns)``.
    """
    import pyarrow as pa  # importing takes 0.1 s, and most programs never stream

    schema = table.arrow_schema(columns)
    arrays = [_arrow_array(table.column(field.name), field.type, rows) for field in schema]
    return pa.record_batch(arrays, schema=schema)


def _arrow_array(column: Column, kind: pa.DataType, rows: Sequence[Mapping[str, Any]]) -> pa.Array:
    import pyarrow as pa

    if column.kind is Kind.VECTOR:  # from the bytes, without an object for each float
        chunks = [row.get(column.name) for row in rows]
        offsets = list(accumulate((len(chunk) // _FLOAT32.itemsize if chunk else 0 for chunk in chunks), initial=0))
        floats = np.frombuffer(b"".join(chunk for chunk in chunks if chunk), dtype=_FLOAT32)
        mask = pa.array([not chunk for chunk in chunks], pa.bool_())
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(floats), type=kind, mask=mask)
    values = [decode_row([column], row)[column.name] for row in rows]
    if column.kind in (Kind.OBJECT, Kind.OBJECTS):
        values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    return pa.array(values, kind)
