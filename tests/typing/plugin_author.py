"""Code of a plugin author and of a user, which ``mypy --strict`` checks against the installed wheel (`nox -s typing`).

It never runs. ``assert_type`` states the type that mypy must infer; an ignored error is one that mypy must report.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, assert_type

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray

import pattern_core
from pattern_core import Field, Hit, Memory, PatternError
from pattern_core.abc import (
    Detail,
    Embedder,
    Health,
    IndexSpec,
    Matches,
    Row,
    Signature,
    Storage,
    Vector,
    VectorChange,
    VectorStore,
)
from pattern_core.filters import Filter
from pattern_core.hookspecs import EmbeddingSpec, StorageSpec, VectorSpec, hookimpl
from pattern_core.schema import TABLES, Table
from pattern_core.testing import EmbedderContract, MemoryStorage, StorageContract, VectorStoreContract, memory_storage
from pattern_core.toolkit import Secret


@attrs.frozen(kw_only=True)
class Options:
    """Options of several types."""

    path: Path = Path("./acme.db")
    key: Secret | None = None
    mode: Literal["fast", "safe"] = "safe"


class AcmeEmbedder(Embedder):
    """An embedder with every abstract method, typed as in the contract."""

    def __init__(self, key: str | None) -> None:
        self.key = key

    @property
    def signature(self) -> Signature:
        return Signature(provider="acme", model="one", revision="1", dimensions=8, normalized=True)

    @property
    def max_batch(self) -> int:
        return 16

    async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.ones((len(texts), self.signature.dimensions), dtype=np.float32)

    async def embed_query(self, text: str) -> Vector:
        (vector,) = await self.embed_documents([text])
        return np.asarray(vector, dtype=np.float32)

    async def aclose(self) -> None:
        self.key = None


class AcmeIndex(VectorStore):
    """A vector search over any storage."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    async def create(self, index: IndexSpec) -> None:
        assert_type(index.table, Table)

    async def exists(self, table: Table) -> bool:
        return table.name in await self.storage.tables()

    async def apply(self, table: Table, changes: Sequence[VectorChange]) -> None:
        for change in changes:
            assert_type(change.vector, Vector | None)

    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, ids: Sequence[str] | None = None
    ) -> Matches:
        return Matches(ids=(), scores=(), exact=True)

    async def count(self, table: Table) -> int:
        return await self.storage.count(table)

    async def drop(self, table: Table) -> None: ...

    async def health(self) -> Health:
        return Health(ok=True, engine="acme", details={"rows": 3})

    async def maintain(self) -> Mapping[str, Detail]:
        return {"compacted": True}

    async def aclose(self) -> None: ...


async def open_storage(options: Options) -> Storage:
    """Open the in-memory storage of the kit."""
    return MemoryStorage()


async def open_index(options: Options, storage: Storage) -> AcmeIndex:
    """Open a vector search."""
    return AcmeIndex(storage)


async def open_embedder(options: Options) -> AcmeEmbedder:
    """Open an embedder."""
    return AcmeEmbedder(options.key.reveal() if options.key else None)


@hookimpl
def pattern_storage() -> StorageSpec:
    """Describe the storage."""
    return StorageSpec(options=Options, open=open_storage, vectors="acme", processes=True, summary="nothing is kept")


@hookimpl
def pattern_vectors() -> VectorSpec:
    """Describe the vector search."""
    return VectorSpec(options=Options, open=open_index, metrics=frozenset({"cosine"}), approximate=True)


@hookimpl
def pattern_embeddings() -> EmbeddingSpec:
    """Describe the embedder."""
    return EmbeddingSpec(options=Options, open=open_embedder, semantic=False)


class TestStorage(StorageContract):
    """The kit for the storage: the spec, and options of an empty storage."""

    spec = pattern_storage()

    @pytest.fixture
    def options(self, tmp_path: Path) -> Options:
        """Options of a file that does not exist."""
        return Options(path=tmp_path / "acme.db")


class TestIndex(VectorStoreContract):
    """The kit for the vector search."""

    spec = pattern_vectors()
    storage_spec = memory_storage()


class TestEmbedder(EmbedderContract):
    """The kit for the embedder."""

    spec = pattern_embeddings()

    @pytest.fixture
    def options(self) -> Options:
        """The options."""
        return Options()


async def program(storage: Storage) -> None:
    """The public API is typed."""
    async with pattern_core.open({"database": {"path": "x"}}) as db:
        assert_type(db, pattern_core.Database)
        user = await db.users.create(settings={"language": "en"})
        agent = await db.agents.create(user_id=user.id, agent_type="archive", name="Archive")
        memory = await db.memories.create(agent_id=agent.id, label="tea", content="Tea after lunch.")
        assert_type(memory, Memory)
        condition = (Field("label") == "tea") & ~Field("metadata")["source"].is_null()
        assert_type(condition, Filter)
        for hit in await db.memories.search_semantic(agent.id, "tea?", where=condition, limit=3):
            assert_type(hit, Hit[Memory])
            assert_type(hit.score, float)
        assert_type(await db.maintain(), dict[str, Mapping[str, Detail]])
        await db.memories.create(agent_id=agent.id, label=3, content="")  # type: ignore[arg-type]  # a label is a text
    row = (await storage.get(TABLES["users"], ["u1"]))[0]
    assert_type(row, Row | None)
    try:
        await storage.commit([])
    except PatternError as error:
        assert_type(error.args, tuple[Any, ...])


def wrong(open_nothing: Callable[[Options], Awaitable[int]]) -> None:
    """Code that mypy must reject."""
    StorageSpec(options=Options, open=open_nothing)  # type: ignore[arg-type]  # it does not open a storage
    AcmeIndex(storage=3)  # type: ignore[arg-type]
    Storage()  # type: ignore[abstract]  # a contract is abstract
