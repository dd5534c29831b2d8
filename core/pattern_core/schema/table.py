"""Tables: columns, keys, and which filters and orders suit them."""

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
    """The kind of a column, and the Python type of its values in a row."""

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
    """``dict``: any JSON object, including nulls and empty objects"""
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
        name: The name: lower-case letters, digits and underscores, safe in any query language.
        kind: The kind of its values.
        optional: Whether it may be null.
        references: The table whose records it refers to; None if it refers to none.
        choices: The texts that it may hold; empty for any. Choices have no order.
    """

    name: str
    kind: Kind
    optional: bool = False
    references: str | None = None
    choices: tuple[str, ...] = ()


@attrs.frozen
class Order:
    """A sort key.

    Attributes:
        column: The name of the column.
        descending: Whether the greatest value comes first. Null is less than everything.
    """

    column: str
    descending: bool = False


@attrs.frozen
class Table:
    """A table. Every table has the columns ``id`` and ``revision``; tables of records also ``created_at``, ``updated_at``.

    Attributes:
        name: The name: lower-case letters, digits and underscores.
        columns: All columns, the common ones first.
        unique: The unique keys. Their columns are never null.
        indexes: Groups of columns that queries look up together.
        partition: The column whose value limits a vector search; None without vector search. It never changes.
        texts: The columns whose texts are embedded; empty for none. The vectors are in tables of their own.
    """

    name: str
    columns: tuple[Column, ...] = attrs.field(repr=False)
    unique: tuple[tuple[str, ...], ...] = attrs.field(default=(), repr=False)
    indexes: tuple[tuple[str, ...], ...] = attrs.field(default=(), repr=False)
    partition: str | None = attrs.field(default=None, repr=False)
    texts: tuple[str, ...] = attrs.field(default=(), repr=False)

    def text(self, row: Mapping[str, Any]) -> str:
        """Return the text of a record to embed, one line for each column; a blank text is not embedded."""
        return "\n".join(row[name] for name in self.texts if row[name])

    @property
    def vector(self) -> Column | None:
        """The column that holds a vector; None if there is none."""
        return next((column for column in self.columns if column.kind is Kind.VECTOR), None)

    def column(self, name: str) -> Column:
        """Return a column by name; raise `FilterError` with the nearest name if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        names = [column.name for column in self.columns]
        raise FilterError(f"unknown field {shorten(name)}. {nearest(str(name), names)}", where=self.name)

    def check_filter(self, where: Filter | None) -> None:
        """Raise `FilterError` unless every comparison names a column and suits its kind."""
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
                message = f'expected a filter such as Field("name") == value, got {shorten(where)}'
                raise FilterError(message, where=self.name)

    def _check_comparison(self, comparison: Compare) -> None:
        column = self.column(comparison.path[0])
        values = comparison.value if isinstance(comparison.value, tuple) else (comparison.value,)
        if len(comparison.path) > 1:
            self._check_path(column, comparison, values)
            return
        null_test = comparison.op is Op.EQ and comparison.value is None
        if comparison.op not in _OPERATORS.get(column.kind, ()) and not null_test:
            message = f"{comparison.op.value} does not work on a field of kind {column.kind.value}"
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
            message = f"{comparison.op.value} does not work on a field of choices. Use == or in_."
            raise FilterError(message, where=self.name, field=column.name)
        for value in values:
            if value is not None and value not in column.choices:
                message = f"{shorten(value)} is not a valid choice. {nearest(str(value), column.choices)}"
                raise FilterError(message, where=self.name, field=column.name)

    def _check_path(self, column: Column, comparison: Compare, values: Iterable[object]) -> None:
        if column.kind is not Kind.OBJECT:
            message = f"only a JSON object has keys; this field is of kind {column.kind.value}"
            raise FilterError(message, where=self.name, field=column.name)
        if not all(isinstance(key, str) for key in comparison.path):
            message = f"the keys of a JSON object are texts, got {shorten(comparison.path[1:])}"
            raise FilterError(message, where=self.name, field=column.name)
        for value in values:
            if value is not None and not isinstance(value, str | int | float | bool):
                message = (
                    f"a value in a JSON object compares with a text, number, boolean or None, got {shorten(value)}"
                )
                raise FilterError(message, where=self.name, field=column.name)
            if comparison.op is Op.STARTSWITH and not isinstance(value, str):
                message = f"startswith needs a text, got {shorten(value)}"
                raise FilterError(message, where=self.name, field=column.name)

    def check_order(self, order: Iterable[Order]) -> None:
        """Raise `FilterError` unless every key is a column that has an order."""
        for key in order:
            column = self.column(key.column)
            if column.kind not in _SCALARS or column.choices:
                message = f"a field of {'choices' if column.choices else f'kind {column.kind.value}'} has no order"
                raise FilterError(message, where=self.name, field=column.name)

    def arrow_schema(self, columns: Iterable[str] | None = None) -> pa.Schema:
        """Return the Arrow schema of columns, as `Storage.scan` yields them.

        JSON objects and lists of them are JSON texts, a vector is a list of float32, times are UTC microseconds.

        Args:
            columns: The names of the columns; None for all.

        Returns:
            The schema, with the fields in the table's order.
        """
        import pyarrow as pa  # takes 0.1 s, and most programs never stream

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
