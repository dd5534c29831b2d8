"""Filters as values: ``Field("status") == "open"``.

A filter is true or false. A missing field counts as null, and:

- ``==`` and ``in_`` treat null as equal to null. ``!=`` is the exact opposite of ``==``.
- ``<``, ``<=``, ``>``, ``>=``, ``contains`` and ``startswith`` are false if the field is null, or if its value is of
  another kind than the given one (which can happen inside a JSON object).
- ``in_([])`` is false. ``~`` turns true into false and false into true.
- Numbers compare as numbers (``1 == 1.0``), a boolean is not a number, texts compare by code point, times as instants.

No part of a filter becomes query text: names are checked against the schema, and values are bound.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, TypeAlias

import attrs

from .errors import FilterError, shorten

__all__ = ["And", "Compare", "Field", "Filter", "Not", "Op", "Or", "Scalar", "matches"]

Scalar: TypeAlias = str | int | float | bool | datetime | None


class Op(enum.Enum):
    """The operator of a comparison."""

    EQ = "=="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="
    IN = "in_"
    CONTAINS = "contains"
    STARTSWITH = "startswith"


class Filter:
    """A condition on a record. Combine with ``&``, ``|`` and ``~``."""

    __slots__ = ()

    def __and__(self, other: Filter) -> Filter:
        return And((self, other))

    def __or__(self, other: Filter) -> Filter:
        return Or((self, other))

    def __invert__(self) -> Filter:
        return Not(self)

    def __bool__(self) -> bool:
        # `a and b`, `not a` and `1 < f < 2` would silently drop a condition.
        raise TypeError("a filter has no truth value. Combine filters with &, | and ~, each comparison in parentheses.")


def _plain(value: Any) -> Any:
    """Return members of enums as their values."""
    if isinstance(value, tuple):
        return tuple(_plain(each) for each in value)
    return value.value if isinstance(value, enum.Enum) else value


@attrs.frozen
class Compare(Filter):
    """A comparison of a field, or of a value inside a JSON field, with a value.

    Attributes:
        path: The name of the column, then the keys into its JSON object.
        op: The operator.
        value: A scalar; for ``IN``, a tuple of scalars.
    """

    path: tuple[str, ...]
    op: Op
    value: Scalar | tuple[Scalar, ...] = attrs.field(converter=_plain)


@attrs.frozen
class And(Filter):
    """True if every part is true; true without parts."""

    parts: tuple[Filter, ...]


@attrs.frozen
class Or(Filter):
    """True if any part is true; false without parts."""

    parts: tuple[Filter, ...]


@attrs.frozen
class Not(Filter):
    """True if its part is false."""

    part: Filter


class Field:
    """A field to compare: ``Field("due_at") < now``, ``Field("metadata")["source"] == "diary"``.

    Args:
        name: The column's name.
    """

    __slots__ = ("_path",)
    __hash__: ClassVar[None]  # type: ignore[assignment]  # == makes a filter, so a Field cannot be a key

    def __init__(self, name: str) -> None:
        self._path: tuple[str, ...] = (name,)

    def __getitem__(self, key: str) -> Field:
        """Return the field of a key in a JSON object."""
        inner = Field(self._path[0])
        inner._path = (*self._path, key)
        return inner

    def __repr__(self) -> str:
        return f"Field({self._path[0]!r})" + "".join(f"[{key!r}]" for key in self._path[1:])

    def __eq__(self, value: Scalar) -> Filter:  # type: ignore[override]
        return Compare(self._path, Op.EQ, value)

    def __ne__(self, value: Scalar) -> Filter:  # type: ignore[override]
        return Not(Compare(self._path, Op.EQ, value))

    def __lt__(self, value: Scalar) -> Filter:
        return Compare(self._path, Op.LT, value)

    def __le__(self, value: Scalar) -> Filter:
        return Compare(self._path, Op.LE, value)

    def __gt__(self, value: Scalar) -> Filter:
        return Compare(self._path, Op.GT, value)

    def __ge__(self, value: Scalar) -> Filter:
        return Compare(self._path, Op.GE, value)

    def in_(self, values: Iterable[Scalar]) -> Filter:
        """Return a filter that is true if the field equals one of the values."""
        if isinstance(values, str | bytes):  # iterating over a text gives its characters, which is a mistake
            raise FilterError(f"in_ needs a list of values, got {shorten(values)}", field=self._path[0])
        return Compare(self._path, Op.IN, tuple(values))

    def contains(self, value: Scalar) -> Filter:
        """Return a filter that is true if a list or text contains the value (case-sensitive)."""
        return Compare(self._path, Op.CONTAINS, value)

    def startswith(self, prefix: str) -> Filter:
        """Return a filter that is true if a text starts with the prefix (case-sensitive)."""
        return Compare(self._path, Op.STARTSWITH, prefix)

    def is_null(self) -> Filter:
        """Return a filter that is true if the field is missing or null."""
        return Compare(self._path, Op.EQ, None)


def matches(where: Filter | None, row: Mapping[str, Any]) -> bool:
    """Return whether a record satisfies a filter. This defines the meaning that every storage must reproduce.

    Args:
        where: The filter; None is always true.
        row: The record's columns.

    Returns:
        Whether the record satisfies the filter.
    """
    match where:
        case None:
            return True
        case And(parts):
            return all(matches(part, row) for part in parts)
        case Or(parts):
            return any(matches(part, row) for part in parts)
        case Not(part):
            return not matches(part, row)
        case Compare(path, op, value):
            return _compare(_look_up(path, row), op, value)
    raise TypeError(f"expected a filter, got {where!r}")


def _look_up(path: Sequence[str], row: Mapping[str, Any]) -> Any:
    value: Any = row
    for key in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def _compare(found: Any, op: Op, value: Any) -> bool:
    if op is Op.EQ:
        return _equal(found, value)
    if op is Op.IN:
        return any(_equal(found, each) for each in value)
    if op is Op.CONTAINS:
        if isinstance(found, str):
            return isinstance(value, str) and value in found
        return isinstance(found, list | tuple) and any(_equal(each, value) for each in found)
    if op is Op.STARTSWITH:
        return isinstance(found, str) and found.startswith(value)
    if found is None or value is None or _kind(found) is not _kind(value):
        return False
    if op is Op.LT:
        return bool(found < value)
    if op is Op.LE:
        return bool(found <= value)
    if op is Op.GT:
        return bool(found > value)
    return bool(found >= value)


def _kind(value: Any) -> type:
    if isinstance(value, bool):
        return bool
    if isinstance(value, int | float):
        return float
    if isinstance(value, datetime):
        return datetime
    return str if isinstance(value, str) else type(value)


def _equal(left: Any, right: Any) -> bool:
    return _kind(left) is _kind(right) and bool(left == right)
