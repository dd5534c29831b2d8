"""Translates filters into LanceDB's expression trees. No value becomes query text.

The engine cannot express all filters exactly. For the others it gets a weaker condition, which more rows satisfy, and
`pattern_core.filters.matches` filters the rows again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import reduce
from typing import Any, Final

import attrs
from lancedb.expr import Expr, col, lit

from pattern_core.filters import And, Compare, Filter, Not, Op, Or
from pattern_core.schema import Column, Kind, Table

__all__ = ["MAX_VALUES", "Prefilter", "any_of", "columns_of", "is_unicode", "translate"]

MAX_VALUES: Final = 4096
"""The most values in one condition of this plugin."""
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**63 - 1
_LAST_CHARACTER: Final = "\U0010ffff"
_RANGES: Final[dict[Op, Callable[[Expr, Expr], Expr]]] = {
    Op.LT: Expr.lt,
    Op.LE: Expr.lte,
    Op.GT: Expr.gt,
    Op.GE: Expr.gte,
}


@attrs.frozen
class Prefilter:
    """The condition that the engine gets.

    Attributes:
        nulls: Null tests as text, because no expression exists for them. They contain column names and no values. Empty
            if ``condition`` is an expression.
        condition: The condition; True for all rows, False for none.
        exact: Whether exactly the rows that satisfy the filter satisfy the condition. Otherwise more rows may.
    """

    nulls: tuple[str, ...] = ()
    condition: Expr | bool = True
    exact: bool = True


_ANY: Final = Prefilter(exact=False)


def translate(table: Table, where: Filter | None) -> Prefilter:
    """Translate a filter.

    Args:
        table: The table.
        where: A filter that `Table.check_filter` accepts; None for all rows.

    Returns:
        A condition that every row that satisfies the filter satisfies.
    """
    return Prefilter() if where is None else _translate(table, where, negated=False)


def columns_of(where: Filter | None) -> set[str]:
    """Return the columns that a filter tests."""
    match where:
        case And(parts) | Or(parts):
            return set[str]().union(*map(columns_of, parts))
        case Not(part):
            return columns_of(part)
        case Compare(path):
            return {path[0]}
        case _:
            return set()


def any_of(name: str, values: Collection[str]) -> Expr:
    """Return the condition that a column has one of some texts."""
    return col(name).isin([lit(value) for value in values])


def _translate(table: Table, where: Filter, *, negated: bool) -> Prefilter:
    match where:
        case Not(part):
            return _translate(table, part, negated=not negated)
        case And(parts) | Or(parts):
            inner = [_translate(table, part, negated=negated) for part in parts]
            return _all(inner) if isinstance(where, And) is not negated else _some(inner)
        case Compare(path, op, value) if len(path) == 1:
            return _compare(table.column(path[0]), op, value, negated=negated)
        case _:  # a path into a JSON object
            return _ANY


def _all(parts: Sequence[Prefilter]) -> Prefilter:
    if any(part.condition is False for part in parts):
        return Prefilter(condition=False)
    conditions = [part.condition for part in parts if isinstance(part.condition, Expr)]
    nulls = tuple(null for part in parts for null in part.nulls)
    exact = all(part.exact for part in parts)
    if conditions:
        # The engine would turn an expression beside a text, with its values, into text: so never pass both.
        return Prefilter(condition=_balanced(Expr.and_, conditions), exact=exact and not nulls)
    return Prefilter(nulls, exact=exact)


def _some(parts: Sequence[Prefilter]) -> Prefilter:
    parts = [part for part in parts if part.condition is not False]
    if not parts:
        return Prefilter(condition=False)
    if len(parts) == 1:
        return parts[0]
    if any(part.condition is True and part.exact and not part.nulls for part in parts):
        return Prefilter()
    conditions = [part.condition for part in parts if isinstance(part.condition, Expr)]
    if len(conditions) < len(parts):  # any row may satisfy one of the parts
        return _ANY
    # An Or takes no null tests. Without its null test, more rows satisfy a part.
    exact = all(part.exact and not part.nulls for part in parts)
    return Prefilter(condition=_balanced(Expr.or_, conditions), exact=exact)


def _balanced(combine: Callable[[Expr, Expr], Expr], parts: Sequence[Expr]) -> Expr:
    """Combine conditions in a balanced tree, because a deep one would overflow the engine's stack."""
    if len(parts) < 3:  # noqa: PLR2004 - one or two
        return reduce(combine, parts)
    half = len(parts) // 2
    return combine(_balanced(combine, parts[:half]), _balanced(combine, parts[half:]))


def _compare(column: Column, op: Op, value: Any, *, negated: bool) -> Prefilter:
    if op is Op.EQ and value is None:
        if not column.optional:
            return Prefilter(condition=negated)
        return Prefilter((f"{column.name} IS {'NOT ' if negated else ''}NULL",))
    condition = _condition(column, op, value)
    if condition is None or (negated and column.optional):  # a null satisfies the negation, which no expression covers
        return _ANY
    if isinstance(condition, bool):
        return Prefilter(condition=condition is not negated)
    return Prefilter(condition=~condition if negated else condition)


def _condition(column: Column, op: Op, value: Any) -> Expr | bool | None:
    """Return the condition for values that are not null; None if the engine has no exact one."""
    if op is Op.IN:
        literals = [literal for each in value if (literal := _literal(column.kind, each)) is not None]
        if len(literals) < len(value):
            return None
        return col(column.name).isin(literals) if literals else False
    literal = _literal(column.kind, value)
    if literal is None:
        return None
    if op is Op.EQ:
        return col(column.name) == literal
    if op in _RANGES:
        return _RANGES[op](col(column.name), literal)
    if column.kind is not Kind.TEXT:
        return None
    return col(column.name).contains(literal) if op is Op.CONTAINS else _startswith(column.name, value)


def _literal(kind: Kind, value: Any) -> Expr | None:
    """Return a value as an engine literal for a column; None if the engine would compare it differently."""
    match kind, value:
        case Kind.TEXT, str():
            return lit(value) if is_unicode(value) else None
        case Kind.BOOLEAN, bool():
            return lit(value)
        case Kind.INTEGER, int() if _MIN_INTEGER <= value <= _MAX_INTEGER:
            return lit(value)
        case Kind.NUMBER, float() if not math.isnan(value):  # the engine sorts NaN above all numbers
            return lit(value)
        case Kind.NUMBER, int() if abs(value) <= 2**53:
            return lit(float(value))
        case Kind.TIME, datetime():
            return lit(value.astimezone(UTC))
        case _:
            return None


def is_unicode(text: str) -> bool:
    """Return whether a text can be stored; one with an unpaired surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _startswith(name: str, prefix: str) -> Expr | bool | None:
    """Return a range that an index can answer: from the prefix to the first text after all that start with it."""
    stem = prefix.rstrip(_LAST_CHARACTER)
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    end = stem[:-1] + chr(0xE000 if following == 0xD800 else following)  # noqa: PLR2004 - surrogates are no characters
    return (col(name) >= lit(prefix)) & (col(name) < lit(end))
