"""The embedded engine keeps the contracts, kept and temporary, with both indexes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pattern_core.abc import Storage, VectorStore
from pattern_core.testing import StorageContract, VectorStoreContract
from pattern_surreal_embedded.plugin import StorageOptions, VectorOptions, pattern_storage, pattern_vectors

OpenStorage = Callable[[], Awaitable[Storage]]
OpenVectors = Callable[[Storage], Awaitable[VectorStore]]


class TestOnDisk(StorageContract):
    """The storage in a folder."""

    @pytest.fixture
    def open_storage(self, tmp_path: Path) -> OpenStorage:
        """Open the same folder again and again."""
        return lambda: pattern_storage().open(StorageOptions(path=tmp_path / "pattern.db"))


class TestTemporary(StorageContract):
    """The storage that keeps nothing, in strict mode."""

    persistent = False

    @pytest.fixture
    def open_storage(self) -> OpenStorage:
        """Open a new database."""
        return lambda: pattern_storage().open(StorageOptions(memory=True, strict_mode=True))


class TestInProcess(VectorStoreContract):
    """The index in this process, which is the default."""

    @pytest.fixture
    def open_storage(self, tmp_path: Path) -> OpenStorage:
        """Open the same folder again and again."""
        return lambda: pattern_storage().open(StorageOptions(path=tmp_path / "pattern.db"))

    @pytest.fixture
    def open_vectors(self) -> OpenVectors:
        """Open the default index."""
        return lambda storage: pattern_vectors().open(VectorOptions(), storage)


class TestNative(VectorStoreContract):
    """The engine's own HNSW."""

    @pytest.fixture
    def open_storage(self, tmp_path: Path) -> OpenStorage:
        """Open the same folder again and again."""
        return lambda: pattern_storage().open(StorageOptions(path=tmp_path / "pattern.db"))

    @pytest.fixture
    def open_vectors(self) -> OpenVectors:
        """Open the engine's index."""
        return lambda storage: pattern_vectors().open(VectorOptions(index="native"), storage)
