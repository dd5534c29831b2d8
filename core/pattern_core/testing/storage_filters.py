"""The rules of filters: every storage finds the records for which `pattern_core.filters.matches` is true."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta, timezone
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pattern_core.abc import Insert, Put, Row, Storage
from pattern_core.filters import And, Field, Filter, Or, matches
from pattern_core.schema import TABLES, Table

from .contract import Contract
from .rows import NOON, TASKS, sample_row, sample_vector

__all__ = ["FilterRules"]

MEMORIES = TABLES["memory_blocks"]
MESSAGES = TABLES["messages"]

HOSTILE_TEXTS: Final = (
    "a' OR '1' = '1",
    'a" OR "1" = "1',
    "a`b",
    "a⟩ = 1 OR ⟨b",
    "$value",
    "%",
    "_",
    "a\\",
    "a\\'b",
    "a\nb",
    "a\x00b",
    "/.*/",
    "😀",
    "e\u0301",
    "é",
    "users:1",
    "NONE",
    "null",
    "2024-02-29T12:00:00Z",
)
"""Texts that could break a query, or that an engine could convert to another type."""

Comparison = Callable[[Field, Any], Filter]
_RANGES: Final[tuple[Comparison, ...]] = (
    lambda field, value: field < value,
    lambda field, value: field <= value,
    lambda field, value: field > value,
    lambda field, value: field >= value,
)
_EQUALITY: Final[tuple[Comparison, ...]] = (
    lambda field, value: field == value,
    lambda field, value: field != value,
    lambda field, value: field.in_([value]),
)


def _all_filters(field: Field, values: Sequence[Any], comparisons: Sequence[Comparison]) -> list[Filter]:
    """Return all comparisons of a field with the values, null tests and value lists, each also negated."""
    plain = [compare(field, value) for compare in comparisons for value in values]
    plain += [field.is_null(), field.in_([]), field.in_([*values, None]), field.in_(values[:2])]
    return [*plain, *(~each for each in plain)]


async def _check_filters(storage: Storage, table: Table, rows: Sequence[Row], filters: Sequence[Filter]) -> None:
    """Check that the storage finds, counts and scans exactly the rows that satisfy each filter."""
    for where in filters:
        table.check_filter(where)
        expected = sorted(row["id"] for row in rows if matches(where, row))
        found = [row["id"] for row in await storage.find(table, where)]
        assert found == expected, f"find: {where}"
        assert await storage.count(table, where) == len(expected), f"count: {where}"
    where = filters[0]
    batches = [batch async for batch in storage.scan(table, where, columns=["id"])]
    streamed = [id for batch in batches for id in batch.column("id").to_pylist()]
    assert streamed == sorted(row["id"] for row in rows if matches(where, row)), f"scan: {where}"


async def _check_column(
    storage: Storage, table: Table, column: str, values: Sequence[Any], filters: Sequence[Filter]
) -> None:
    """Insert one record for each value of a column, then check every filter."""
    rows = [sample_row(table, f"r{n:02}", **{column: value}) for n, value in enumerate(values)]
    await storage.commit([Insert(table, row) for row in rows])
    await _check_filters(storage, table, rows, filters)


_JSON_VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    False,
    0,
    1,
    1.0,
    1.5,
    -2,
    2**53,
    "",
    "1",
    "a",
    "ab",
    "true",
    [],
    ["a", 1, None, True],
    [["a"]],
    {},
    {"a": 1},
)
_JSON_SCALARS: Final[tuple[Any, ...]] = (True, False, 0, 1, 1.0, 1.5, "", "1", "a", "b", "true")
_JSON_KEYS: Final = (
    "a",
    "b",
    "a.b",
    "a`b",
    "a'b",
    'a"b',
    "a⟩",
    "$a",
    "",
    " ",
    "é",
    "0",
    "*",
    "a\\b",
    "select",
    "a\x00",
)

_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.integers(-2, 2),
    st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False),
    st.sampled_from([-1.0, 0.0, 0.5, 1.0]),
    st.sampled_from(["", "a", "ab", "A", "é", "1", "😀"]),
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=4),
)
_keys = st.sampled_from(["a", "b", *_JSON_KEYS])
_json = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3),
    max_leaves=6,
)
_objects = st.dictionaries(_keys, _json, max_size=4)


@st.composite
def _comparisons(draw: st.DrawFn) -> Filter:
    field = Field("metadata")
    for key in draw(st.lists(_keys, min_size=1, max_size=3)):
        field = field[key]
    value = draw(_scalars)
    text = draw(st.sampled_from(["", "a", "é"]))
    choices: list[Filter] = [
        field == value,
        field != value,
        field < value,
        field <= value,
        field > value,
        field >= value,
        field.in_([value, draw(_scalars)]),
        field.contains(value),
        field.startswith(text),
        field.is_null(),
    ]
    return draw(st.sampled_from(choices))


_trees: st.SearchStrategy[Filter] = st.recursive(
    _comparisons(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: And(tuple(parts))),
        st.lists(inner, max_size=3).map(lambda parts: Or(tuple(parts))),
        inner.map(lambda part: ~part),
    ),
    max_leaves=5,
)


class FilterRules(Contract):
    """Filters."""

    @pytest.mark.parametrize("column", ["title", "description"])
    async def test_filters_on_texts(self, storage: Storage, column: str) -> None:
        """Filters on texts: every operator, null, and values that could break a query.

        If it fails: bind every value. Compare by code point. ``contains`` and ``startswith`` have no wildcards. Every
        text contains and starts with the empty text.
        """
        values = ["", "a", "A", "ab", "b", "\uff5e", *HOSTILE_TEXTS]
        field = Field(column)
        comparisons: list[Comparison] = [
            *_EQUALITY,
            *_RANGES,
            lambda field, value: field.contains(value),
            lambda field, value: field.startswith(value),
        ]
        stored = [*values, None] if column == "description" else values
        await _check_column(storage, TASKS, column, stored, _all_filters(field, values, comparisons))

    @pytest.mark.parametrize("column", ["id", "user_id"])
    async def test_filters_on_ids(self, storage: Storage, column: str) -> None:
        """Filters on ids and references: they compare as texts.

        If it fails: convert the engine's own record ids from and to texts, on both sides of a comparison.
        """
        rows = [sample_row(TASKS, id, user_id=id) for id in HOSTILE_TEXTS]
        await storage.commit([Insert(TASKS, row) for row in rows])
        filters = _all_filters(Field(column), [*HOSTILE_TEXTS, "missing"], [*_EQUALITY, *_RANGES])
        filters += [Field(column).startswith("a"), Field(column).contains("1")]
        await _check_filters(storage, TASKS, rows, filters)

    async def test_filters_on_integers(self, storage: Storage) -> None:
        """Filters on integers: all 64 bits count, floats compare by value, null satisfies no comparison.

        If it fails: look for integers stored as floats (2**53 + 1), and for null that compares as less than a number.
        """
        stored = [None, -(2**63), -1, 0, 1, 2, 2**53, 2**53 + 1, 2**63 - 1]
        values = [-(2**63), -1, 0, 1, 2**53, 2**53 + 1, 2**63 - 1, 1.0, 0.5, -1.5]
        field = Field("estimated_minutes")
        await _check_column(
            storage, TASKS, "estimated_minutes", stored, _all_filters(field, values, [*_EQUALITY, *_RANGES])
        )

    async def test_filters_on_floats(self, storage: Storage) -> None:
        """Filters on floats: integers compare by value, -0.0 equals 0, null satisfies no comparison.

        If it fails: look for whole floats converted to integers, and for null that compares as less than a number.
        """
        stored = [None, -1e300, -1.0, -0.0, 0.0, 1e-300, 0.1, 1.0, 1.5, 2.0, 1e300]
        values = [-1e300, -1, 0, 0.0, 1e-300, 0.1, 1, 1.0, 1.5, 1e300]
        field = Field("complexity_score")
        await _check_column(
            storage, TASKS, "complexity_score", stored, _all_filters(field, values, [*_EQUALITY, *_RANGES])
        )

    async def test_filters_on_booleans(self, storage: Storage) -> None:
        """Filters on booleans: true and false are different, and neither equals null.

        If it fails: look for booleans stored as numbers or texts.
        """
        filters = _all_filters(Field("is_active"), [True, False], _EQUALITY)
        await _check_column(storage, MEMORIES, "is_active", [True, False, True], filters)

    async def test_filters_on_times(self, storage: Storage) -> None:
        """Filters on times: they compare as instants, to the microsecond, in any time zone.

        If it fails: bind times in UTC, as times. Look for precision that is lost below the millisecond.
        """
        tick = timedelta(microseconds=1)
        stored = [None, NOON - tick, NOON, NOON + tick, NOON + timedelta(days=400), NOON.replace(year=1972)]
        elsewhere = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
        values = [NOON - tick, NOON, elsewhere, NOON + tick, NOON.replace(microsecond=0)]
        field = Field("due_at")
        await _check_column(storage, TASKS, "due_at", stored, _all_filters(field, values, [*_EQUALITY, *_RANGES]))

    async def test_filters_on_lists_of_texts(self, storage: Storage) -> None:
        """Filters on lists of texts: ``contains`` finds an equal member, not a part of a member.

        If it fails: look for a search inside the members, or inside a list stored as one text.
        """
        stored = [[], ["a"], ["a", "b"], ["ab"], ["A"], [""], ["a,b"], ["é", "😀"], ["a'b", "a\x00b"], ["a", "a"]]
        values = ["a", "b", "ab", "A", "", "a,b", "é", "😀", "a'b", "a\x00b", "[]", "missing"]
        plain = [Field("tags").contains(value) for value in values]
        plain.append(Field("tags").is_null())
        await _check_column(storage, TASKS, "tags", stored, [*plain, *(~each for each in plain)])

    async def test_filters_on_null(self, storage: Storage) -> None:
        """Filters on objects, lists of objects and vectors: they can be tested for null; empty values are not null.

        If it fails: do not store an empty value as null.
        """
        null = Field("tool_calls").is_null()
        await _check_column(storage, MESSAGES, "tool_calls", [None, [], [{}], [{"a": None}]], [null, ~null])
        null = Field("embedding").is_null()
        await _check_column(storage, TASKS, "embedding", [None, sample_vector("a")], [null, ~null])
        null = Field("metadata").is_null()
        await _check_column(storage, MEMORIES, "metadata", [{}, {"a": None}], [null, ~null])

    async def test_filters_on_json_values(self, storage: Storage) -> None:
        """Filters on values inside a JSON object: every operator, every type of value, and missing keys.

        If it fails: a missing key is null. 1 equals 1.0, but neither true nor "1". Ranges compare values of one type.
        ``contains`` finds a member of a list or a part of a text, and nothing in other types.
        """
        stored: list[dict[str, Any]] = [{}, *({"k": value} for value in _JSON_VALUES)]
        comparisons: list[Comparison] = [*_EQUALITY, *_RANGES, lambda field, value: field.contains(value)]
        field = Field("metadata")["k"]
        filters = _all_filters(field, _JSON_SCALARS, comparisons)
        for prefix in ("", "a", "1"):
            filters += [field.startswith(prefix), ~field.startswith(prefix)]
        filters += [compare(field, None) for compare in _RANGES]
        filters += [field.contains(None), ~field.contains(None)]
        await _check_column(storage, TASKS, "metadata", stored, filters)

    async def test_filters_on_json_paths(self, storage: Storage) -> None:
        """Filters on JSON paths: a path into a scalar or a list gives null.

        If it fails: a number in the path must not index a list, and a path must not apply to each member of a list.
        """
        inner = [None, 1, "abc", [], [1], [{"b": 1}], {}, {"b": None}, {"b": 1}, {"b": {"c": 1}}, {"0": 1}]
        stored = [{}, *({"a": value} for value in inner)]
        fields = [Field("metadata")["a"][key] for key in ("b", "0", "length", "len")]
        fields.append(Field("metadata")["a"]["b"]["c"])
        comparisons = [*_EQUALITY, *_RANGES]
        filters = [where for field in fields for where in _all_filters(field, [1, 2], comparisons)]
        await _check_column(storage, TASKS, "metadata", stored, filters)

    async def test_filters_on_json_keys(self, storage: Storage) -> None:
        """Filters on JSON keys: any text is a valid key, never query text, and a dot does not separate keys.

        If it fails: bind keys as values, or escape them by the engine's own rules. Never insert them into a query.
        """
        stored: list[dict[str, Any]] = [{key: 1} for key in _JSON_KEYS]
        stored.append({"a": {"b": 1}})
        filters = [Field("metadata")[key] == 1 for key in _JSON_KEYS]
        filters += [~where for where in filters]
        filters += [Field("metadata")["a"][key] == 1 for key in _JSON_KEYS]
        await _check_column(storage, TASKS, "metadata", stored, filters)

    async def test_filters_combine(self, storage: Storage) -> None:
        """``&``, ``|`` and ``~`` follow two-valued logic at any depth, also with nulls.

        If it fails: put every part into parentheses. ``And(())`` is true, ``Or(())`` is false.
        """
        rows = [
            sample_row(TASKS, f"r{a}{b}", estimated_minutes=a, description=b, user_id="u1" if a else "u2")
            for a in (None, 0, 1)
            for b in (None, "x", "y")
        ]
        await storage.commit([Insert(TASKS, row) for row in rows])
        minutes, text, user = Field("estimated_minutes"), Field("description"), Field("user_id")
        parts = [minutes == 0, minutes > 0, minutes != 1, text == "x", ~(text > "x"), text.is_null(), user == "u1"]
        filters: list[Filter] = [And(()), Or(()), ~And(()), ~Or(()), And((Or(()), And(())))]
        for left in parts:
            for right in parts:
                filters += [left & right, left | right, ~(left & right), ~(left | right), (left | right) & ~left]
        deep = parts[0]
        for part in parts * 3:
            deep = ~(deep & part) | part
        filters.append(deep)
        await _check_filters(storage, TASKS, rows, filters)

    async def test_filters_with_many_values(self, storage: Storage) -> None:
        """``in_`` accepts a thousand values.

        If it fails: bind the list as one parameter.
        """
        rows = [sample_row(TASKS, f"r{n:04}") for n in range(0, 1200, 100)]
        await storage.commit([Insert(TASKS, row) for row in rows])
        await _check_filters(storage, TASKS, rows, [Field("id").in_([f"r{n:04}" for n in range(1000)])])

    @settings(
        max_examples=60,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(
        objects=st.lists(_objects, min_size=4, max_size=4),
        filters=st.lists(_trees, min_size=1, max_size=4),
    )
    async def test_any_filter_on_any_json(
        self, storage: Storage, objects: list[dict[str, Any]], filters: list[Filter]
    ) -> None:
        """For any JSON objects and any filter, the storage finds the records for which `matches` is true.

        If it fails: the translation of the filter is wrong. Add the falsifying example to your tests.
        """
        # All examples overwrite the same four records, so that they can share one storage.
        rows = [sample_row(TASKS, f"r{n}", metadata=value) for n, value in enumerate(objects)]
        await storage.commit([Put(TASKS, row) for row in rows])
        await _check_filters(storage, TASKS, rows, filters)
