"""Valid rows, vectors and tables for tests."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from typing import Any, Final

import attrs
import numpy as np

from pattern_core.abc import Row, Vector
from pattern_core.catalog.tables import vector_table
from pattern_core.schema import COMMIT_LOG, TABLES, Column, Kind, Table

__all__ = ["DIMENSIONS", "KIT_TABLES", "NOON", "TASKS", "VECTORS", "sample_row", "sample_vector"]

DIMENSIONS: Final = 8
"""The length of the vectors in the kit's rows."""

NOON: Final = datetime(2024, 2, 29, 12, 0, 0, 123_457, tzinfo=UTC)
"""A time with six significant digits of microseconds."""

TASKS: Final = attrs.evolve(
    TABLES["tasks"],
    name="kit_tasks",
    columns=(*TABLES["tasks"].columns, Column("embedding", Kind.VECTOR, optional=True)),
)
"""A table with columns of most kinds, among them an optional vector."""

VECTORS: Final = vector_table(TABLES["memory_blocks"], 1)
"""A vector table as core creates it."""

KIT_TABLES: Final = (*TABLES.values(), VECTORS, TASKS, COMMIT_LOG)
"""The tables that the kit creates."""

_CHOICES: Final = {"role": "user", "status": "pending", "priority": "medium", "energy_required": "medium"}


def sample_vector(seed: str, dimensions: int = DIMENSIONS) -> Vector:
    """Return a vector that depends only on the seed.

    Args:
        seed: Any text.
        dimensions: The vector's length.

    Returns:
        A float32 array, shape ``[dimensions]``, not normalized and not all zeros.
    """
    generator = np.random.default_rng(zlib.crc32(seed.encode()))
    return generator.standard_normal(dimensions).astype(np.float32)


def sample_row(table: Table, id: str, **columns: Any) -> Row:
    """Return a valid row of a table.

    Args:
        table: The table.
        id: The id. Rows with different ids have different unique keys.
        columns: Values of columns. Other optional columns are null.

    Returns:
        The row, with every column of the table.
    """
    row: Row = {column.name: None if column.optional else _value(column, id) for column in table.columns}
    for name in columns:
        table.column(name)  # rejects a misspelled name
    return row | {"id": id} | columns


def _value(column: Column, id: str) -> Any:
    match column.kind:
        case Kind.TEXT if column.name in _CHOICES:
            return _CHOICES[column.name]
        case Kind.TEXT if column.name.endswith("_id"):
            return f"{column.name.removesuffix('_id')}-1"
        case Kind.TEXT:
            return f"{column.name} of {id}"
        case Kind.INTEGER:
            return 1
        case Kind.NUMBER:
            return 1.5
        case Kind.BOOLEAN:
            return True
        case Kind.TIME:
            return NOON
        case Kind.OBJECT:
            return {"of": id}
        case Kind.OBJECTS | Kind.TEXTS:
            return []
        case Kind.VECTOR:
            return sample_vector(id)
