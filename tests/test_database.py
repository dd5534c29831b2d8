"""Backup, restore and verification of an open database, and mistakes in opening one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import pattern_core
from pattern_core.database import Database
from pattern_core.errors import SignatureMismatchError, StorageError
from tests.helpers.databases import make_people

pytestmark = pytest.mark.anyio


async def add_records(db: Database) -> None:
    await make_people(db)
    await db.memories.create_many(
        [{"agent_id": "archive", "label": f"m{n}", "content": f"the word{n} of a text"} for n in range(20)]
    )
    await db.conversations.create(user_id="ada", agent_id="archive", id="thread")
    await db.messages.create(conversation_id="thread", role="user", content="Where is the word7?")


async def test_round_trip(db: Database, tmp_path: Path) -> None:
    """A restored database of any storage finds and stores memories as the original does."""
    await add_records(db)
    before = await db.memories.search("word7", agent_id="archive")
    written: dict[str, int] = {}
    counts = await db.back_up(
        tmp_path / "backup", progress=lambda table, rows: written.update({table: written.get(table, 0) + rows})
    )

    assert counts == {"users": 1, "agents": 2, "memory_blocks": 20, "conversations": 1, "messages": 1} | dict.fromkeys(
        ("tool_calls", "tasks"), 0
    )
    assert written["memory_blocks"] == 20
    config = {"database": {"type": "surreal-embedded", "path": str(tmp_path / "new")}, **_hashing_model(db)}
    pytest.importorskip("pattern_surreal_embedded", reason="needs the plugin surreal-embedded")
    async with pattern_core.open(config) as other:
        assert await other.restore(str(tmp_path / "backup")) == counts
        found = await other.memories.search("word7", agent_id="archive")
        assert [hit.record for hit in found] == [hit.record for hit in before]
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in before], abs=1e-5)
        assert (await other.verify()).ok
        made = await other.memories.create(agent_id="archive", label="new", content="a zeppelin over the lake")
        assert (await other.memories.search("zeppelin", agent_id="archive", limit=1))[0].record == made
    async with pattern_core.open(config) as again:
        assert (await again.memories.search("zeppelin", agent_id="archive", limit=1))[0].record == made
        with pytest.raises(StorageError, match="holds records"):
            await again.restore(tmp_path / "backup")
        assert await again.memories.count() == 21


async def test_restore_after_a_read(db: Database, tmp_path: Path) -> None:
    """A database that was read while it was empty finds everything after a restore."""
    other = tmp_path / "other"
    async with pattern_core.open(_surreal_embedded(other)) as source:
        await add_records(source)
        await source.back_up(tmp_path / "backup")
    if (await db.embeddings.signature()).dimensions != _DIMENSIONS:
        pytest.skip("the backup is of another model")
    assert await db.users.count() == 0
    await db.restore(tmp_path / "backup")
    (hit,) = await db.memories.search("word7", agent_id="archive", limit=1)
    assert hit.record.label == "m7"
    report = await db.verify()
    assert report.ok
    assert sum(index.checked for index in report.indexes) == 21
    await db.memories.update(hit.record, content="something else entirely")
    assert (await db.memories.search("something else entirely", agent_id="archive", limit=1))[
        0
    ].record.id == hit.record.id


async def test_a_backup_of_another_model(db: Database, tmp_path: Path) -> None:
    """A backup with vectors of another model is rejected, and nothing is written."""
    await db.back_up(tmp_path / "backup")
    config = _surreal_embedded(tmp_path / "other") | {"embeddings": {"provider": "hashing", "dimensions": 64}}
    async with pattern_core.open(config) as other:
        await other.users.create(id="grace")
        with pytest.raises(SignatureMismatchError, match="256 dimensions"):
            await other.restore(tmp_path / "backup")
        assert [user.id for user in await other.users.list()] == ["grace"]
        with pytest.raises(StorageError, match="no complete backup"):
            await other.restore(tmp_path / "nothing")


_DIMENSIONS = 256


def _hashing_model(db: Database) -> dict[str, Any]:
    return {"embeddings": {"provider": "hashing", "dimensions": _DIMENSIONS}}


def _surreal_embedded(path: Path) -> dict[str, Any]:
    pytest.importorskip("pattern_surreal_embedded", reason="needs the plugin surreal-embedded")
    return {
        "database": {"type": "surreal-embedded", "path": str(path)},
        "embeddings": {"provider": "hashing", "dimensions": _DIMENSIONS},
    }


class TestForgottenAwait:
    """A program that forgets `await` gets an error that shows it."""

    @pytest.mark.parametrize("name", ["memories", "users", "transaction", "aclose"])
    def test_await(self, name: str) -> None:
        """Using the return value of `open` as a database is an error that shows both ways to open it."""
        unopened: Any = pattern_core.open({})

        with pytest.raises(AttributeError, match=r"async with pattern_core\.open.*await pattern_core\.open"):
            getattr(unopened, name)

    def test_async_with(self) -> None:
        """`with` instead of `async with` is an error that says so."""
        unopened: Any = pattern_core.open({})
        with pytest.raises(TypeError, match="async with"), unopened:
            pass
