"""The conformance kit on the storage, with records in the write-ahead log and in the Lance tables."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from pattern_core.abc import Position, Storage, Write
from pattern_core.schema import CreateTable
from pattern_core.testing import DIMENSIONS, KIT_TABLES, StorageContract
from pattern_lancedb.local_store import LocalStore
from pattern_lancedb.plugin import StorageOptions, pattern_storage
from pattern_lancedb.storage import LanceStorage


class FlushingStorage(LanceStorage):
    """A storage that flushes each commit into the Lance tables before it returns."""

    async def commit(self, batch: Sequence[Write]) -> Position | None:
        position = await super().commit(batch)
        await self.database.flush()
        return position


class TestWal(StorageContract):
    """The storage in a folder: most records are in the write-ahead log when a test reads them."""

    spec = pattern_storage()

    @pytest.fixture
    def options(self, tmp_path: Path) -> StorageOptions:
        """A new folder."""
        return StorageOptions(path=tmp_path / "pattern.lance")


class TestFlushed(StorageContract):
    """The same with records in the Lance tables; child processes do maintenance at every write."""

    spec = pattern_storage()

    @pytest.fixture
    def options(self, tmp_path: Path) -> StorageOptions:
        """A new folder."""
        return StorageOptions(path=tmp_path / "pattern.lance", log_rows=1)

    @pytest.fixture
    async def storage(self, options: StorageOptions) -> AsyncIterator[Storage]:
        """An open storage with empty tables."""
        async with await FlushingStorage.open(await LocalStore.open(options.path)) as storage:
            for table in KIT_TABLES:
                await storage.apply_schema(CreateTable(table, DIMENSIONS))
            yield storage
