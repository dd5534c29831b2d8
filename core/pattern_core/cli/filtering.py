"""Filters on the command line: ``--where FIELD=VALUE``, ``--label`` and ``--prefix``.

Conditions become filters as values; no part of them becomes query text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from pattern_core.errors import FilterError, ValidationError, shorten

from .values import json_or_text, parse_time

if TYPE_CHECKING:
    from pattern_core.filters import Filter, Scalar
    from pattern_core.schema import Column, Table

__all__ = ["all_of", "label_options", "parse_condition", "where_labels", "where_option"]

F = TypeVar("F", bound=Callable[..., Any])

_CONDITION: Final = re.compile(r"([^!<>=~]+)(!=|<=|>=|==|=|<|>|~)(.*)", re.DOTALL)
_EQUALITY: Final = ("=", "==", "!=")
_INT64: Final = range(-(2**63), 2**63)


def where_option(table: str) -> Callable[[F], F]:
    """Add ``--where``, which gives the verb a filter on a table; None if no condition is given.

    Args:
        table: The name of the table.
    """

    def read(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> Filter | None:
        if not values:
            return None
        from pattern_core.schema import TABLES

        try:
            return all_of(parse_condition(TABLES[table], each) for each in values)
        except ValidationError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    return click.option(
        "--where",
        metavar="FIELD=VALUE",
        multiple=True,
        callback=read,
        help="Only records with this value; may be given several times. Other operators: != < <= > >= and ~ (contains). "
        "A dot leads into a JSON field: metadata.KEY=VALUE.",
    )


def label_options(verb: F) -> F:
    """Add ``--label`` and ``--prefix``, for `where_labels`."""
    verb = click.option("--prefix", help="Only memories whose label starts with this.")(verb)
    return click.option("--label", help="Only the memory with this label.")(verb)


def where_labels(where: Filter | None, label: str | None, prefix: str | None) -> Filter | None:
    """Return a filter on memories, narrowed by label."""
    from pattern_core.filters import Field

    field = Field("label")
    return all_of(
        [
            where,
            None if label is None else field == label,
            None if prefix is None else field.startswith(prefix),
        ]
    )


def all_of(filters: Iterable[Filter | None]) -> Filter | None:
    """Return the filter that is true if all of the given ones are; None counts as true. Return None for no filter."""
    from pattern_core.filters import And

    parts = tuple(each for each in filters if each is not None)
    if len(parts) > 1:
        return And(parts)
    return parts[0] if parts else None


def parse_condition(table: Table, text: str) -> Filter:
    """Return the filter of a condition such as ``label=coffee`` or ``metadata.level>=3``.

    Args:
        table: The table whose fields it names.
        text: A field, an operator (``= != < <= > >= ~``) and a value, with or without blanks between them. ``~`` means
            that a text or a list contains the value. Dots lead into a JSON field. The value is converted by the kind of
            the field.

    Returns:
        The filter, checked against the table.

    Raises:
        FilterError: The text is no condition, the field is unknown, or the value does not suit it.
        ValidationError: The text is not valid Unicode.
    """
    from pattern_core.filters import Field
    from pattern_core.schema import Kind
    from pattern_core.support.validators import check_text

    found = _CONDITION.fullmatch(check_text(text, table.name, ""))
    if found is None:
        raise FilterError(f"{shorten(text)} is not FIELD=VALUE. The operators are = != < <= > >= ~.", where=table.name)
    path, operator, value = (each.strip() for each in found.groups())
    name, *keys = path.split(".")
    column = table.column(name)
    if not all(keys):
        raise FilterError(f"{shorten(path)} has an empty key", where=table.name, field=name)
    field = Field(name)
    for key in keys:
        field = field[key]
    if column.kind is Kind.TEXTS and not keys:
        return _compare_list(table, field, operator, value)
    if operator == "~":
        return _contains(table, column, keys, field, value)
    scalar = _convert(table, column, keys, value)
    if scalar is None and operator not in _EQUALITY:
        raise FilterError(f"{operator} does not work with null. Use = or !=.", where=table.name, field=name)
    condition = _compare(field, operator, scalar)
    table.check_filter(condition)
    return condition


def _compare_list(table: Table, field: Any, operator: str, value: str) -> Filter:
    if operator not in (*_EQUALITY, "~"):
        message = f"{operator} does not work on a list. Use ~ for lists with a text, != for lists without it."
        raise FilterError(message, where=table.name)
    contains: Filter = field.contains(value)
    return ~contains if operator == "!=" else contains


def _contains(table: Table, column: Column, keys: list[str], field: Any, text: str) -> Filter:
    from pattern_core.schema import Kind

    if column.kind is not Kind.TEXT and not keys:
        message = "~ works on texts and lists, and on the keys of a JSON field"
        raise FilterError(message, where=table.name, field=column.name)
    condition: Filter = field.contains(text)
    if keys and (value := _convert(table, column, keys, text)) != text:
        condition |= field.contains(value)  # a list may hold 3 or "3"
    table.check_filter(condition)
    return condition


def _compare(field: Any, operator: str, value: Scalar) -> Filter:
    filters: dict[str, Callable[[], Filter]] = {
        "=": lambda: field == value,
        "==": lambda: field == value,
        "!=": lambda: field != value,
        "<": lambda: field < value,
        "<=": lambda: field <= value,
        ">": lambda: field > value,
        ">=": lambda: field >= value,
    }
    return filters[operator]()


def _convert(table: Table, column: Column, keys: list[str], text: str) -> Scalar:
    """Return the value of a condition, converted by the kind of its field."""
    from pattern_core.schema import Kind

    if keys:
        value = json_or_text(text)
        if isinstance(value, dict | list):
            message = f"expected a text, number, true, false or null, got {shorten(text)}"
            raise FilterError(message, where=table.name, field=column.name)
        return _in_range(table, column, value)
    if column.optional and text == "null":
        return None
    if column.kind is Kind.TEXT:
        return text
    if column.kind is Kind.TIME:
        try:
            return parse_time(text)
        except ValidationError as error:
            raise FilterError(str(error), where=table.name, field=column.name) from None
    if column.kind is Kind.OBJECT:
        message = f"is a JSON object. Compare one of its keys: {column.name}.KEY={text}"
        raise FilterError(message, where=table.name, field=column.name)
    if column.kind is Kind.OBJECTS:
        raise FilterError("is a list of JSON objects, and compares only with null", where=table.name, field=column.name)
    value = json_or_text(text)
    boolean = column.kind is Kind.BOOLEAN
    if isinstance(value, bool) is not boolean or not isinstance(value, int | float):
        suits = "true or false" if boolean else "a number"
        raise FilterError(f"expected {suits}, got {shorten(text)}", where=table.name, field=column.name)
    return _in_range(table, column, value)


def _in_range(table: Table, column: Column, value: Any) -> Scalar:
    """Return a value that every storage can compare; raise `FilterError` for a number that is too large."""
    if isinstance(value, int) and value not in _INT64:
        raise FilterError(f"{shorten(value)} is too large a number", where=table.name, field=column.name)
    scalar: Scalar = value
    return scalar
