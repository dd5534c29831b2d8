from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import pattern_core
from pattern_core import hashing
from pattern_core.abc import Embedder
from pattern_core.config import load_config
from pattern_core.database import Database
from pattern_core.embedding import Embeddings
from pattern_core.exact import ExactIndex
from pattern_core.maintenance.indexes import specs_of
from pattern_core.maintenance.migrate import migrate_up
from pattern_core.metadata import read_metadata
from pattern_core.testing import MemoryStorage, MirrorIndex

DIMENSIONS = 256


async def _in_memory(*, external: bool) -> Database:
    """Wire a database as `pattern_core.open` does, over the storage that needs no plugin."""

    async def load() -> Embedder:
        spec = hashing.pattern_embeddings()
        return await spec.open(spec.options(dimensions=DIMENSIONS))

    storage = MemoryStorage()
    embeddings = Embeddings(load)
    signature = await embeddings.signature()
    await migrate_up(storage, signature)
    vectors = MirrorIndex(storage, MemoryStorage()) if external else ExactIndex(storage)
    known = await read_metadata(storage)
    for spec in specs_of(known, "cosine"):
        await vectors.create(spec)
    return Database(load_config({}), storage, vectors, embeddings, known)


@pytest.fixture(params=["memory", "memory-external", "surreal-embedded", "surreal-embedded-native", "lancedb"])
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """An empty database, on the storage double and on the real engine with both of its indexes."""
    if request.param.startswith("memory"):
        async with await _in_memory(external=request.param == "memory-external") as database:
            yield database
        return
    name = request.param.removesuffix("-native")
    pytest.importorskip(f"pattern_{name.replace('-', '_')}", reason=f"needs the plugin {name}")
    config: dict[str, Any] = {
        "database": {"type": name, "path": str(tmp_path / "pattern.db")},
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
