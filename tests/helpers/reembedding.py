"""Helpers for the tests of re-embedding: models, databases and checks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pattern_core.abc import Embedder, Signature, Storage, VectorStore
from pattern_core.catalog.metadata import index_specs, read_metadata
from pattern_core.catalog.tables import vector_table
from pattern_core.config import EmbeddingPolicy, load_config
from pattern_core.database import Database
from pattern_core.embedding.chunks import hash_text, record_id_of
from pattern_core.embedding.model import EmbeddingModel
from pattern_core.errors import EmbeddingError
from pattern_core.maintenance.indexes import read_index_specs, verify_index
from pattern_core.maintenance.migrations.migrate import migrate_up
from pattern_core.schema import EMBEDDED
from pattern_core.search.exact import ExactIndex
from pattern_core.sessions.direct import DirectSession
from pattern_core.testing import LetterEmbedder, MemoryData, MemoryStorage, MirrorIndex
from tests.helpers.dying import Dying

__all__ = [
    "NEW",
    "OLD",
    "WORDS",
    "Letters",
    "add_records",
    "check_embeddings",
    "embedding_model",
    "failing_model",
    "open_in_memory",
    "session",
]

OLD: Final = 64
"""Dimensions of the first model."""
NEW: Final = 32
"""Dimensions of the model that replaces it."""


WORDS: Final = "tea coffee train lake fox judge paper window garden letter river music".split()  # noqa: SIM905 - reads best


class Letters(LetterEmbedder):
    """An embedder that counts pairs of letters, with a choice of dimensions."""

    def __init__(self, dimensions: int, *, limit: int | None = None) -> None:
        self._dimensions = dimensions
        self._limit = limit
        self.texts: list[str] = []
        self.before_each: Callable[[], Awaitable[object] | None] = lambda: None

    @property
    def signature(self) -> Signature:
        return Signature(
            provider="letters",
            model=f"pairs {self._dimensions}",
            revision="1",
            dimensions=self._dimensions,
            normalized=True,
            max_tokens=self._limit,
        )

    async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if (waiting := self.before_each()) is not None:
            await waiting
        self.texts += texts
        await asyncio.sleep(0)
        wide = await super().embed_documents(texts)
        folded: NDArray[np.float32] = wide.reshape(len(texts), -1, self._dimensions).sum(axis=1) + np.float32(0.01)
        unit: NDArray[np.float32] = folded / np.linalg.norm(folded, axis=1, keepdims=True)
        return unit


def embedding_model(embedder: Embedder, **policy: Any) -> EmbeddingModel:
    """Return the embedding model of an embedder."""

    async def load() -> Embedder:
        return embedder

    return EmbeddingModel(load, EmbeddingPolicy(**policy))


async def add_records(db: Database, count: int) -> None:
    """Create memories, two messages, one of them empty, and a task."""
    memories = [
        {"agent_id": ("archive", "planner")[n % 2], "label": f"m{n}", "content": f"{WORDS[n % 12]} number {n}"}
        for n in range(count)
    ]
    await db.memories.create_many(memories)
    thread = await db.conversations.create(user_id="ada", agent_id="archive", id="thread")
    await db.messages.create(conversation_id=thread.id, role="user", content="Good morning, fox.")
    await db.messages.create(conversation_id=thread.id, role="user", content="")
    await db.tasks.create(user_id="ada", title="Write a letter", description="to the judge")


async def check_embeddings(storage: Storage, vectors: VectorStore) -> None:
    """Check that exactly the records with a text have vectors, of their current text and by the active model."""
    metadata = await read_metadata(storage)
    assert metadata.active is not None
    for table in EMBEDDED:
        rows = await storage.find(vector_table(table, metadata.active.number), vectors=True)
        expected = {row["id"]: hash_text(table.text(row)) for row in await storage.find(table) if table.text(row)}
        assert {record_id_of(row["id"]): row["text_hash"] for row in rows} == expected
        assert {row["signature"] for row in rows} <= {metadata.active.signature.digest}
        assert {row["embedding"].shape for row in rows} <= {(metadata.active.signature.dimensions,)}
    for spec in await read_index_specs(storage, "cosine"):
        assert (await verify_index(storage, vectors, spec)).ok


def session(db: Database) -> DirectSession:
    return db._session


def failing_model(*, after: int) -> Letters:
    """Return a model that fails after a number of calls."""
    model = Letters(NEW)
    remaining = after

    def count() -> None:
        nonlocal remaining
        remaining -= 1
        if remaining < 0:
            raise EmbeddingError("the service has had enough")

    model.before_each = count
    return model


@contextlib.asynccontextmanager
async def open_in_memory(
    data: MemoryData, model: Letters, *, dying: int | None = None, mirror: MemoryData | None = None
) -> AsyncIterator[Database]:
    """Open an in-memory database as another process would; the process may die after some changes."""
    storage = Dying(data)
    embeddings = embedding_model(model, cache=False)
    await migrate_up(storage, await embeddings.signature())
    metadata = await read_metadata(storage)
    embeddings.require(metadata.signature or model.signature)
    vectors = ExactIndex(storage) if mirror is None else MirrorIndex(storage, MemoryStorage(mirror))
    for spec in index_specs(metadata, "cosine"):
        await vectors.create(spec)
    if dying is not None:
        storage.left = dying
    db = Database(load_config({}), DirectSession(storage, vectors, embeddings, metadata, metric="cosine"))
    try:
        await db.catch_up()
        yield db
    finally:
        storage.left = float("inf")
        await embeddings.aclose()
