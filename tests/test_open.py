"""`pattern_core.open` with the embedded engine: setup, errors and closing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

import pattern_core
from pattern_core.abc import Patch, Signature
from pattern_core.catalog.metadata import read_metadata
from pattern_core.errors import (
    ClosedError,
    ConfigError,
    DatabaseLockedError,
    MigrationError,
    PluginNotFoundError,
    SignatureMismatchError,
    UnknownOptionError,
)
from pattern_core.maintenance.migrations.migrate import LATEST
from pattern_core.schema import TABLES

pytest.importorskip("pattern_surreal_embedded", reason="needs the plugin surreal-embedded")
pytestmark = pytest.mark.anyio


def config(folder: Path, **embeddings: Any) -> dict[str, Any]:
    return {
        "database": {"type": "embedded", "path": str(folder / "pattern.db")},
        "embeddings": {"provider": "hashing", "dimensions": 256, **embeddings},
    }


async def add_memory(db: pattern_core.Database) -> str:
    user = await db.users.create()
    agent = await db.agents.create(user_id=user.id, agent_type="archive", name="Archive")
    await db.memories.create(agent_id=agent.id, label="coffee", content="Ada drinks one espresso before ten.")
    return agent.id


class TestOpening:
    async def test_reopening(self, tmp_path: Path) -> None:
        """Records are read and found after the database is reopened in the same process."""
        async with pattern_core.open(config(tmp_path)) as db:
            agent = await add_memory(db)
            before = await db.memories.search_semantic(agent, "espresso")
        async with pattern_core.open(config(tmp_path)) as db:
            after = await db.memories.search_semantic(agent, "espresso")

        assert after == before
        assert [hit.memory.label for hit in after] == ["coffee"]

    async def test_closed_completely_if_cancelled(self, tmp_path: Path) -> None:
        """The database is closed completely also if a cancelled anyio scope cancels each of its waits."""
        for _ in range(2):
            with anyio.CancelScope() as scope:
                async with pattern_core.open(config(tmp_path)) as db:
                    await db.users.create()
                    scope.cancel()
                    await db.users.create()
            assert scope.cancelled_caught
        async with pattern_core.open(config(tmp_path)) as db:
            assert await db.storage.count(TABLES["users"]) >= 2

    async def test_from_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A relative path in a file starts from the folder of the file, not from the current one."""
        (tmp_path / "pattern.toml").write_text('[database]\npath = "data/mine"\n[embeddings]\nprovider = "hashing"\n')
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        monkeypatch.delenv("PATTERN_CONFIG", raising=False)
        async with pattern_core.open() as db:
            await add_memory(db)

        assert (tmp_path / "data" / "mine").is_dir()

    async def test_awaited(self, tmp_path: Path) -> None:
        """`open` can be awaited instead; the caller then closes the database, once or twice."""
        db = await pattern_core.open(config(tmp_path))
        await add_memory(db)
        await db.aclose()
        await db.aclose()
        for call in (db.users.count, db.users.list, db.users.create):
            with pytest.raises(ClosedError):
                await call()

    async def test_health(self, tmp_path: Path) -> None:
        """`health` reports every part as ok; for a closed part it reports the error and does not raise it."""
        async with pattern_core.open(config(tmp_path)) as db:
            health = await db.health()
            assert set(health) == {"storage", "vectors", "embeddings"}
            assert all(part.ok for part in health.values())
            await db.storage.aclose()
            assert not (await db.health())["storage"].ok

    async def test_load_model(self, tmp_path: Path) -> None:
        """With `load_model=False` the first text loads the model; a new database always loads it."""
        async with pattern_core.open(config(tmp_path), load_model=False) as db:
            assert db.embeddings.loaded is not None
            agent = await add_memory(db)
        async with pattern_core.open(config(tmp_path), load_model=False) as db:
            assert db.embeddings.loaded is None
            assert (await db.health())["embeddings"].details == {"loaded": False}
            assert await db.memories.count() == 1
            assert db.embeddings.loaded is None
            assert len(await db.memories.search_semantic(agent, "espresso")) == 1
            assert db.embeddings.loaded is not None

    async def test_closing_waits_for_commits(self, tmp_path: Path) -> None:
        """Closing waits for running commits, and their records are kept."""
        db = await pattern_core.open(config(tmp_path))
        task = asyncio.create_task(db.users.create_many([{"id": str(n)} for n in range(100)]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await db.aclose()
        written = not isinstance((await asyncio.gather(task, return_exceptions=True))[0], BaseException)
        async with pattern_core.open(config(tmp_path)) as db:
            assert await db.users.count() == (100 if written else 0)


class TestErrors:
    async def test_another_model(self, tmp_path: Path) -> None:
        """A database with vectors of another model is rejected with both signatures, and not changed."""
        async with pattern_core.open(config(tmp_path)) as db:
            agent = await add_memory(db)
        other = config(tmp_path, dimensions=128)
        with pytest.raises(SignatureMismatchError, match="256 dimensions.*128 dimensions") as caught:
            await pattern_core.open(other)
        assert "[embeddings]" in str(caught.value)
        async with pattern_core.open(other, load_model=False) as db:
            assert await db.memories.count() == 1
            with pytest.raises(SignatureMismatchError):
                await db.memories.search_semantic(agent, "espresso")
            with pytest.raises(SignatureMismatchError):
                await db.memories.upsert(agent, "new", "text")
            assert await db.memories.count() == 1

        async with pattern_core.open(config(tmp_path)) as db:
            assert len(await db.memories.search_semantic(agent, "espresso")) == 1

    async def test_the_signature_is_recorded(self, tmp_path: Path) -> None:
        """The metadata holds the model, the dimensions, the signature and the schema version."""
        async with pattern_core.open(config(tmp_path)) as db:
            (row,) = await db.storage.find(TABLES["system_metadata"])
            signature = await db.embeddings.signature()

        assert (row["embedding_model"], row["embedding_dimensions"]) == (signature.model, 256)
        assert Signature.from_json(row["embedding_signature"]) == signature
        assert row["schema_version"] == LATEST

    async def test_a_second_opener(self, tmp_path: Path) -> None:
        """A second opener, in this process or another, gets an error at once that names the owner."""
        script = (
            "import asyncio, sys, pattern_core\n"
            "async def main():\n"
            f"    async with pattern_core.open({config(tmp_path)!r}):\n"
            "        print('open', flush=True)\n"
            "        await asyncio.to_thread(sys.stdin.read)\n"
            "asyncio.run(main())\n"
        )
        other = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with other:
            assert other.stdout is not None
            assert other.stdout.readline() == "open\n"
            with pytest.raises(DatabaseLockedError) as caught:
                await pattern_core.open(config(tmp_path))
        assert str(other.pid) in caught.value.owner
        async with pattern_core.open(config(tmp_path)):
            with pytest.raises(DatabaseLockedError, match="already open"):
                await pattern_core.open(config(tmp_path))

    async def test_a_newer_database(self, tmp_path: Path) -> None:
        """A database with a later schema version is rejected, with the remedy."""
        async with pattern_core.open(config(tmp_path)) as db:
            (row,) = await db.storage.find(TABLES["system_metadata"])
            await db.storage.commit([Patch(TABLES["system_metadata"], row["id"], {"schema_version": 99})])
        with pytest.raises(MigrationError, match="pip install --upgrade"):
            await pattern_core.open(config(tmp_path))

    @pytest.mark.parametrize(
        ("section", "options", "error", "hint"),
        [
            ("database", {"pth": "x"}, UnknownOptionError, "Did you mean 'path'"),
            ("database", {"strict_mode": "no"}, ConfigError, "expected true or false"),
            ("database", {"type": "surreal"}, PluginNotFoundError, "Did you mean 'surreal-"),
            ("vectors", {"index": "hnsw"}, ConfigError, "Known: in-process, native"),
            ("vectors", {"efc": 0}, ConfigError, "efc"),
            ("vectors", {"provider": "hashing"}, PluginNotFoundError, "offers embeddings"),
            ("embeddings", {"dimension": 4}, UnknownOptionError, "Did you mean 'dimensions'"),
            ("embeddings", {"dimensions": -1}, ConfigError, "dimensions"),
            ("embeddings", {"provider": "nobody"}, PluginNotFoundError, "Known:"),
        ],
    )
    async def test_mistakes_leave_no_files(
        self, tmp_path: Path, section: str, options: dict[str, Any], error: type[Exception], hint: str
    ) -> None:
        """An error about the configuration suggests the right value, before any file is written."""
        wrong = config(tmp_path)
        wrong[section] = {**wrong.get(section, {}), **options}
        with pytest.raises(error) as caught:
            await pattern_core.open(wrong)

        assert hint in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    async def test_other_metrics(self, tmp_path: Path) -> None:
        """Scores of the euclidean and manhattan metric are 0 for an equal text and lower for another."""
        for metric in ("euclidean", "manhattan"):
            async with pattern_core.open({**config(tmp_path), "vectors": {"metric": metric}}) as db:
                agent = (await db.agents.list())[0].id if await db.agents.count() else await add_memory(db)
                (hit,) = await db.memories.search_semantic(agent, "Ada drinks one espresso before ten.")
                assert hit.score == pytest.approx(0, abs=1e-3)
                far = await db.memories.search_semantic(agent, "trains")
                assert far[0].score < -0.5


async def test_vectors_are_kept_bit_for_bit(tmp_path: Path) -> None:
    """A vector is read after reopening as it was written, bit for bit."""
    async with pattern_core.open(config(tmp_path)) as db:
        agent = await add_memory(db)
        memory = await db.memories.by_label(agent, "coffee")
        before = (await db.memories.get(memory.id, with_embedding=True)).embedding
    async with pattern_core.open(config(tmp_path)) as db:
        after = (await db.memories.get(memory.id, with_embedding=True)).embedding
        assert (await read_metadata(db.storage)).schema_version == LATEST

    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(before.vectors, after.vectors)
