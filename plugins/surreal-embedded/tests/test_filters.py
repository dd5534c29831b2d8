"""The engine's results for filters and orders, compared with `pattern_core.filters`, on columns of every kind."""

from __future__ import annotations

import functools
import math
import os
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pattern_core.abc import Delete, Insert, Row
from pattern_core.errors import FilterError
from pattern_core.filters import And, Compare, Field, Filter, Not, Op, Or, matches
from pattern_core.schema import TABLES, Order
from pattern_core.testing import NOON, TASKS, sample_row
from pattern_surreal_embedded.storage import EmbeddedStorage

pytestmark = pytest.mark.anyio


_texts = st.sampled_from(
    ["", "a", "A", "ab", "b", "\0", "a\0", "é", "\uffff", "😀", "⟩", "`", "'; --", "tasks:x", "$p0"]
)
_integers = st.sampled_from([0, 1, -1, 2, 2**53 + 1, 2**63 - 1, -(2**63)])
_floats = st.sampled_from([0.0, -0.0, 1.0, 0.5, -1.0, 1e300, float(2**53), float(2**63), 5e-324])
_times = st.sampled_from([NOON, NOON + timedelta(microseconds=1), NOON - timedelta(days=40_000)])
_scalars = st.none() | st.booleans() | _integers | _floats | _texts
_json = st.recursive(_scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3))
_wanted_numbers = (
    _integers | _floats | st.sampled_from([2**63, 2**64, -(2**64), 10**400, math.inf, -math.inf, math.nan])
)

_rows = st.fixed_dictionaries(
    {
        "user_id": _texts,
        "parent_id": st.none() | _texts,
        "title": _texts,
        "description": st.none() | _texts,
        "status": _texts,
        "estimated_minutes": st.none() | _integers,
        "complexity_score": st.none() | _floats,
        "due_at": st.none() | _times,
        "tags": st.lists(_texts, max_size=3),
        "metadata": st.dictionaries(_texts, _json, max_size=3),
    }
)
_RANGES = [Op.LT, Op.LE, Op.GT, Op.GE]


def _compare(path: tuple[str, ...], values: st.SearchStrategy[Any], *, text: bool = False) -> st.SearchStrategy[Filter]:
    kinds = [
        st.builds(Compare, st.just(path), st.just(Op.EQ), st.none() | values),
        st.builds(Compare, st.just(path), st.just(Op.IN), st.lists(st.none() | values, max_size=3).map(tuple)),
        st.builds(Compare, st.just(path), st.sampled_from(_RANGES), values),
    ]
    if text:
        operators = st.sampled_from([Op.CONTAINS, Op.STARTSWITH])
        kinds.append(st.builds(Compare, st.just(path), operators, _texts))
    return st.one_of(kinds)


def _inside(path: list[str]) -> st.SearchStrategy[Filter]:
    place = ("metadata", *path)
    wanted = st.none() | st.booleans() | _wanted_numbers | _texts
    contains = st.builds(Compare, st.just(place), st.just(Op.CONTAINS), wanted)
    return _compare(place, wanted, text=True) | contains


_comparisons = st.one_of(
    *(_compare((column,), _texts, text=True) for column in ("id", "user_id", "parent_id", "title", "description")),
    *(_compare((column,), _wanted_numbers) for column in ("estimated_minutes", "complexity_score")),
    _compare(("due_at",), _times),
    st.builds(Compare, st.just(("tags",)), st.just(Op.CONTAINS), _texts),
    st.sampled_from([Compare((name,), Op.EQ, None) for name in ("metadata", "tags", "embedding", "id", "title")]),
    st.lists(_texts, min_size=1, max_size=3).flatmap(_inside),
    st.lists(_texts, min_size=1, max_size=1).flatmap(_inside),
)
_filters = st.recursive(
    _comparisons,
    lambda inner: (
        st.builds(And, st.lists(inner, max_size=3).map(tuple))
        | st.builds(Or, st.lists(inner, max_size=3).map(tuple))
        | st.builds(Not, inner)
    ),
    max_leaves=6,
)
_orders = st.lists(
    st.builds(
        Order,
        st.sampled_from(["id", "title", "description", "user_id", "estimated_minutes", "complexity_score", "due_at"]),
        st.booleans(),
    ),
    max_size=3,
)


def _sorted(rows: list[Row], order: list[Order]) -> list[str]:
    def rank(row: Row, column: str) -> tuple[Any, ...]:
        return () if row[column] is None else (row[column],)

    rows = sorted(rows, key=lambda row: str(row["id"]))
    for key in reversed(order):
        rows.sort(key=functools.partial(rank, column=key.column), reverse=key.descending)
    return [row["id"] for row in rows]


