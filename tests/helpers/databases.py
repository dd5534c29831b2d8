"""Databases for tests: empty ones, on the in-memory storage and on real engines."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import pattern_core
from pattern_core.abc import Embedder, Storage, VectorStore
from pattern_core.assembly.wiring import load_wiring
from pattern_core.catalog.metadata import index_specs, read_metadata
from pattern_core.config import load_config
from pattern_core.database import Database
from pattern_core.embedding import hashing
from pattern_core.embedding.model import EmbeddingModel
from pattern_core.maintenance.migrations.migrate import migrate_up
from pattern_core.search.exact import ExactIndex
from pattern_core.sessions.direct import DirectSession
from pattern_core.testing import MemoryStorage, MirrorIndex

DIMENSIONS = 256
ENGINES = ["memory", "memory-external", "surreal-embedded", "surreal-embedded-native", "lancedb"]

OpenDatabase = Callable[[EmbeddingModel], Awaitable[Database]]
"""Opens an empty database with an embedding model."""


async def _database(storage: Storage, vectors: VectorStore, embeddings: EmbeddingModel) -> Database:
    """Return a database, set up as by `pattern_core.open`."""
    await migrate_up(storage, await embeddings.signature())
    metadata = await read_metadata(storage)
    for spec in index_specs(metadata, "cosine"):
        await vectors.create(spec)
    return Database(load_config({}), DirectSession(storage, vectors, embeddings, metadata, metric="cosine"))


async def _in_memory(embeddings: EmbeddingModel, *, external: bool) -> Database:
    storage = MemoryStorage()
    vectors = MirrorIndex(storage, MemoryStorage()) if external else ExactIndex(storage)
    return await _database(storage, vectors, embeddings)


def _hashing() -> EmbeddingModel:
    async def load() -> Embedder:
        spec = hashing.pattern_embeddings()
        return await spec.open(spec.options(dimensions=DIMENSIONS))

    return EmbeddingModel(load)


def _config(engine: str, folder: Path) -> dict[str, Any]:
    name = engine.removesuffix("-native")
    pytest.importorskip(f"pattern_{name.replace('-', '_')}", reason=f"needs the plugin {name}")
    config: dict[str, Any] = {
        "database": {"type": name, "path": str(folder / "pattern.db")},
        "embeddings": {"provider": "hashing", "dimensions": DIMENSIONS},
    }
    if engine == "surreal-embedded-native":
        config["vectors"] = {"provider": "surreal-embedded", "index": "native"}
    return config


@pytest.fixture(params=ENGINES)
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """An empty database, on the in-memory storage and on real engines, with each kind of index."""
    if request.param.startswith("memory"):
        async with await _in_memory(_hashing(), external=request.param == "memory-external") as database:
            yield database
        return
    async with pattern_core.open(_config(request.param, tmp_path)) as database:
        yield database


@pytest.fixture(params=ENGINES)
async def open_database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenDatabase]:
    """A function that opens an empty database with an embedding model, on the same storages as `db`."""
    async with contextlib.AsyncExitStack() as opened:

        async def open_with(embeddings: EmbeddingModel) -> Database:
            if request.param.startswith("memory"):
                database = await _in_memory(embeddings, external=request.param == "memory-external")
            else:
                wiring = load_wiring(load_config(_config(request.param, tmp_path)))
                storage = await wiring.storage()
                database = await _database(storage, await wiring.vectors(storage), embeddings)
            return await opened.enter_async_context(database)

        yield open_with


@pytest.fixture
async def people(db: Database) -> None:
    """The user "ada" with the agents "archive" and "planner"."""
    await make_people(db)


async def make_people(db: Database) -> None:
    """Create the user "ada" with the agents "archive" and "planner"."""
    await db.users.create(id="ada", settings={"theme": "dark"})
    await db.agents.create(user_id="ada", agent_type="archive", name="Archive", id="archive")
    await db.agents.create(user_id="ada", agent_type="planner", name="Planner", id="planner")
