"""Conversion of column values to and from SQLite, without loss."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np

from pattern_core.abc import Row
from pattern_core.schema import Column, Kind

__all__ = ["JSON_KINDS", "arrow_value", "decode", "decode_row", "encode", "since_epoch"]

JSON_KINDS: Final = frozenset({Kind.OBJECT, Kind.OBJECTS, Kind.TEXTS})
MICROSECOND: Final = timedelta(microseconds=1)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
FLOAT32: Final = np.dtype("<f4")


def since_epoch(time: datetime) -> int:
    """Return a time as the number of microseconds since 1970."""
    return (time - EPOCH) // MICROSECOND


_ENCODE: Final[Mapping[Kind, Callable[[Any], Any]]] = {
    Kind.NUMBER: float,
    Kind.BOOLEAN: int,
    Kind.TIME: since_epoch,
    Kind.VECTOR: lambda vector: vector.astype(FLOAT32).tobytes(),
    **dict.fromkeys(JSON_KINDS, lambda value: json.dumps(value, ensure_ascii=False, allow_nan=False)),
}
_DECODE: Final[Mapping[Kind, Callable[[Any], Any]]] = {
    Kind.BOOLEAN: bool,
    Kind.TIME: lambda microseconds: EPOCH + microseconds * MICROSECOND,
    Kind.VECTOR: lambda data: np.frombuffer(data, FLOAT32).astype(np.float32),
    **dict.fromkeys(JSON_KINDS, json.loads),
}


def encode(column: Column, value: Any) -> Any:
    """Return the value to store; None is null."""
    return value if value is None or column.kind not in _ENCODE else _ENCODE[column.kind](value)


def decode(column: Column, stored: Any) -> Any:
    """Return the value from a stored one, the inverse of `encode`."""
    return stored if stored is None or column.kind not in _DECODE else _DECODE[column.kind](stored)


def decode_row(columns: Sequence[Column], stored: Sequence[Any]) -> Row:
    """Return a row from stored values, in the order of the columns."""
    return {column.name: decode(column, each) for column, each in zip(columns, stored, strict=True)}


def arrow_value(column: Column, stored: Any) -> Any:
    """Return a stored value as Arrow takes it: JSON remains a text."""
    return stored if column.kind in (Kind.OBJECT, Kind.OBJECTS) else decode(column, stored)
