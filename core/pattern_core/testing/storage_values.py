"""The rule of fidelity: what was written is what is read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pattern_core.abc import Delete, Insert, Put, Row, Storage
from pattern_core.filters import Field
from pattern_core.schema import TABLES

from .contract import Contract
from .rows import NOON, TASKS, VECTORS, sample_row
from .storage_filters import HOSTILE_TEXTS

__all__ = ["ValueRules"]

USERS = TABLES["users"]
MEMORIES = TABLES["memory_blocks"]
MESSAGES = TABLES["messages"]

_IDS: Final = (
    *HOSTILE_TEXTS,
    "a",
    "A",
    " a",
    "a ",
    " ",
    "1",
    "01",
    "1.0",
    "-1",
    "true",
    "none",
    "NULL",
    "rand()",
    "ulid()",
    "{}",
    "[1]",
    "(1)",
    "u'00000000-0000-0000-0000-000000000000'",
    "00000000-0000-0000-0000-000000000000",
    "⟨a⟩",
    "users:⟨a⟩",
    "a;DELETE users",
    "--",
    "../../x",
    "\ufeffa",
    "\t",
    "x" * 512,
    "😀" * 512,
)

_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


def _typed(value: Any) -> Any:
    """Make values of different types differ, as ``True``, ``1`` and ``1.0`` do not in Python."""
    if isinstance(value, dict):
        return {key: _typed(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_typed(each) for each in value]
    return type(value), repr(value)


async def _round_trip(storage: Storage, row: Row) -> Row:
    await storage.commit([Put(TASKS, row)])
    (found,) = await storage.get(TASKS, [row["id"]])
    assert found is not None
    return found


class ValueRules(Contract):
    """Nothing is rounded, cut, renamed, dropped or turned into another kind."""

    async def test_any_text_can_be_an_id(self, storage: Storage) -> None:
        """Every id is kept as it is, apart from every other one, and is found, changed and deleted alone.

        If it fails: bind ids as the engine's own record id, never as text that it parses.
        """
        ids = list(dict.fromkeys(_IDS))
        await storage.commit([Insert(USERS, sample_row(USERS, id, settings={"id": id})) for id in ids])
        assert [row and row["settings"] for row in await storage.get(USERS, ids)] == [{"id": id} for id in ids]
        assert [row["id"] for row in await storage.find(USERS)] == sorted(ids)
        for id in ids:
            assert [row["id"] for row in await storage.find(USERS, Field("id") == id)] == [id]
        for id in ids[::2]:
            await storage.commit([Delete(USERS, id)])
        assert [row["id"] for row in await storage.find(USERS)] == sorted(ids[1::2])

    @pytest.mark.parametrize("text", [*HOSTILE_TEXTS, "", " \n\t ", "\ufeff", "\u202e", "a" * 1_000_000])
    async def test_any_text_is_kept(self, storage: Storage, text: str) -> None:
        """A text comes back as it was: empty, a megabyte, NUL, quotes, combining characters.

        If it fails: bind texts; neither trim, escape nor normalise them.
        """
        row = sample_row(TASKS, "t1", title=text, description=text, tags=[text], metadata={text[:99]: text})
        found = await _round_trip(storage, row)
        for name in ("title", "description", "tags", "metadata"):
            assert found[name] == row[name], name

    @pytest.mark.parametrize(
        "value",
        [
            {},
            {"a": None},
            {"a": {"b": None}},
            {"a": [None, {}, []]},
            {"": {"": ""}},
            {"a": 2.0, "b": 2, "c": True, "d": "2", "e": -0.0},
            {"a": 1e300, "b": 5e-324, "c": 0.1, "d": 2**63 - 1, "e": -(2**63), "f": 2**53 + 1},
            {"id": "x", "in": 1, "out": 2, "$a": 1, "a.b": 1, "a`b": 1, "a⟩": 1, "__proto__": 1, "é": 1, "a\x00b": 1},
            {"a": {"b": {"c": {"d": {"e": [[[[1]]]]}}}}},
            {"time": "2024-02-29T12:00:00Z", "record": "users:1", "uuid": "00000000-0000-0000-0000-000000000000"},
            {"z": 1, "a": 2, "m": 3},
        ],
        ids=lambda value: repr(value)[:30].encode("unicode_escape").decode(),
    )
    async def test_json_is_kept(self, storage: Storage, value: dict[str, Any]) -> None:
        """A JSON object comes back as it was: nulls, empty ones, whole floats, large integers, any key.

        If it fails: an engine that drops null, or cannot tell 2.0 from 2, has to be given JSON as text or bytes.
        """
        found = await _round_trip(storage, sample_row(TASKS, "t1", metadata=value))
        assert _typed(found["metadata"]) == _typed(value)

    async def test_lists_of_json_are_kept(self, storage: Storage) -> None:
        """A list of JSON objects comes back as it was; an empty list is not null.

        If it fails: see `test_json_is_kept`; and keep null and empty apart.
        """
        values: list[list[Any] | None] = [None, [], [{}], [{"a": None, "b": [1.0]}, {"a": 1}]]
        for value in values:
            await storage.commit([Put(MESSAGES, sample_row(MESSAGES, "m1", tool_calls=value))])
            (found,) = await storage.find(MESSAGES)
            assert _typed(found["tool_calls"]) == _typed(value)

    @settings(
        max_examples=60,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(value=st.dictionaries(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=5), _json))
    async def test_any_json_is_kept(self, storage: Storage, value: dict[str, Any]) -> None:
        """Any JSON object comes back as it was.

        If it fails: add the falsifying example to `test_json_is_kept`.
        """
        found = await _round_trip(storage, sample_row(TASKS, "t1", metadata=value))
        assert _typed(found["metadata"]) == _typed(value)

    @pytest.mark.parametrize("number", [0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63)])
    async def test_integers_are_kept(self, storage: Storage, number: int) -> None:
        """An integer of 64 bits comes back as an int, exactly.

        If it fails: look for a detour by floats.
        """
        found = await _round_trip(storage, sample_row(TASKS, "t1", estimated_minutes=number))
        assert _typed(found["estimated_minutes"]) == _typed(number)

    @pytest.mark.parametrize("number", [0.0, -0.0, 2.0, 0.1, 1e300, -1e300, 5e-324, 1.7976931348623157e308])
    async def test_floats_are_kept(self, storage: Storage, number: float) -> None:
        """A float comes back as a float, to the last bit; a whole one does not turn into an int.

        If it fails: declare the column as a float, and turn what comes back into one.
        """
        found = await _round_trip(storage, sample_row(TASKS, "t1", complexity_score=number))
        assert _typed(found["complexity_score"]) == _typed(number)

    async def test_booleans_are_kept(self, storage: Storage) -> None:
        """A boolean comes back as a bool.

        If it fails: look for booleans held as numbers.
        """
        rows = [sample_row(MEMORIES, "a", is_active=True), sample_row(MEMORIES, "b", is_active=False)]
        await storage.commit([Insert(MEMORIES, row) for row in rows])
        found = await storage.find(MEMORIES)
        assert [row["is_active"] for row in found] == [True, False]
        assert all(type(row["is_active"]) is bool for row in found)

    @pytest.mark.parametrize(
        "moment",
        [
            NOON,
            NOON.replace(microsecond=0),
            NOON.replace(microsecond=1),
            NOON.replace(microsecond=999_999),
            datetime(1970, 1, 1, tzinfo=UTC),
            datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            datetime(1900, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
            datetime(2100, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        ],
    )
    async def test_times_are_kept(self, storage: Storage, moment: datetime) -> None:
        """A time comes back as an aware datetime in UTC, to the microsecond.

        If it fails: look for milliseconds, local time, and floats of seconds.
        """
        found = (await _round_trip(storage, sample_row(TASKS, "t1", due_at=moment)))["due_at"]
        assert type(found) is datetime
        assert found == moment
        assert found.utcoffset() == timedelta()

    async def test_vectors_are_kept_to_the_bit(self, storage: Storage) -> None:
        """A vector comes back bit for bit, from `get`, `find` and `scan`.

        If it fails: keep float32 as float32 (as bytes, say); a detour by decimal text rounds.
        """
        extremes = [-0.0, 1e-45, -1.1754944e-38, 3.4028235e38, 0.1, 1 / 3, 16_777_217, -1]
        vectors = [np.array(extremes, dtype=np.float32)]
        vectors += list(np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32))
        rows = [sample_row(VECTORS, f"m{n}", embedding=vector) for n, vector in enumerate(vectors)]
        await storage.commit([Insert(VECTORS, row) for row in rows])
        expected = [vector.tobytes() for vector in vectors]
        found = await storage.find(VECTORS, vectors=True)
        assert [row["embedding"].tobytes() for row in found] == expected
        fetched = await storage.get(VECTORS, [f"m{n}" for n in range(len(vectors))], vectors=True)
        assert [row and row["embedding"].tobytes() for row in fetched] == expected
        batches = [batch async for batch in storage.scan(VECTORS, columns=["embedding"])]
        streamed = [np.array(value, dtype=np.float32) for batch in batches for value in batch[0].to_pylist()]
        assert [vector.tobytes() for vector in streamed] == expected

    async def test_a_null_clears_what_was_there(self, storage: Storage) -> None:
        """Writing null over a value, vector included, leaves null.

        If it fails: an engine that ignores null in an update has to be told to unset the column.
        """
        full = sample_row(TASKS, "t1", description="x", estimated_minutes=3, due_at=NOON, parent_id="t0")
        await storage.commit([Insert(TASKS, full)])
        found = await _round_trip(storage, sample_row(TASKS, "t1"))
        assert [found[name] for name in ("description", "estimated_minutes", "due_at", "parent_id")] == [None] * 4
