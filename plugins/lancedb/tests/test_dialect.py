"""Filters in the engine: as exact as its expressions allow, and no value as query text."""

from __future__ import annotations

from pathlib import Path

import lancedb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lancedb.index import BTree

from pattern_core.abc import Insert
from pattern_core.filters import And, Compare, Field, Filter, Op, Or, matches
from pattern_core.schema import CreateTable
from pattern_core.testing import DIMENSIONS, NOON, TASKS, sample_row
from pattern_lancedb.dialect import translate
from pattern_lancedb.local_store import LocalStore
from pattern_lancedb.manifest import TableEntry
from pattern_lancedb.storage import LanceStorage

pytestmark = pytest.mark.anyio

TITLE, TEXT, MINUTES, SCORE = (
    Field(name) for name in ("title", "description", "estimated_minutes", "complexity_score")
)


@pytest.mark.parametrize(
    "where",
    [
        TITLE == "a",
        TITLE != "a",
        TITLE.in_(["a", "' OR 1 = 1 --"]),
        ~TITLE.startswith("a"),
        TITLE.contains("\x00"),
        TEXT.is_null(),
        (MINUTES > 3) | (SCORE <= 0.5),
        Field("due_at") >= NOON,
        And(()),
        Or(()),
        TITLE.is_null(),
        Field("id").in_([]),
    ],
    ids=str,
)
def test_exact_conditions(where: Filter) -> None:
    """The engine evaluates comparisons of columns, and null tests that stand alone, exactly."""
    assert translate(TASKS, where).exact


@pytest.mark.parametrize(
    "where",
    [
        Field("metadata")["a"] == 1,
        TEXT != "a",
        TEXT.is_null() | (TITLE == "a"),
        MINUTES == 1.0,
        MINUTES < 2**63,
        SCORE == 2**53 + 1,
        Compare(("complexity_score",), Op.LT, float("nan")),
        TITLE == "\ud800",
        TITLE.startswith("\U0010ffff"),
        TEXT.in_(["a", None]),
        Field("tags").contains("a"),
    ],
    ids=ascii,
)
def test_weaker_conditions(where: Filter) -> None:
    """Where null, JSON or the type of a value matters, the engine gets a weaker condition."""
    assert not translate(TASKS, where).exact
    assert translate(TASKS, (TITLE == "x") & where).condition is not True, "the other part still limits the rows"


_texts = st.sampled_from(
    ["", "a", "A", "ab", "b", "a'b", 'a"b', "a\\", "%", "_", "a\x00", "é", "\ud7ff", "\ue000", "😀"]
)
_numbers = st.sampled_from([-(2**63), -1, 0, 1, 2**53 + 1, 2**63 - 1, 2**64, 0.5, 1.0, -0.0])
_floats = st.sampled_from([-1e300, -1.0, -0.0, 0.0, 1e-300, 0.5, 1.0, 2**53 + 1, float("inf"), float("nan")])
_leaves = st.one_of(
    st.builds(
        lambda field, op, value: getattr(field, op)(value),
        st.sampled_from([TITLE, TEXT]),
        st.sampled_from(["__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "contains", "startswith"]),
        _texts,
    ),
    st.builds(lambda field, values: field.in_(values), st.sampled_from([TITLE, TEXT]), st.lists(_texts, max_size=3)),
    st.builds(lambda field: field.is_null(), st.sampled_from([TITLE, TEXT, MINUTES, SCORE])),
    st.builds(
        lambda op, value: getattr(MINUTES, op)(value),
        st.sampled_from(["__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"]),
        _numbers,
    ),
    st.builds(
        lambda op, value: getattr(SCORE, op)(value),
        st.sampled_from(["__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"]),
        _floats,
    ),
)
_filters = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: And(tuple(parts))),
        st.lists(inner, max_size=3).map(lambda parts: Or(tuple(parts))),
        inner.map(lambda part: ~part),
    ),
    max_leaves=6,
)


async def test_the_engine_agrees_with_the_filter(tmp_path: Path) -> None:
    """For any filter, with or without an index, the Lance table yields the records that `matches` accepts."""
    titles = ["", "a", "A", "ab", "b", "a'b", 'a"b', "a\\", "%", "_", "a\x00", "é", "\ud7ff", "\ue000", "😀"]
    numbers = [None, -(2**63), -1, 0, 1, 2**53, 2**53 + 1, 2**63 - 1]
    floats = [None, -1e300, -1.0, -0.0, 0.0, 1e-300, 0.5, 1.0, float(2**53)]
    rows = [
        sample_row(
            TASKS,
            f"t{n:02}",
            title=title,
            description=titles[-n % len(titles)] if n % 3 else None,
            estimated_minutes=numbers[n % len(numbers)],
            complexity_score=floats[n % len(floats)],
        )
        for n, title in enumerate(titles * 2)
    ]
    async with await LanceStorage.open(await LocalStore.open(tmp_path)) as storage:
        await storage.apply_schema(CreateTable(TASKS, DIMENSIONS))
        await storage.commit([Insert(TASKS, row) for row in rows])
        await storage.maintain()

        @settings(max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
        @given(where=_filters)
        def collect(where: Filter) -> None:
            filters.append(where)

        async def index(table: lancedb.AsyncTable, _: TableEntry) -> None:
            for column in ("title", "description", "estimated_minutes", "complexity_score"):
                await table.create_index(column, config=BTree())

        filters: list[Filter] = []
        collect()
        for _ in range(2):
            for where in filters:
                found = [row["id"] for row in await storage.find(TASKS, where)]
                assert found == [row["id"] for row in rows if matches(where, row)], where
            await storage.database.maintain_table(TASKS.name, index)


@pytest.mark.parametrize("text", ["a' OR '1' = '1", "it's", "\\", "a\x00'b", "'; DROP TABLE tasks; --", "\n'\"`"])
async def test_values_next_to_a_null_test(tmp_path: Path, text: str) -> None:
    """A value never becomes query text, also next to a null test, which is text."""
    rows = [
        sample_row(TASKS, "t1", title=text, description=None, estimated_minutes=-(2**63)),
        sample_row(TASKS, "t2", title=text, description="x", estimated_minutes=-(2**63)),
        sample_row(TASKS, "t3", title="other", description=None, estimated_minutes=0),
    ]
    async with await LanceStorage.open(await LocalStore.open(tmp_path)) as storage:
        await storage.apply_schema(CreateTable(TASKS, DIMENSIONS))
        await storage.commit([Insert(TASKS, row) for row in rows])
        await storage.maintain()
        null = Field("description").is_null()
        for where in (Field("title") == text, MINUTES == -(2**63), MINUTES.in_([-(2**63), 7]), MINUTES <= -(2**63)):
            assert [row["id"] for row in await storage.find(TASKS, null & where)] == ["t1"]
            assert [row["id"] for row in await storage.find(TASKS, ~null & where)] == ["t2"]
            assert await storage.count(TASKS, where & null) == 1
