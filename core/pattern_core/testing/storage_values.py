"""The rules of values: a read returns exactly the written value."""

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
    """Return a value that differs for equal values of different types: ``True``, ``1`` and ``1.0``."""
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
    """Values: a read returns exactly the written value, of the same type."""

    async def test_any_text_is_a_valid_id(self, storage: Storage) -> None:
        """Any text is a valid id, different from every other text.

        If it fails: bind ids as values. Never let the engine parse a text as a record id.
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
    async def test_texts_round_trip(self, storage: Storage, text: str) -> None:
        """Texts are stored exactly: empty, a megabyte, NUL, quotes, combining characters.

        If it fails: bind texts. Do not trim, escape or normalize them.
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
    async def test_json_round_trips(self, storage: Storage, value: dict[str, Any]) -> None:
        """JSON objects are stored exactly: nulls, empty objects and lists, whole floats, large integers, any key.

        If it fails: if the engine drops nulls, or converts 2.0 to 2, store JSON as text or bytes.
        """
        found = await _round_trip(storage, sample_row(TASKS, "t1", metadata=value))
        assert _typed(found["metadata"]) == _typed(value)

    async def test_lists_of_json_round_trip(self, storage: Storage) -> None:
        """Lists of JSON objects are stored exactly; an empty list is not null.

        If it fails: see `test_json_round_trips`. Do not store an empty list as null.
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
    async def test_any_json_round_trips(self, storage: Storage, value: dict[str, Any]) -> None:
        """Any JSON object is stored exactly.

        If it fails: add the falsifying example to your tests.
        """
        found = await _round_trip(storage, sample_row(TASKS, "t1", metadata=value))
        assert _typed(found["metadata"]) == _typed(value)

    @pytest.mark.parametrize("number", [0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63)])
    async def test_integers_round_trip(self, storage: Storage, number: int) -> None:
        """Integers of 64 bits are stored exactly, and read as int.

        If it fails: look for a conversion to float.
        """
        found = await _round_trip(storage, sample_row(TASKS, "t1", estimated_minutes=number))
        assert _typed(found["estimated_minutes"]) == _typed(number)

    @pytest.mark.parametrize("number", [0.0, -0.0, 2.0, 0.1, 1e300, -1e300, 5e-324, 1.7976931348623157e308])
    async def test_floats_round_trip(self, storage: Storage, number: float) -> None:
        """Floats are stored exactly, and read as float, also whole ones.

        If it fails: declare the column as a float, and convert each value that is read.
        """
        found = await _round_trip(storage, sample_row(TASKS, "t1", complexity_score=number))
        assert _typed(found["complexity_score"]) == _typed(number)

    async def test_booleans_round_trip(self, storage: Storage) -> None:
        """Booleans are read as bool.

        If it fails: look for booleans stored as numbers.
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
    async def test_times_round_trip(self, storage: Storage, moment: datetime) -> None:
        """Times are stored to the microsecond, and read as datetime in UTC.

        If it fails: look for milliseconds, local time, and seconds as floats.
        """
        found = (await _round_trip(storage, sample_row(TASKS, "t1", due_at=moment)))["due_at"]
        assert type(found) is datetime
        assert found == moment
        assert found.utcoffset() == timedelta()

    async def test_vectors_round_trip(self, storage: Storage) -> None:
        """Vectors are stored exactly, bit by bit, and read so by `get`, `find` and `scan`.

        If it fails: store float32 as float32, for example as bytes. Decimal text rounds.
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

    async def test_null_replaces_a_value(self, storage: Storage) -> None:
        """Writing null replaces a value, also a vector.

        If it fails: some engines ignore null in an update. Unset the column.
        """
        full = sample_row(TASKS, "t1", description="x", estimated_minutes=3, due_at=NOON, parent_id="t0")
        await storage.commit([Insert(TASKS, full)])
        found = await _round_trip(storage, sample_row(TASKS, "t1"))
        assert [found[name] for name in ("description", "estimated_minutes", "due_at", "parent_id")] == [None] * 4
