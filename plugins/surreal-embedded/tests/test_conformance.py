"""The embedded engine keeps the contracts, kept and temporary, with both indexes."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from pattern_core.abc import IndexSpec, Storage, VectorStore
from pattern_core.testing import StorageContract, VectorStoreContract
from pattern_surreal import SurrealStorage
from pattern_surreal.native import NativeIndex
from pattern_surreal_embedded.plugin import StorageOptions, VectorOptions, pattern_storage, pattern_vectors


class TestOnDisk(StorageContract):
    """The storage in a folder."""

    spec = pattern_storage()

    @pytest.fixture
    def options(self, tmp_path: Path) -> StorageOptions:
        """A folder that is not there yet."""
        return StorageOptions(path=tmp_path / "pattern.db")


class TestTemporary(StorageContract):
    """The storage that keeps nothing, in strict mode."""

    spec = attrs.evolve(pattern_storage(), persistent=False)

    @pytest.fixture
    def options(self) -> StorageOptions:
        """A new database."""
        return StorageOptions(memory=True, strict_mode=True)


class TestInProcess(VectorStoreContract):
    """The index in this process, which is the default."""

    spec = pattern_vectors()
    storage_spec = pattern_storage()

    @pytest.fixture
    def storage_options(self, tmp_path: Path) -> StorageOptions:
        """A folder that is not there yet."""
        return StorageOptions(path=tmp_path / "pattern.db")


async def _open_when_ready(options: VectorOptions, storage: Storage) -> VectorStore:
    """Open an index whose `create` waits until the engine's is ready, so that it is that one which is tested."""
    if not isinstance(storage, SurrealStorage):
        return await pattern_vectors().open(options, storage)

    class Patient(NativeIndex):
        async def create(self, index: IndexSpec) -> None:
            await super().create(index)
            await self.maintain()

    return Patient(storage, efc=options.efc, m=options.m, ef=options.ef, check_every=5)


class TestNative(VectorStoreContract):
    """The engine's own HNSW."""

    spec = attrs.evolve(pattern_vectors(), open=_open_when_ready)
    storage_spec = pattern_storage()

    @pytest.fixture
    def options(self) -> VectorOptions:
        """The engine's index."""
        return VectorOptions(index="native")

    @pytest.fixture
    def storage_options(self, tmp_path: Path) -> StorageOptions:
        """A folder that is not there yet."""
        return StorageOptions(path=tmp_path / "pattern.db")
