"""What a table is: its columns, its keys, and which filters and orders suit it."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import attrs

from pattern_core.errors import FilterError, nearest, shorten
from pattern_core.filters import And, Compare, Filter, Not, Op, Or

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Column", "Kind", "Order", "Table"]


class Kind(enum.Enum):
    """What a column holds, and the Python value that stands for it in a row."""

    TEXT = "text"
    """``str``"""
    INTEGER = "integer"
    """``int`` of 64 bits"""
    NUMBER = "number"
    """``float``, finite"""
    BOOLEAN = "boolean"
    """``bool``"""
    TIME = "time"
    """``datetime`` in UTC, to the microsecond"""
    OBJECT = "object"
    """``dict``: any JSON object, nulls and empty ones included"""
    OBJECTS = "objects"
    """``list`` of JSON objects"""
    TEXTS = "texts"
    """``list`` of ``str``"""
    VECTOR = "vector"
    """``numpy.ndarray`` of float32, shape ``[dimensions]``"""


_SCALARS: Final = {
    Kind.TEXT: (str,),
    Kind.INTEGER: (int, float),
    Kind.NUMBER: (int, float),
    Kind.BOOLEAN: (bool,),
    Kind.TIME: (datetime,),
}
_OPERATORS: Final = {
    Kind.TEXT: frozenset(Op),
    Kind.INTEGER: frozenset(Op) - {Op.CONTAINS, Op.STARTSWITH},
    Kind.NUMBER: frozenset(Op) - {Op.CONTAINS, Op.STARTSWITH},
    Kind.BOOLEAN: frozenset({Op.EQ, Op.IN}),
    Kind.TIME: frozenset(Op) - {Op.CONTAINS, Op.STARTSWITH},
    Kind.TEXTS: frozenset({Op.CONTAINS}),
}


@attrs.frozen
class Column:
    """A column of a table.

    Attributes:
        name: Its name: lower-case letters, digits and underscores, safe in any query language.
        kind: What it holds.
        optional: Whether it may be null.
        references: The table whose record it names, if it names one.
        choices: The texts that it may hold, if they are few. They are told apart, and have no order.
    """

    name: str
    kind: Kind
    optional: bool = False
    references: str | None = None
    choices: tuple[str, ...] = ()


@attrs.frozen
class Order:
    """One key of an order.

    Attributes:
        column: The column's name.
        descending: Whether the greatest comes first. Null is less than everything.
    """

    column: str
    descending: bool = False


@attrs.frozen
class Table:
    """A table. Every table has the columns ``id`` and ``revision``; those of records, ``created_at`` and ``updated_at``.

    Attributes:
        name: Its name: lower-case letters, digits and underscores.
        columns: All columns, the common ones first.
        unique: Keys that no two records may share. Their columns are never null.
        indexes: Columns that are looked up together.
        partition: Where records are found by vectors: the column whose value a search is scoped to. It never changes.
        texts: Where a table's records are embedded: the columns whose texts are. The vectors are in tables of their own
            (`vector_table`).
    """

    name: str
    columns: tuple[Column, ...] = attrs.field(repr=False)
    unique: tuple[tuple[str, ...], ...] = attrs.field(default=(), repr=False)
    indexes: tuple[tuple[str, ...], ...] = attrs.field(default=(), repr=False)
    partition: str | None = attrs.field(default=None, repr=False)
    texts: tuple[str, ...] = attrs.field(default=(), repr=False)

    def text(self, row: Mapping[str, Any]) -> str:
        """Return the text of a record that is embedded, its parts one below the other; a blank one is not."""
        return "\n".join(row[name] for name in self.texts if row[name])

    @property
    def vector(self) -> Column | None:
        """The column that holds the record's vector, if the table has one."""
        return next((column for column in self.columns if column.kind is Kind.VECTOR), None)

    def column(self, name: str) -> Column:
        """Return a column by name; raise `FilterError`, with the nearest name, if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        names = [column.name for column in self.columns]
        raise FilterError(f"unknown field {shorten(name)}. {nearest(str(name), names)}", where=self.name)

    def check_filter(self, where: Filter | None) -> None:
        """Raise `FilterError` unless every comparison names a column here and suits what it holds."""
        match where:
            case None:
                pass
            case And(parts) | Or(parts):
                for part in parts:
                    self.check_filter(part)
            case Not(part):
                self.check_filter(part)
            case Compare():
                self._check_comparison(where)
            case _:
                message = f'expected a filter, as Field("name") == value makes one; got {shorten(where)}'
                raise FilterError(message, where=self.name)

    def _check_comparison(self, comparison: Compare) -> None:
        column = self.column(comparison.path[0])
        values = comparison.value if isinstance(comparison.value, tuple) else (comparison.value,)
        if len(comparison.path) > 1:
            self._check_path(column, comparison, values)
            return
        null_test = comparison.op is Op.EQ and comparison.value is None
        if comparison.op not in _OPERATORS.get(column.kind, ()) and not null_test:
            message = f"{comparison.op.value} does not work on a field that holds {column.kind.value}"
            raise FilterError(message, where=self.name, field=column.name)
        if column.choices:
            self._check_choices(column, comparison, values)
        accepted = _SCALARS.get(column.kind, (str,))
        for value in values:
            if value is None and comparison.op in (Op.EQ, Op.IN):
                continue
            wrong = not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted)
            if wrong or (isinstance(value, datetime) and value.tzinfo is None):
                suits = "a datetime with a time zone" if column.kind is Kind.TIME else column.kind.value
                message = f"{comparison.op.value} needs a value that suits {suits}, got {shorten(value)}"
                raise FilterError(message, where=self.name, field=column.name)

    def _check_choices(self, column: Column, comparison: Compare, values: Iterable[object]) -> None:
        if comparison.op not in (Op.EQ, Op.IN):
            message = f"{comparison.op.value} does not work on a field of choices; compare with == or in_"
            raise FilterError(message, where=self.name, field=column.name)
        for value in values:
            if value is not None and value not in column.choices:
                message = f"{shorten(value)} is no choice. {nearest(str(value), column.choices)}"
                raise FilterError(message, where=self.name, field=column.name)

    def _check_path(self, column: Column, comparison: Compare, values: Iterable[object]) -> None:
        if column.kind is not Kind.OBJECT:
            message = f"only a JSON object can be stepped into; this field holds {column.kind.value}"
            raise FilterError(message, where=self.name, field=column.name)
        if not all(isinstance(key, str) for key in comparison.path):
            message = f"the keys into a JSON object are texts, got {shorten(comparison.path[1:])}"
            raise FilterError(message, where=self.name, field=column.name)
        for value in values:
            if value is not None and not isinstance(value, str | int | float | bool):
                message = f"a place in a JSON object compares with a JSON scalar, got {shorten(value)}"
                raise FilterError(message, where=self.name, field=column.name)
            if comparison.op is Op.STARTSWITH and not isinstance(value, str):
                message = f"startswith needs a text, got {shorten(value)}"
                raise FilterError(message, where=self.name, field=column.name)

    def check_order(self, order: Iterable[Order]) -> None:
        """Raise `FilterError` unless every key is a column here that can be ordered."""
        for key in order:
            column = self.column(key.column)
            if column.kind not in _SCALARS or column.choices:
                message = f"a field that holds {'choices' if column.choices else column.kind.value} has no order"
                raise FilterError(message, where=self.name, field=column.name)

    def arrow_schema(self, columns: Iterable[str] | None = None) -> pa.Schema:
        """Return the Arrow form of some columns, as `Storage.scan` yields them.

        JSON objects and lists of them are JSON texts; a vector is a list of float32; times are UTC microseconds.

        Args:
            columns: The columns' names; None for all.

        Returns:
            The schema, fields in the table's order.
        """
        import pyarrow as pa  # costs 0.1 s; most programs never stream

        types = {
            Kind.TEXT: pa.string(),
            Kind.INTEGER: pa.int64(),
            Kind.NUMBER: pa.float64(),
            Kind.BOOLEAN: pa.bool_(),
            Kind.TIME: pa.timestamp("us", tz="UTC"),
            Kind.OBJECT: pa.string(),
            Kind.OBJECTS: pa.string(),
            Kind.TEXTS: pa.list_(pa.string()),
            Kind.VECTOR: pa.list_(pa.float32()),
        }
        wanted = {self.column(name).name for name in columns} if columns is not None else None
        chosen = [column for column in self.columns if wanted is None or column.name in wanted]
        return pa.schema([pa.field(each.name, types[each.kind], nullable=each.optional) for each in chosen])
