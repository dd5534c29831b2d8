"""A session whose database another process migrates."""

from __future__ import annotations

import pytest

from pattern_core.catalog.metadata import SCHEMA_VERSION, read_metadata, record_schema_version
from pattern_core.errors import MigrationError
from pattern_core.maintenance.migrations.versions import MIGRATIONS
from pattern_core.testing import MemoryData
from tests.helpers.databases import make_people
from tests.helpers.reembedding import OLD, Letters, open_in_memory

pytestmark = pytest.mark.anyio


def test_the_latest_migration_leads_to_the_version_that_sessions_know() -> None:
    """`MIGRATIONS` lead to `SCHEMA_VERSION`, one after the other."""
    assert [each.version for each in MIGRATIONS] == [*range(1, SCHEMA_VERSION + 1)]


@pytest.mark.parametrize(("version", "way_out"), [(SCHEMA_VERSION + 1, "Update it"), (SCHEMA_VERSION - 1, "again")])
async def test_writes_are_refused_after_a_migration(version: int, way_out: str) -> None:
    """After another process has migrated the database, no write takes effect, with or without vectors."""
    data: MemoryData = {}
    async with open_in_memory(data, Letters(OLD)) as first, open_in_memory(data, Letters(OLD)) as other:
        await make_people(first)
        await other.users.create(id="grace")
        metadata = await read_metadata(first.storage)
        assert metadata.signature is not None
        await first.storage.commit([record_schema_version(metadata, version, metadata.signature)])
        before = {name: dict(rows) for name, rows in data.items()}
        for _ in range(2):
            with pytest.raises(MigrationError, match=way_out):
                await other.users.create(id="hedy")
            with pytest.raises(MigrationError, match=way_out):
                await other.agents.update("archive", name="changed")
            with pytest.raises(MigrationError, match=way_out):
                await other.memories.create(agent_id="archive", label="tea", content="late")
            with pytest.raises(MigrationError, match=way_out):
                await other.users.delete("grace")
        assert data == before
