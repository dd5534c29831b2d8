"""Translates filters and orders into SurrealQL. Names come from the schema, and every value is bound.

The engine compares values of different types (a number is less than any text, NONE is less than everything), and has
both NONE and NULL. `pattern_core.filters` defines the meaning of a filter, so comparisons also check the type if it can
differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import attrs

from pattern_core.errors import FilterError
from pattern_core.filters import And, Compare, Filter, Not, Op, Or
from pattern_core.schema import Kind, Order, Table

from .values import record, to_json_value

__all__ = [
    "Parameters",
    "name",
    "order_by",
    "source",
    "where_clause",
]

_MAX_DEPTH: Final = 16
"""The deepest nesting of parentheses; the engine's parser accepts 19 levels."""
_MAX_ROW: Final = 100
"""The most conditions in a row; the engine's parser accepts 125 operators."""
_COMPARISONS: Final = {Op.LT: "<", Op.LE: "<=", Op.GT: ">", Op.GE: ">="}
_OPPOSITES: Final = {Op.LT: ">=", Op.LE: ">", Op.GT: "<=", Op.GE: "<"}
_INT64: Final = range(-(2**63), 2**63)


class Parameters:
    """The bound values of a statement, and their names."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._let: list[str] = []

    def bind(self, value: Any) -> str:
        """Bind a value, and return its name."""
        key = f"p{len(self.values)}"
        self.values[key] = value
        return f"${key}"

    def let(self, expression: str) -> str:
        """Name an expression, and return the name. The statement then has to be made with `statement`."""
        self._let.append(expression)
        return f"$let{len(self._let)}"

    def statement(self, select: str) -> str:
        """Return a SELECT and its named expressions as one statement, which is one transaction."""
        if not self._let:
            return select
        named = " ".join(f"LET $let{place} = {each};" for place, each in enumerate(self._let, 1))
        return f"RETURN {{ {named} RETURN ({select}); }}"


def name(schema_name: str) -> str:
    """Return the name of a table or column of the schema as SurrealQL."""
    if not schema_name.isidentifier():
        raise FilterError(f"{schema_name!r} is not a valid name of a table or column")
    return f"`{schema_name}`"


def source(table: Table, where: Filter | None, parameters: Parameters) -> tuple[str, Filter | None]:
    """Choose what a SELECT reads.

    For ``id IN …`` the engine scans the whole table, but it reads listed records directly. For a unique key whose last
    column is IN a list, it uses only the columns before; for one key at a time, it uses all.

    Returns:
        The text after FROM, and the rest of the filter.
    """
    leaves = [] if where is None else _leaves(where, "AND", negated=False)
    parts = [Not(part) if opposite else part for part, opposite in leaves]
    for place, part in enumerate(parts):
        if isinstance(part, Compare) and part.path == ("id",) and part.op in (Op.EQ, Op.IN):
            wanted = part.value if isinstance(part.value, tuple) else (part.value,)
            ids = dict.fromkeys(each for each in wanted if isinstance(each, str))
            rest = And((*parts[:place], *parts[place + 1 :])) if len(parts) > 1 else None
            return parameters.bind([record(table, each) for each in ids]), rest
    for columns in table.unique:
        if keys := _keys(table, columns, parts, parameters):
            # A named expression, because the engine ignores ORDER BY if FROM is an expression.
            return parameters.let(keys), where
    return name(table.name), where


def _keys(table: Table, columns: Sequence[str], parts: Sequence[Filter | None], parameters: Parameters) -> str | None:
    """Return the records of many unique keys that differ in the last column, if a filter asks for these."""
    compared = {part.path[0]: part for part in parts if isinstance(part, Compare) and len(part.path) == 1}
    *first, last = columns
    if not all(each in compared and compared[each].op is Op.EQ for each in first):
        return None
    listed = compared[last].value if last in compared and compared[last].op is Op.IN else ()
    if not isinstance(listed, tuple) or len(listed) <= 1 or not all(isinstance(each, str) for each in listed):
        return None
    same = " AND ".join(f"{name(each)} = {parameters.bind(compared[each].value)}" for each in first)
    each = f"(SELECT VALUE `id` FROM {name(table.name)} WHERE {same} AND {name(last)} = $key)"  # noqa: S608 - as above
    return f"array::flatten({parameters.bind(list(dict.fromkeys(listed)))}.map(|$key| {each}))"


def where_clause(table: Table, where: Filter | None, parameters: Parameters) -> str:
    """Return a filter as ``WHERE …``; empty for None.

    Raises:
        FilterError: The filter is nested too deeply for the engine.
    """
    return "" if where is None else f" WHERE {_condition(table, where, parameters).text}"


@attrs.frozen
class _Condition:
    """A condition as text.

    Attributes:
        text: The text.
        operator: The operator at its top: ``OR``, ``AND``, or none.
        depth: About how many levels of parentheses it has.
    """

    text: str
    operator: str = ""
    depth: int = 0

    def inside(self, operator: str) -> _Condition:
        """Return it as an operand of another operator."""
        if not self.operator or (self.operator == "AND" and operator == "OR"):
            return self
        return _Condition(f"({self.text})", depth=self.depth + 1)


def _condition(table: Table, where: Filter, parameters: Parameters, *, negated: bool = False) -> _Condition:
    """Translate a filter, or its opposite.

    The engine's parser accepts few levels of parentheses, so ``~`` moves inwards to the comparisons.
    """
    match where:
        case Not(part):
            return _condition(table, part, parameters, negated=not negated)
        case Compare():
            found = _comparison(table, where, parameters)
            return _Condition(f"!({found.text})", depth=found.depth + 2) if negated else found
        case And() | Or():
            operator = "AND" if isinstance(where, And) is not negated else "OR"
            leaves = _leaves(where, operator, negated=negated)
            parts = [_condition(table, part, parameters, negated=opposite) for part, opposite in leaves]
            return _row(parts, operator)
    raise FilterError(f"not a filter: {where!r}", where=table.name)


def _leaves(where: Filter, operator: str, *, negated: bool) -> Iterator[tuple[Filter, bool]]:
    """Yield the operands of nested ANDs, or of ORs, and whether each is negated."""
    stack = [(where, negated)]
    while stack:
        each, opposite = stack.pop()
        if isinstance(each, Not):
            stack.append((each.part, not opposite))
        elif isinstance(each, And | Or) and ("AND" if isinstance(each, And) is not opposite else "OR") == operator:
            stack.extend((part, opposite) for part in reversed(each.parts))
        else:
            yield each, opposite


def _row(parts: Sequence[_Condition], operator: str) -> _Condition:
    if not parts:
        return _Condition("true" if operator == "AND" else "false")
    while len(parts) > 1:
        inside = [part.inside(operator) for part in parts]
        starts = range(0, len(inside), _MAX_ROW)
        rows = [inside[start : start + _MAX_ROW] for start in starts]
        parts = [
            _Condition(f" {operator} ".join(each.text for each in row), operator, max(each.depth for each in row))
            for row in rows
        ]
    if parts[0].depth > _MAX_DEPTH:
        raise FilterError(
            f"the filter is nested more than {_MAX_DEPTH} levels deep, and SurrealDB cannot parse it. Nest it less."
        )
    return parts[0]


def _comparison(table: Table, where: Compare, parameters: Parameters) -> _Condition:
    column = table.column(where.path[0])
    if column.name == "id":
        return _Condition(_id_comparison(table, where, parameters))
    place = name(column.name) + "".join(f"[{parameters.bind(key)}]" for key in where.path[1:])
    inside = len(where.path) > 1
    if where.op in (Op.EQ, Op.IN):
        values = where.value if isinstance(where.value, tuple) else (where.value,)
        return _equals_any(place, values, parameters, inside=inside)
    if where.op is Op.CONTAINS:
        if not _has_equal(where.value):
            return _Condition("false")
        held = parameters.bind(to_json_value(_storable(where.value)))
        in_list = _Condition(f"type::is_array({place}) AND {place} CONTAINS {held}", "AND", 2)
        in_text = _Condition(f"type::is_string({place}) AND string::contains({place}, {held})", "AND", 2)
        if not isinstance(where.value, str) or column.kind is Kind.TEXTS:
            return in_list
        return _row([in_list, in_text], "OR") if inside else in_text
    if where.op is Op.STARTSWITH:
        prefix = parameters.bind(where.value)
        return _Condition(f"type::is_string({place}) AND string::starts_with({place}, {prefix})", "AND", 2)
    ordered = _ordered(place, where.op, where.value, parameters)
    guard = _kind_guard(place, where.value) if inside else (f"{place} != NONE" if column.optional else "")
    return _Condition(f"{guard} AND {ordered}", "AND", 2) if guard else _Condition(ordered, depth=2)


def _id_comparison(table: Table, where: Compare, parameters: Parameters) -> str:
    values = where.value if isinstance(where.value, tuple) else (where.value,)
    if where.op in (Op.EQ, Op.IN):
        ids = [record(table, each) for each in values if isinstance(each, str)]
        return f"id IN {parameters.bind(ids)}" if ids else "false"
    if not isinstance(where.value, str):
        return "false"
    if where.op is Op.CONTAINS:
        return f"string::contains(record::id(id), {parameters.bind(where.value)})"
    if where.op is Op.STARTSWITH:
        return f"string::starts_with(record::id(id), {parameters.bind(where.value)})"
    return f"id {_COMPARISONS[where.op]} {parameters.bind(record(table, where.value))}"


def _equals_any(place: str, values: Sequence[Any], parameters: Parameters, *, inside: bool) -> _Condition:
    present = [_storable(each) for each in values if each is not None and _has_equal(each)]
    tests = []
    if len(present) == 1:
        tests.append(_Condition(f"{place} = {parameters.bind(present[0])}"))
    elif present:
        tests.append(_Condition(f"{place} IN {parameters.bind(present)}"))
    if None in values:
        # A column is never NULL, and `= NONE` uses an index.
        tests.append(_Condition(f"{place} IN [NONE, NULL]" if inside else f"{place} = NONE"))
    return _row(tests, "OR")


def _kind_guard(place: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"type::is_bool({place})"
    return f"type::is_string({place})" if isinstance(value, str) else f"type::is_number({place})"


def _ordered(place: str, op: Op, value: Any, parameters: Parameters) -> str:
    if value is None or value != value:  # noqa: PLR0124 - NaN, of which nothing is less or greater
        return "false"
    bound = _storable(value)
    if isinstance(value, int) and bound != value:
        # No number in the database is between the integer and the nearest float.
        op = (Op.LE if bound < value else Op.LT) if op in (Op.LT, Op.LE) else (Op.GT if bound < value else Op.GE)
    # Written as a negation, so that the engine does not use an index of several columns, where it treats `<=` on the
    # first of them as `<`.
    return f"!({place} {_OPPOSITES[op]} {parameters.bind(bound)})"


def _storable(value: Any) -> Any:
    """Return a value that can be bound; for an integer of more than 64 bits, the nearest float."""
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    if not isinstance(value, int) or value in _INT64:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _has_equal(value: Any) -> bool:
    """Return whether a number in the database can equal this one."""
    return bool(_storable(value) == value)


def order_by(table: Table, order: Iterable[Order]) -> str:
    """Return an order as ``ORDER BY …``; ties sort by id, and so does everything without a key."""
    keys = []
    for key in order:
        keys.append(f"{name(table.column(key.column).name)} {'DESC' if key.descending else 'ASC'}")
        if key.column == "id":
            break
    else:
        keys.append("`id` ASC")
    return f" ORDER BY {', '.join(keys)}"
