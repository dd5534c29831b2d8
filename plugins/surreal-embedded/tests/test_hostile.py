"""Hostile texts in ids, keys and values: they never become part of a statement, and never change an error."""

from __future__ import annotations

from typing import Any

import pytest

from pattern_core.abc import Check, Delete, Insert, Patch, Put
from pattern_core.errors import AlreadyExistsError, ConflictError, NotFoundError, StorageError
from pattern_core.filters import Field
from pattern_core.schema import TABLES
from pattern_core.testing import sample_row
from pattern_surreal_embedded.storage import EmbeddedStorage

pytestmark = pytest.mark.anyio

MEMORIES, USERS = TABLES["memory_blocks"], TABLES["users"]
TEXTS = [
    "memory_blocks:x",
    "⟨memory_blocks⟩:`x`",
    "⟩",
    "`",
    "\\",
    "\\`",
    "'",
    '"',
    "\0",
    "a\0b",
    "😀",
    "\u202e",
    "$p0",
    "x'; REMOVE TABLE users; --",
    "}; THROW 'pattern missing 0'; {",
    "An error occurred: pattern conflict 0",
    "Database index `by_user_id_and_agent_type` already contains ['x']",
    "x`] already contains [",
    "2024-02-29T12:00:00Z",
    "0190abcd-0000-7000-8000-000000000000",
    "1h30m",
    "42",
    "3.0",
    "NONE",
    "NULL",
    "true",
    "/.*/",
    "[1]",
    '{"a": 1}',
    " ",
    "x" * 100_000,
]


def memory(id: str, **columns: Any) -> dict[str, Any]:
    """Return the row of a memory."""
    return sample_row(MEMORIES, id, **columns)


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
async def test_any_text_anywhere(storage: EmbeddedStorage, text: str) -> None:
    """Every column and JSON key returns a text unchanged, and filters find its record."""
    id = text[:400]
    row = memory(id, agent_id=text, label=text, content=text, description=text, metadata={text: {text: [text]}})
    await storage.commit([Insert(USERS, sample_row(USERS, "bystander")), Insert(MEMORIES, row)])
    assert await storage.get(MEMORIES, [id]) == [row]
    for where in (
        Field("id") == id,
        Field("agent_id") == text,
        Field("label").in_([text]),
        Field("content").contains(text),
        Field("description").startswith(text),
        Field("metadata")[text][text].contains(text),
    ):
        assert await storage.find(MEMORIES, where) == [row]
    await storage.commit([Patch(MEMORIES, id, {"label": text + "!", "metadata": {text: None}})])
    assert (await storage.find(MEMORIES, Field("metadata")[text].is_null()))[0]["label"] == text + "!"
    await storage.commit([Delete(MEMORIES, id)])
    assert await storage.count(MEMORIES) == 0
    assert await storage.count(USERS) == 1


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
async def test_any_text_in_an_error(storage: EmbeddedStorage, text: str) -> None:
    """Whatever a record contains, the error names the right table, key and record, and nothing is written."""
    id = text[:400]
    await storage.commit([Insert(MEMORIES, memory(id, agent_id=text, label=text))])
    key = {"agent_id": text, "label": text}
    new = memory("new", agent_id=text, label=text)
    fine = Insert(MEMORIES, memory("fine", agent_id=text, label="fine"))
    for write in (Insert(MEMORIES, new), Put(MEMORIES, new), Patch(MEMORIES, "fine", {"label": text})):
        with pytest.raises(AlreadyExistsError) as taken:
            await storage.commit([fine, write])
        assert (taken.value.table, taken.value.key) == ("memory_blocks", key)
    with pytest.raises(AlreadyExistsError) as taken:
        await storage.commit([fine, Insert(MEMORIES, memory(id, agent_id="other"))])
    assert taken.value.key == {"id": id}
    with pytest.raises(ConflictError) as conflict:
        await storage.commit([fine, Patch(MEMORIES, id, {"content": text}, revision=7)])
    assert (conflict.value.id, conflict.value.expected) == (id, 7)
    with pytest.raises(NotFoundError) as missing:
        await storage.commit([fine, Check(USERS, id)])
    assert (missing.value.table, missing.value.id) == ("users", id)
    assert [row["id"] for row in await storage.find(MEMORIES)] == [id]


async def test_one_bad_row_among_many(storage: EmbeddedStorage) -> None:
    """A long batch with one invalid row writes nothing, and the error names that row."""
    await storage.commit([Insert(MEMORIES, memory("there", label="taken"))])
    for place in (0, 700, 1499):
        rows = [memory(f"{n:04}", label="taken" if n == place else f"{n}") for n in range(1500)]
        with pytest.raises(AlreadyExistsError) as taken:
            await storage.commit([Insert(MEMORIES, row) for row in rows])
        assert taken.value.key["label"] == "taken"
        rows[place] = memory(f"{place + 1 if place < 1499 else 0:04}", label="free")
        with pytest.raises(AlreadyExistsError) as taken:
            await storage.commit([Insert(MEMORIES, row) for row in rows])
        assert taken.value.key == {"id": rows[place]["id"]}
        assert await storage.count(MEMORIES) == 1


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("metadata", {"half": "\ud800"}),
        ("metadata", {"large": 2**63}),
        ("metadata", {"odd": object()}),
        ("content", None),
        ("content", 5),
        ("content", "\udfff"),
        ("revision", "1"),
        ("revision", 2**64),
        ("created_at", "now"),
        ("is_active", "yes"),
    ],
)
async def test_a_value_that_cannot_be_stored(storage: EmbeddedStorage, column: str, value: object) -> None:
    """A value that the column or the engine cannot store raises `StorageError`, and nothing is written."""
    with pytest.raises(StorageError):
        await storage.commit(
            [Insert(MEMORIES, memory("a")), Insert(MEMORIES, memory("b", label="b") | {column: value})]
        )
    assert await storage.count(MEMORIES) == 0


async def test_rows_have_exactly_the_columns_of_the_table(storage: EmbeddedStorage) -> None:
    """Unknown columns, whatever their names, and missing ones are rejected."""
    for name in ("unknown", "label` = 'x', `content", "metadata.deep"):
        with pytest.raises(StorageError, match="memory_blocks"):
            await storage.commit([Insert(MEMORIES, memory("a") | {name: 1})])
        with pytest.raises(StorageError, match="memory_blocks"):
            await storage.commit([Insert(MEMORIES, memory("a")), Patch(MEMORIES, "a", {name: 1})])
    incomplete = memory("a")
    del incomplete["label"]
    with pytest.raises(StorageError, match="label"):
        await storage.commit([Insert(MEMORIES, incomplete)])
    assert await storage.count(MEMORIES) == 0
