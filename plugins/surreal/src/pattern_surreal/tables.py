"""The statements that create and remove tables, columns and indexes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pattern_core.schema import Column, Kind, Table

from .dialect import name

__all__ = ["create_table", "define_field", "drop_table", "index_columns"]

_TYPES: Final = {
    Kind.TEXT: "string",
    Kind.INTEGER: "int",
    Kind.NUMBER: "float",
    Kind.BOOLEAN: "bool",
    Kind.TIME: "datetime",
    Kind.OBJECT: "object",
    Kind.OBJECTS: "array<object>",
    Kind.TEXTS: "array<string>",
    Kind.VECTOR: "bytes",
}
_FREE_FORM: Final = frozenset({Kind.OBJECT, Kind.OBJECTS})


def create_table(table: Table) -> list[str]:
    """Return the statements that create what is missing of a table: its columns, unique keys and indexes."""
    at = name(table.name)
    statements = [f"DEFINE TABLE IF NOT EXISTS {at} TYPE NORMAL SCHEMAFULL"]
    statements += [each for column in table.columns if column.name != "id" for each in define_field(table, column)]
    for columns in (*table.unique, *table.indexes):
        unique = " UNIQUE" if columns in table.unique else ""
        fields = ", ".join(name(each) for each in columns)
        index = name(_index_name(columns))
        statements.append(f"DEFINE INDEX IF NOT EXISTS {index} ON {at} FIELDS {fields}{unique}")
    return statements


def define_field(table: Table, column: Column) -> list[str]:
    """Return the statements that create a column of a table if it is missing."""
    at, of = name(table.name), name(column.name)
    free = " FLEXIBLE" if column.kind in _FREE_FORM else ""
    kind = f"option<{_TYPES[column.kind]}>" if column.optional else _TYPES[column.kind]
    statements = [f"DEFINE FIELD IF NOT EXISTS {of} ON {at} TYPE {kind}{free}"]
    if column.kind is Kind.OBJECTS:  # in SurrealDB 3.0, FLEXIBLE does not extend to objects in an array
        statements.append(f"DEFINE FIELD OVERWRITE {of}.* ON {at} TYPE object FLEXIBLE")
    return statements


def drop_table(table: Table) -> list[str]:
    """Return the statements that remove a table with everything in it."""
    return [f"REMOVE TABLE IF EXISTS {name(table.name)}"]


def index_columns(table: Table, index: str) -> tuple[str, ...] | None:
    """Return the columns of the unique key that an index belongs to."""
    return next((columns for columns in table.unique if _index_name(columns) == index), None)


def _index_name(columns: Sequence[str]) -> str:
    return "by_" + "_and_".join(columns)
