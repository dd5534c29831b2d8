"""The conformance kit for the embedded storage, on disk and temporary, and for both indexes."""

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
    """A storage in a folder."""

    spec = pattern_storage()

    @pytest.fixture
    def options(self, tmp_path: Path) -> StorageOptions:
        """Return options with a new folder."""
        return StorageOptions(path=tmp_path / "pattern.db")


class TestTemporary(StorageContract):
    """A temporary storage, in strict mode."""

    spec = attrs.evolve(pattern_storage(), persistent=False)

    @pytest.fixture
    def options(self) -> StorageOptions:
        """Return options for a temporary database."""
        return StorageOptions(memory=True, strict_mode=True)


class TestInProcess(VectorStoreContract):
    """The default index, in this process."""

    spec = pattern_vectors()
    storage_spec = pattern_storage()

    @pytest.fixture
    def storage_options(self, tmp_path: Path) -> StorageOptions:
        """Return options with a new folder."""
        return StorageOptions(path=tmp_path / "pattern.db")


async def _open_when_ready(options: VectorOptions, storage: Storage) -> VectorStore:
    """Open an index whose `create` waits for the engine's, so that the tests do not use brute force."""
    if not isinstance(storage, SurrealStorage):
        return await pattern_vectors().open(options, storage)

    class WaitingIndex(NativeIndex):
        async def create(self, index: IndexSpec) -> None:
            await super().create(index)
            await self.maintain()

    return WaitingIndex(storage, efc=options.efc, m=options.m, ef=options.ef, check_every=5)


class TestNative(VectorStoreContract):
    """The engine's HNSW index."""

    spec = attrs.evolve(pattern_vectors(), open=_open_when_ready)
    storage_spec = pattern_storage()

    @pytest.fixture
    def options(self) -> VectorOptions:
        """Return options for the engine's index."""
        return VectorOptions(index="native")

    @pytest.fixture
    def storage_options(self, tmp_path: Path) -> StorageOptions:
        """Return options with a new folder."""
        return StorageOptions(path=tmp_path / "pattern.db")
