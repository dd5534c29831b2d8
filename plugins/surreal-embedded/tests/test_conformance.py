"""The embedded engine keeps the contracts, kept and temporary, with both indexes."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from pattern_core.testing import StorageContract, VectorStoreContract
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


class TestNative(VectorStoreContract):
    """The engine's own HNSW."""

    spec = pattern_vectors()
    storage_spec = pattern_storage()

    @pytest.fixture
    def options(self) -> VectorOptions:
        """The engine's index."""
        return VectorOptions(index="native")

    @pytest.fixture
    def storage_options(self, tmp_path: Path) -> StorageOptions:
        """A folder that is not there yet."""
        return StorageOptions(path=tmp_path / "pattern.db")
