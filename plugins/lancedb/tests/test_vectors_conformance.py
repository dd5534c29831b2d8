"""The conformance kit on the vector search: over LanceDB and other storages, exact and approximate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import pytest

from pattern_core.abc import Detail, Health, IndexSpec, Matches, Storage, Vector, VectorChange, VectorStore
from pattern_core.schema import Table
from pattern_core.testing import VectorStoreContract
from pattern_core.testing.indexed_storage import USERS, IndexedStorage, clustered
from pattern_lancedb.plugin import StorageOptions, VectorOptions, pattern_storage, pattern_vectors
from pattern_surreal_embedded.plugin import StorageOptions as SurrealOptions
from pattern_surreal_embedded.plugin import pattern_storage as surreal_storage

APPROXIMATE: Final[dict[str, Any]] = {"exact_rows": 0, "refine": 2}
"""Options for approximate search wherever possible."""


class MaintainedIndex(VectorStore):
    """A LanceDB index with maintenance after each change, instead of now and then in the background."""

    def __init__(self, index: VectorStore) -> None:
        self.index = index

    @property
    def location(self) -> str | None:
        return self.index.location

    async def create(self, index: IndexSpec) -> None:
        await self.index.create(index)
        await self.index.maintain()

    async def exists(self, table: Table) -> bool:
        return await self.index.exists(table)

    async def apply(self, table: Table, changes: Sequence[VectorChange]) -> None:
        await self.index.apply(table, changes)
        await self.index.maintain()

    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, ids: Sequence[str] | None = None
    ) -> Matches:
        return await self.index.search(table, vector, partitions=partitions, limit=limit, ids=ids)

    async def count(self, table: Table) -> int:
        return await self.index.count(table)

    async def drop(self, table: Table) -> None:
        await self.index.drop(table)

    async def maintain(self) -> Mapping[str, Detail]:
        return await self.index.maintain()

    async def health(self) -> Health:
        return await self.index.health()

    async def aclose(self) -> None:
        await self.index.aclose()


async def open_maintained(options: Any, storage: Storage) -> VectorStore:
    """Open an index with maintenance after each change."""
    return MaintainedIndex(await pattern_vectors().open(options, storage))


class TestColumn(VectorStoreContract):
    """The vectors in the storage, exact."""

    spec = pattern_vectors()
    storage_spec = pattern_storage()

    @pytest.fixture
    def storage_options(self, tmp_path: Path) -> StorageOptions:
        """A new folder."""
        return StorageOptions(path=tmp_path / "pattern.lance")


class Approximate(VectorStoreContract):
    """The kit, and a check that the approximate index is used."""

    spec = attrs.evolve(pattern_vectors(), open=open_maintained, metrics=frozenset({"cosine", "euclidean"}))

    async def test_the_index_is_used(self, indexed: IndexedStorage) -> None:
        """No search of the test is exact."""
        generator = np.random.default_rng(10)
        vectors = clustered(generator, 400)
        await indexed.write({f"t{n:03}": (USERS[n % 2], vector) for n, vector in enumerate(vectors)})
        await indexed.write({"t000": None, "t002": ("ada", vectors[5]), "t004": ("grace", vectors[4])})
        found = [await indexed.search(vector, ["ada"]) for vector in clustered(generator, 20)]
        assert not any(matches.exact for matches in found)


class TestColumnApproximate(Approximate):
    """The vectors in the storage, approximate."""

    storage_spec = pattern_storage()

    @pytest.fixture
    def options(self) -> VectorOptions:
        """Approximate search wherever possible."""
        return VectorOptions(**APPROXIMATE)

    @pytest.fixture
    def storage_options(self, tmp_path: Path) -> StorageOptions:
        """A new folder."""
        return StorageOptions(path=tmp_path / "pattern.lance")


class TestBesideMemory(VectorStoreContract):
    """Copies of the vectors of the storage in memory, exact."""

    spec = pattern_vectors()

    @pytest.fixture
    def options(self, tmp_path: Path) -> VectorOptions:
        """A new folder."""
        return VectorOptions(path=tmp_path / "vectors.lance")


class TestBesideMemoryApproximate(Approximate):
    """Copies of the vectors of the storage in memory, approximate."""

    @pytest.fixture
    def options(self, tmp_path: Path) -> VectorOptions:
        """A new folder, and approximate search wherever possible."""
        return VectorOptions(path=tmp_path / "vectors.lance", **APPROXIMATE)


class TestBesideSurreal(VectorStoreContract):
    """Copies of SurrealDB's vectors, exact. One metric is enough, since comparisons do not depend on the storage."""

    spec = attrs.evolve(pattern_vectors(), metrics=frozenset({"cosine"}))
    storage_spec = surreal_storage()

    @pytest.fixture
    def options(self, tmp_path: Path) -> VectorOptions:
        """A new folder."""
        return VectorOptions(path=tmp_path / "vectors.lance")

    @pytest.fixture
    def storage_options(self, tmp_path: Path) -> SurrealOptions:
        """A new folder."""
        return SurrealOptions(path=tmp_path / "pattern.db")


class TestBesideSurrealApproximate(Approximate):
    """Copies of SurrealDB's vectors, approximate."""

    spec = attrs.evolve(Approximate.spec, metrics=frozenset({"cosine"}))
    storage_spec = surreal_storage()

    @pytest.fixture
    def options(self, tmp_path: Path) -> VectorOptions:
        """A new folder, and approximate search wherever possible."""
        return VectorOptions(path=tmp_path / "vectors.lance", **APPROXIMATE)

    @pytest.fixture
    def storage_options(self, tmp_path: Path) -> SurrealOptions:
        """A new folder."""
        return SurrealOptions(path=tmp_path / "pattern.db")
