"""Fixtures for the tests of the embedded engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pattern_core.schema import CreateTable
from pattern_core.testing import DIMENSIONS, KIT_TABLES
from pattern_surreal_embedded.storage import EmbeddedStorage


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Return the event loop that the library supports."""
    return "asyncio"


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[EmbeddedStorage]:
    """Yield a database on disk with all tables, and no records."""
    async with await EmbeddedStorage.open(tmp_path / "pattern.db") as storage:
        for table in KIT_TABLES:
            await storage.apply_schema(CreateTable(table, DIMENSIONS))
        yield storage
