"""Orders as users write them, and cursors that continue a list after a page."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pattern_core.abc import Row
from pattern_core.errors import FilterError, shorten
from pattern_core.filters import And, Field, Filter, Or
from pattern_core.schema import Kind, Order, Table

__all__ = ["cursor_after", "parse_order", "resume"]


def parse_order(table: Table, order: str | Sequence[str]) -> tuple[Order, ...]:
    """Parse an order: names of columns, with a minus for descending order. ``id`` is added, so that the order is total.

    Args:
        table: The table.
        order: ``"-created_at"`` or ``("priority", "-due_at")``.

    Returns:
        The sort keys.

    Raises:
        FilterError: A column is unknown, or has no order.
    """
    if not isinstance(order, str | Sequence):
        raise FilterError(f"expected the name of a column, or several, got {shorten(order)}", where=table.name)
    names = (order,) if isinstance(order, str) else tuple(order)
    keys = [Order(str(name).removeprefix("-"), str(name).startswith("-")) for name in names]
    if all(key.column != "id" for key in keys):
        keys.append(Order("id"))
    table.check_order(keys)
    return tuple(keys)


def cursor_after(order: Sequence[Order], row: Row) -> str:
    """Return the cursor that continues a list after a row."""
    state = [[key.column, key.descending, _encode(row[key.column])] for key in order]
    return base64.urlsafe_b64encode(json.dumps(state).encode()).decode()


def resume(table: Table, order: Sequence[Order], cursor: str) -> Filter:
    """Return the filter that is true for the rows after a cursor, whatever was written since.

    Args:
        table: The table.
        order: The order of the list.
        cursor: The cursor.

    Returns:
        The filter.

    Raises:
        FilterError: The cursor is not valid, or belongs to another order.
    """
    try:
        state = json.loads(base64.urlsafe_b64decode(cursor))
        keys = [Order(column, bool(descending)) for column, descending, _ in state]
        values = [_decode(table, key, value) for key, (_, _, value) in zip(keys, state, strict=True)]
    except (ValueError, TypeError, RecursionError) as error:
        message = f"{shorten(cursor)} is not a cursor. Pass the cursor of the page before."
        raise FilterError(message, where=table.name) from error
    if tuple(keys) != tuple(order):
        raise FilterError("the cursor belongs to another order. Pass the order of the page before.", where=table.name)
    behind = []
    for index, (key, value) in enumerate(zip(keys, values, strict=True)):
        same = [Field(each.column) == known for each, known in zip(keys[:index], values[:index], strict=True)]
        behind.append(And((*same, _beyond(key, value))))
    return Or(tuple(behind))


def _beyond(key: Order, value: Any) -> Filter:
    """Return a filter that is true for the values after a value; null comes first."""
    field = Field(key.column)
    if key.descending:
        return Or(()) if value is None else (field < value) | field.is_null()
    return ~field.is_null() if value is None else field > value


def _encode(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _decode(table: Table, key: Order, value: Any) -> Any:
    if table.column(key.column).kind is Kind.TIME and value is not None:
        return datetime.fromisoformat(value)
    return value
