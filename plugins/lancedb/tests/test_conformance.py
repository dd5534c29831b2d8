"""LanceDB keeps the contract of a storage."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from pattern_core.abc import Storage, Write
from pattern_core.schema import CreateTable
from pattern_core.testing import DIMENSIONS, KIT_TABLES, StorageContract
from pattern_lancedb.place import Folder
from pattern_lancedb.plugin import StorageOptions, pattern_storage
from pattern_lancedb.storage import LanceStorage


class Moving(LanceStorage):
    """Moves each commit into the Lance tables before it returns."""

    async def commit(self, batch: Sequence[Write]) -> None:
        await super().commit(batch)
        await self.lance.flush()


class TestLogged(StorageContract):
    """The storage in a folder: what a test writes is mostly still in the log when it is read."""

    spec = pattern_storage()

    @pytest.fixture
    def options(self, tmp_path: Path) -> StorageOptions:
        """A folder that is not there yet."""
        return StorageOptions(path=tmp_path / "pattern.lance")


class TestMoved(StorageContract):
    """The same, but what a test writes is in the Lance tables when it is read; children do upkeep at every write."""

    spec = pattern_storage()

    @pytest.fixture
    def options(self, tmp_path: Path) -> StorageOptions:
        """A folder that is not there yet."""
        return StorageOptions(path=tmp_path / "pattern.lance", log_rows=1)

    @pytest.fixture
    async def storage(self, options: StorageOptions) -> AsyncIterator[Storage]:
        """An open storage with all tables, empty."""
        async with await Moving.open(await Folder.open(options.path)) as storage:
            for table in KIT_TABLES:
                await storage.apply_schema(CreateTable(table, DIMENSIONS))
            yield storage
