"""Converts rows to Arrow and back: the form of `pattern_core.schema.Table.arrow_schema`, with vectors of fixed length."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa

from pattern_core.abc import Row
from pattern_core.errors import StorageError, shorten
from pattern_core.schema import Column, Kind, Table

__all__ = ["check", "decode", "encode", "indexed_columns", "stored_schema"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TYPES: Final[Mapping[Kind, type | tuple[type, ...]]] = {
    Kind.TEXT: str,
    Kind.INTEGER: int,
    Kind.NUMBER: (float, int),
    Kind.BOOLEAN: bool,
    Kind.TIME: datetime,
    Kind.OBJECT: dict,
    Kind.OBJECTS: list,
    Kind.TEXTS: list,
    Kind.VECTOR: np.ndarray,
}


def stored_schema(table: Table, dimensions: int) -> pa.Schema:
    """Return the Arrow schema of a Lance table."""
    schema = table.arrow_schema()
    if table.vector is None:
        return schema
    vector = pa.field(table.vector.name, pa.list_(pa.float32(), dimensions), nullable=table.vector.optional)
    return schema.set(schema.get_field_index(vector.name), vector)


def indexed_columns(table: Table) -> tuple[str, ...]:
    """Return the columns that get a scalar index: the id, and those of unique keys, indexes and the partition."""
    names = ["id", *(name for key in (*table.unique, *table.indexes) for name in key)]
    if table.partition:
        names.append(table.partition)
    return tuple(dict.fromkeys(names))


def encode(table: Table, rows: Sequence[Row], schema: pa.Schema) -> pa.RecordBatch:
    """Convert rows to Arrow.

    Args:
        table: The table.
        rows: Rows that `check` accepts.
        schema: The schema of the Lance table, from `stored_schema`.

    Raises:
        StorageError: A value cannot be stored.
    """
    arrays = [_encode(table, table.column(field.name), [row[field.name] for row in rows], field) for field in schema]
    return pa.record_batch(arrays, schema=schema)


def check(table: Table, row: Row) -> None:
    """Raise `StorageError` if a row lacks a column, has another one, or has a value of the wrong kind."""
    if row.keys() != {column.name for column in table.columns}:
        raise StorageError(f"{table.name} expects every column and no other, got {shorten(sorted(row))}")
    for column in table.columns:
        value = row[column.name]
        fits = column.optional if value is None else isinstance(value, _TYPES[column.kind])
        if not fits or (isinstance(value, bool) and column.kind is not Kind.BOOLEAN):
            message = (
                f"{table.name}.{column.name} expects {column.kind.value}, got {shorten(value)}. Nothing was written."
            )
            raise StorageError(message)


def _encode(table: Table, column: Column, values: list[Any], field: pa.Field) -> pa.Array:
    where = f"{table.name}.{column.name}"
    try:
        if column.kind in {Kind.OBJECT, Kind.OBJECTS}:
            texts = [None if value is None else _to_json(value) for value in values]
            return pa.array(texts, field.type)
        if column.kind is Kind.VECTOR:
            return _to_vectors(values, field.type)
        return pa.array(values, field.type)
    except (pa.ArrowException, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise StorageError(f"{where} cannot be stored: {error}. Nothing was written.") from error


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _to_vectors(values: list[Any], type: pa.DataType) -> pa.Array:
    width = type.list_size
    if any(value is not None and value.shape != (width,) for value in values):
        raise ValueError(f"expected vectors of {width} dimensions")
    blank = np.zeros(width, dtype=np.float32)
    flat = np.concatenate([blank if value is None else value.astype(np.float32, copy=False) for value in values])
    nulls = pa.array([value is None for value in values])
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=type, mask=nulls)


def decode(table: Table, batch: pa.RecordBatch | pa.Table, names: Collection[str]) -> list[Row]:
    """Convert Arrow to rows.

    Args:
        table: The table.
        batch: The rows; it may have more columns.
        names: The columns to read.

    Returns:
        The rows. They share nothing with each other or the batch.
    """
    if isinstance(batch, pa.Table):
        return [row for each in batch.to_batches() for row in decode(table, each, names)]
    columns = [column for column in table.columns if column.name in names]
    values = [_decode(column, batch.column(column.name)) for column in columns]
    keys = [column.name for column in columns]
    return [dict(zip(keys, row, strict=True)) for row in zip(*values, strict=True)]


def _decode(column: Column, array: pa.Array) -> list[Any]:
    match column.kind:
        case Kind.OBJECT | Kind.OBJECTS:
            return [None if text is None else json.loads(text) for text in array.to_pylist()]
        case Kind.TIME:
            ticks = array.cast(pa.int64()).to_pylist()
            return [None if tick is None else _EPOCH + timedelta(microseconds=tick) for tick in ticks]
        case Kind.VECTOR:
            return _from_vectors(array)
        case _:
            values: list[Any] = array.to_pylist()
            return values


def _from_vectors(array: pa.Array) -> list[Any]:
    width, start = array.type.list_size, array.offset
    flat = array.values.to_numpy(zero_copy_only=False)[start * width : (start + len(array)) * width]
    valid = array.is_valid().to_pylist()
    return [row.copy() if there else None for row, there in zip(flat.reshape(-1, width), valid, strict=True)]