@settings(
    max_examples=int(os.environ.get("PATTERN_EXAMPLES", "30")),
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors, HealthCheck.too_slow],
)
@given(
    columns=st.lists(_rows, min_size=5, max_size=5),
    questions=st.lists(st.tuples(_filters, _orders), min_size=8, max_size=8),
)
async def test_any_filter_on_any_rows(
    storage: EmbeddedStorage, columns: list[dict[str, Any]], questions: list[tuple[Filter, list[Order]]]
) -> None:
    """Find, count and scan return the rows for which `matches` is true, in the requested order, unchanged."""
    ids = ["a", "ab", "b", "😀", "tasks:x"]
    rows = [sample_row(TASKS, id, **values) for id, values in zip(ids, columns, strict=True)]
    await storage.commit([*(Delete(TASKS, id) for id in ids), *(Insert(TASKS, row) for row in rows)])
    for row in rows:
        del row["embedding"]
    assert await storage.get(TASKS, ids) == rows
    for where, order in questions:
        TASKS.check_filter(where)
        wanted = _sorted([row for row in rows if matches(where, row)], order)
        assert [row["id"] for row in await storage.find(TASKS, where, order=order)] == wanted, (where, order)
        assert [row["id"] for row in await storage.find(TASKS, where, order=order, limit=2)] == wanted[:2]
        assert await storage.count(TASKS, where) == len(wanted)
        scanned = [
            id
            async for batch in storage.scan(TASKS, where, columns=["id"], batch_rows=2)
            for id in batch["id"].to_pylist()
        ]
        assert scanned == sorted(wanted)


async def test_a_wide_filter(storage: EmbeddedStorage) -> None:
    """A filter may combine a thousand conditions."""
    rows = [sample_row(TASKS, f"t{n:04}", title=f"{n}") for n in range(50)]
    await storage.commit([Insert(TASKS, row) for row in rows])
    either = Or(tuple(Compare(("title",), Op.EQ, str(n)) for n in range(0, 3000, 3)))
    neither = And(tuple(Not(Compare(("title",), Op.EQ, str(n))) for n in range(0, 3000, 3)))
    assert await storage.count(TASKS, either) == 17
    assert await storage.count(TASKS, neither) == 33


async def test_a_deeply_nested_filter(storage: EmbeddedStorage) -> None:
    """A filter nested more deeply than the engine's parser accepts raises `FilterError`; others work."""
    rows = [sample_row(TASKS, f"t{n}", title=f"{n}", metadata={"n": [n]}) for n in range(5)]
    await storage.commit([Insert(TASKS, row) for row in rows])

    def deep(levels: int) -> Filter:
        where: Filter = Not(Compare(("metadata", "n"), Op.CONTAINS, "3"))
        for level in range(levels):
            both = And((where, Not(Compare(("title",), Op.LT, "1"))))
            where = both if level % 2 else Or((where, Compare(("metadata", "x"), Op.EQ, level)))
        return where

    for levels in range(24):
        where = deep(levels)
        assert await storage.count(TASKS, where) == len([row for row in rows if matches(where, row)])
    for levels in (60, 200):
        with pytest.raises(FilterError, match="nested"):
            await storage.count(TASKS, deep(levels))


async def test_many_keys_at_once(storage: EmbeddedStorage) -> None:
    """A filter for many unique keys, which are looked up one by one, finds the same records as any filter."""
    memories = TABLES["memory_blocks"]
    rows = [
        sample_row(memories, f"{agent}-{label}", agent_id=agent, label=label, is_active=label != "c", metadata={"n": n})
        for n, (agent, label) in enumerate((agent, label) for agent in "xy" for label in "abcd")
    ]
    await storage.commit([Insert(memories, row) for row in rows])
    of_x, of_x_or_y = Field("agent_id") == "x", Field("agent_id").in_("x y".split())  # noqa: SIM905 - reads best
    some = Field("label").in_(["d", "a", "a", "c", "nothing"])
    for where in (
        of_x & some,
        some & of_x,
        of_x & some & (Field("is_active") == True),
        of_x & some & (Field("metadata")["n"] > 1),
        of_x & some & Field("label").in_(["a", "b"]),
        of_x & Field("label").in_(["a", None]),
        of_x & Field("label").in_([]),
        of_x & ~some,
        of_x | some,
        of_x_or_y & some,
        of_x & (Field("agent_id") == "y") & some,
    ):
        expected = sorted(row["id"] for row in rows if matches(where, row))
        assert [row["id"] for row in await storage.find(memories, where)] == expected
        assert await storage.count(memories, where) == len(expected)
        found = [id async for batch in storage.scan(memories, where) for id in batch.column("id").to_pylist()]
        assert found == expected
