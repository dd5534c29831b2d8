"""Translation of filters and orders to SQL. Every value is bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from pattern_core.filters import And, Compare, Filter, Not, Op, Or, Scalar, matches
from pattern_core.schema import Column, Order, Table

from .values import JSON_KINDS, decode, since_epoch

__all__ = ["Query", "order_by", "quoted"]

MAX_PARAMETERS: Final = 32_000
"""The most values to bind in a statement. SQLite's default limit is 32,766."""


def quoted(names: Iterable[str]) -> str:
    """Return names as SQL identifiers. They must come from the schema."""
    return ", ".join(f'"{name}"' for name in names)


def order_by(order: Sequence[Order]) -> str:
    """Return an ``ORDER BY``. The id at its end sorts ties."""
    keys = [f"{quoted([key.column])} {'DESC' if key.descending else 'ASC'}" for key in order]
    return f"ORDER BY {', '.join([*keys, quoted(['id'])])}"


class Query:
    """A filter as the condition of a statement.

    Args:
        table: The table.
        where: The filter; None for all.

    Attributes:
        condition: The SQL after ``WHERE``.
        parameters: The values to bind to it.
        predicates: The functions that ``predicate(n, value)`` in the SQL calls.
    """

    def __init__(self, table: Table, where: Filter | None) -> None:
        self._table = table
        self.parameters: list[Any] = []
        self.predicates: list[Callable[[Any], bool]] = []
        self.condition = "1" if where is None else self._translate(where)

    def _translate(self, where: Filter) -> str:
        """Return SQL that is 1 or 0, never null: NOT is its exact opposite."""
        match where:
            case And(parts):
                return f"({' AND '.join(map(self._translate, parts)) or '1'})"
            case Or(parts):
                return f"({' OR '.join(map(self._translate, parts)) or '0'})"
            case Not(part):
                return f"(NOT {self._translate(part)})"
            case Compare():
                return self._compare(where)
        raise TypeError(f"not a filter: {where!r}")

    def _compare(self, comparison: Compare) -> str:
        column, op, value = self._table.column(comparison.path[0]), comparison.op, comparison.value
        name = quoted([column.name])
        if value is None and op is Op.EQ and len(comparison.path) == 1:
            return f"({name} IS NULL)"
        values = value if isinstance(value, tuple) else (value,)
        if column.kind in JSON_KINDS or not all(map(_can_bind, values)):
            return self._call(column, lambda found: matches(comparison, {column.name: found}))
        if op is Op.IN and len(values) + len(self.parameters) > MAX_PARAMETERS:
            return self._call(column, frozenset(values).__contains__)
        match op:
            case Op.EQ:
                return f"({name} IS {self._bind(value)})"
            case Op.IN:
                bound = ", ".join(self._bind(each) for each in values if each is not None)
                null = f"{name} IS NULL OR " if None in values else ""
                return f"({null}{name} IS NOT NULL AND {name} IN ({bound}))"
            case Op.CONTAINS:
                return f"({name} IS NOT NULL AND instr({name}, {self._bind(value)}) > 0)"
            case Op.STARTSWITH:
                return f"({name} IS NOT NULL AND instr({name}, {self._bind(value)}) = 1)"
            case _:
                return f"({name} IS NOT NULL AND {name} {op.value} {self._bind(value)})"

    def _bind(self, value: Any) -> str:
        self.parameters.append(since_epoch(value) if isinstance(value, datetime) else value)
        return "?"

    def _call(self, column: Column, predicate: Callable[[Any], bool]) -> str:
        self.predicates.append(lambda stored: predicate(decode(column, stored)))
        return f"predicate({self._bind(len(self.predicates) - 1)}, {quoted([column.name])})"


def _can_bind(value: Scalar) -> bool:
    """Return False for a huge integer, NaN or a lone surrogate."""
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return not (isinstance(value, float) and math.isnan(value))
