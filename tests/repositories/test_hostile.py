"""Hostile input: kept unchanged, or rejected with an error that names the field, with nothing written."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from pattern_core.database import Database
from pattern_core.errors import InvalidVectorError, NotFoundError, PatternError, ValidationError
from pattern_core.filters import Field

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("people")]

TEXTS = {
    "quotes": "it's \"quoted\" \\ and \\' escaped",
    "backticks": "`agents`; DELETE memory_blocks; --",
    "brackets": "⟨memory_blocks:⟩ ⟩ ⟨",
    "record": "memory_blocks:abc",
    "parameter": "$agent_id {{x}} ${HOME} %s",
    "nul": "before\0after",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 é̂ \u200f\u202e",
    "controls": "\t\n\r\x01\x7f\ufeff\uffff",
    "sql": "'; DROP TABLE memory_blocks; REMOVE TABLE memory_blocks; RETURN '",
    "number": "1e400",
    "none": "NONE",
    "long": "wörd " * 200_000,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
async def test_texts_round_trip(db: Database, text: str) -> None:
    """Any text is kept unchanged as id, label, content, key and value, is found by each, and changes nothing else."""
    bystander = await db.memories.create(agent_id="planner", label="bystander", content="left alone")
    short = text[:300]
    made = await db.memories.create(
        agent_id="archive",
        id=short,
        label=short,
        content=text,
        description=text,
        metadata={short: text, "list": [text]},
    )

    assert await db.memories.get(short) == made
    assert (made.content, made.metadata) == (text, {short: text, "list": [text]})
    assert await db.memories.by_label("archive", short) == made
    assert await db.memories.count(Field("metadata")[short] == text) == 1
    assert await db.memories.count(Field("content").contains(short)) == 1
    assert await db.memories.count(Field("label").in_([short, "x"])) == 1
    assert list(await db.memories.list(order="label", limit=1, cursor=None))
    (hit,) = await db.memories.search_semantic("archive", text[:2000])
    assert hit.memory == made
    with pytest.raises(NotFoundError):
        await db.memories.search_semantic(short, text[:2000])
    assert await db.memories.delete(short) == {"memory_blocks": 1}
    assert await db.memories.list(limit=5) is not None
    assert await db.memories.get(bystander.id) == bystander


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
async def test_an_agent_with_any_id(db: Database, text: str) -> None:
    """Searches are limited to the agent, whatever its id contains."""
    id = text[:200]
    await db.agents.create(user_id="ada", agent_type="odd", name="Odd", id=id)
    await db.memories.create(agent_id="archive", label="theirs", content="espresso")
    mine = await db.memories.create(agent_id=id, label="mine", content="espresso")

    assert [hit.memory for hit in await db.memories.search_semantic(id, "espresso")] == [mine]
    assert [hit.memory.label for hit in await db.memories.search_semantic("archive", "espresso")] == ["theirs"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"label": ""},
        {"label": " \n"},
        {"label": 5},
        {"label": None},
        {"content": ""},
        {"content": "\t"},
        {"content": b"bytes"},
        {"content": "half \ud800"},
        {"description": 5},
        {"metadata": []},
        {"metadata": {"a": math.inf}},
        {"metadata": {"a": 2**63}},
        {"metadata": {"a": {1, 2}}},
        {"metadata": {1: "a"}},
        {"metadata": {"\udfff": 1}},
        {"metadata": {"a": datetime(2026, 1, 1)}},  # noqa: DTZ001 - the mistake under test
        {"is_active": 1},
        {"id": ""},
        {"id": "x" * 513},
        {"id": 7},
        {"agent_id": ""},
        {"embedding": np.ones(256)},
        {"revision": 3},
        {"colour": "red"},
    ],
    ids=repr,
)
async def test_invalid_values_are_rejected(db: Database, wrong: dict[str, Any]) -> None:
    """An invalid value is an error that names the field, and nothing is written."""
    record = {"agent_id": "archive", "label": "l", "content": "c", **wrong}
    if record["label"] is None:
        del record["label"]
    with pytest.raises(ValidationError) as caught:
        await db.memories.create_many([record])

    assert next(iter(wrong)) in str(caught.value)
    assert len(str(caught.value)) < 600
    assert await db.memories.count() == 0


async def test_json_that_contains_itself(db: Database) -> None:
    """A dict that contains itself or is nested too deeply is rejected."""
    endless: dict[str, Any] = {}
    endless["self"] = endless
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"in": deep}
    for metadata in (endless, deep):
        with pytest.raises(ValidationError, match="nested deeper than 64"):
            await db.users.create(metadata=metadata)

    assert await db.users.count() == 1


async def test_a_record_shares_nothing_with_the_caller(db: Database) -> None:
    """Changing a dict after the call changes no record."""
    metadata = {"list": [1]}
    made = await db.users.create(id="bob", metadata=metadata)
    metadata["list"].append(2)

    assert made.metadata == {"list": [1]}
    made.metadata["list"].append(3)
    assert (await db.users.get("bob")).metadata == {"list": [1]}


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
async def test_unusable_vectors(db: Database, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vector of NaN, infinity or zeros is rejected, since an engine would rank it first."""
    embedder = db.embeddings.loaded
    assert embedder is not None

    async def broken(texts: list[str]) -> Any:
        return np.full((len(texts), 256), value, dtype=np.float32)

    monkeypatch.setattr(embedder, "embed_documents", broken)
    with pytest.raises(InvalidVectorError):
        await db.memories.create(agent_id="archive", label="l", content="c")

    assert await db.memories.count() == 0


@pytest.mark.parametrize("shape", [(1, 255), (2, 256), (1, 256, 1), (0, 256)])
async def test_vectors_of_the_wrong_shape(
    db: Database, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors of a wrong number or shape are rejected, and nothing is written."""
    embedder = db.embeddings.loaded
    assert embedder is not None

    async def broken(texts: list[str]) -> Any:
        return np.ones(shape, dtype=np.float32)

    monkeypatch.setattr(embedder, "embed_documents", broken)
    with pytest.raises(InvalidVectorError):
        await db.memories.create(agent_id="archive", label="l", content="c")

    assert await db.memories.count() == 0


async def test_hostile_filters(db: Database) -> None:
    """Names and keys of a filter never become query text: an unknown name is an error, a key is only compared."""
    for name in ("id; DROP", "metadata.a", "", "`id`", "id = id OR 1"):
        with pytest.raises(PatternError, match="unknown field"):
            await db.memories.count(Field(name) == "x")
    for key in ("a] OR true OR metadata[", "`", "", "$k", "x.y", "⟩"):
        assert await db.memories.count(Field("metadata")[key]["deeper"] == 1) == 0
