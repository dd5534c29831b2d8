from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import pattern_core
from pattern_core import hashing
from pattern_core.abc import Embedder, IndexSpec
from pattern_core.config import load_config
from pattern_core.database import Database
from pattern_core.embedding import Embeddings
from pattern_core.exact import ExactIndex
from pattern_core.maintenance.migrate import migrate_up
from pattern_core.schema import TABLES
from pattern_core.testing.doubles import MemoryStorage

DIMENSIONS = 256


async def _in_memory() -> Database:
    """Wire a database as `pattern_core.open` does, over the storage that needs no plugin."""

    async def load() -> Embedder:
        spec = hashing.pattern_embeddings()
        return await spec.open(spec.options(dimensions=DIMENSIONS))

    storage = MemoryStorage()
    embeddings = Embeddings(load, "error")
    signature = await embeddings.signature()
    await migrate_up(storage, signature)
    vectors = ExactIndex(storage)
    for table in TABLES.values():
        if table.vector is not None:
            await vectors.create(IndexSpec(table, signature.dimensions, "cosine"))
    return Database(load_config({}), storage, vectors, embeddings)


@pytest.fixture(params=["memory", "surreal-embedded", "surreal-embedded-native"])
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """An empty database, on the storage double and on the real engine with both of its indexes."""
    if request.param == "memory":
        async with await _in_memory() as database:
            yield database
        return
    pytest.importorskip("pattern_surreal_embedded", reason="needs the plugin surreal-embedded")
    config: dict[str, Any] = {
        "database": {"type": "embedded", "path": str(tmp_path / "pattern.db")},
        "embeddings": {"provider": "hashing", "dimensions": DIMENSIONS},
    }
    if request.param == "surreal-embedded-native":
        config["vectors"] = {"provider": "surreal-embedded", "index": "native"}
    async with pattern_core.open(config) as database:
        yield database


@pytest.fixture
async def people(db: Database) -> None:
    """A user, "ada", with two agents, "archive" and "planner"."""
    await db.users.create(id="ada", settings={"theme": "dark"})
    await db.agents.create(user_id="ada", agent_type="archive", name="Archive", id="archive")
    await db.agents.create(user_id="ada", agent_type="planner", name="Planner", id="planner")
