"""Orders and cursors without a storage."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from pattern_core.filters import matches
from pattern_core.repositories.paging import cursor_after, parse_order, resume
from pattern_core.schema import TABLES, Order

TASKS = TABLES["tasks"]

rows = st.fixed_dictionaries(
    {
        "id": st.text(min_size=1, max_size=3),
        "title": st.text(max_size=3),
        "estimated_minutes": st.none() | st.integers(-3, 3),
        "due_at": st.none() | st.datetimes(timezones=st.just(UTC), min_value=datetime(2026, 1, 1)),  # noqa: DTZ001
    }
)
columns = st.permutations(["title", "estimated_minutes", "due_at"]).flatmap(
    lambda names: st.tuples(*(st.sampled_from([name, f"-{name}"]) for name in names))
)


@given(rows=st.lists(rows, unique_by=lambda row: row["id"]), order=columns, cut=st.integers(0, 20))
def test_a_cursor_divides_any_list(rows: list[dict[str, object]], order: tuple[str, ...], cut: int) -> None:
    """In any order, the filter of a cursor is true for exactly the rows after it."""
    keys = parse_order(TASKS, order)
    for key in reversed(keys):
        nulls = [row for row in rows if row[key.column] is None]
        others = [row for row in rows if row[key.column] is not None]
        others.sort(key=lambda row: row[key.column], reverse=key.descending)  # type: ignore[arg-type, return-value]
        rows = others + nulls if key.descending else nulls + others
    if not rows:
        return
    at = cut % len(rows)
    after = resume(TASKS, keys, cursor_after(keys, rows[at]))

    assert [row for row in rows if matches(after, row)] == rows[at + 1 :]


def test_every_order_is_total() -> None:
    """An order always ends with the id, once."""
    assert parse_order(TASKS, "-title") == (Order("title", descending=True), Order("id"))
    assert parse_order(TASKS, ("-id", "title")) == (Order("id", descending=True), Order("title"))
