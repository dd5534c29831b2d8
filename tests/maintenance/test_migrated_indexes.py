"""A migration to separate vector tables removes the previous entries of an external index."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

import pattern_core
from pattern_core.abc import IndexSpec, Insert, Storage, VectorStore
from pattern_core.assembly.wiring import load_wiring
from pattern_core.catalog.metadata import index_specs, read_metadata
from pattern_core.catalog.tables import OUTBOX
from pattern_core.config import load_config
from pattern_core.errors import ConfigError
from pattern_core.maintenance.indexes import record_index_location
from pattern_core.maintenance.migrations.migrate import migrate_up
from pattern_core.maintenance.migrations.versions import tables_at
from pattern_core.schema import EMBEDDED, TABLES
from pattern_core.testing import sample_row
from tests.helpers.old_database import check_migrated, make_old

pytest.importorskip("pattern_surreal_embedded", reason="needs the plugin surreal-embedded")
pytest.importorskip("pattern_lancedb", reason="needs the plugin lancedb")
pytestmark = pytest.mark.anyio

MEMORIES: Final = 40
CONFIG: Final[dict[str, Any]] = {
    "database": {"type": "surreal-embedded", "path": "pattern.db"},
    "vectors": {"provider": "lancedb", "path": "vectors.lance"},
    "embeddings": {"provider": "hashing", "dimensions": 64},
}


@pytest.fixture(autouse=True)
async def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database of version 2 with an external index, and a pending update of that index, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    await make_old(CONFIG, MEMORIES)

    async def index(storage: Storage, vectors: VectorStore) -> None:
        metadata = await read_metadata(storage)
        for table in EMBEDDED:
            await vectors.create(IndexSpec(tables_at(2)[table.name], 64, "cosine", metadata.identity))
        pending = {"record_table": "memory_blocks", "record_id": "memory_blocks 3", "record_partition": "a"}
        await storage.commit([Insert(OUTBOX, sample_row(OUTBOX, "left", is_claim=False, **pending))])

    await with_engines(index)


async def with_engines(work: Callable[[Storage, VectorStore], Awaitable[None]]) -> None:
    """Open only the storage and the index, and run a function with them."""
    wiring = load_wiring(load_config(CONFIG))
    async with await wiring.storage() as storage, await wiring.vectors(storage) as vectors:
        await work(storage, vectors)


async def check_indexes(storage: Storage, vectors: VectorStore) -> None:
    """Check that exactly the vector tables have indexes, and that no update is pending."""
    assert not any([await vectors.exists(table) for table in EMBEDDED])
    assert all([await vectors.exists(spec.table) for spec in index_specs(await read_metadata(storage), "cosine")])
    assert await storage.count(OUTBOX) == 0


async def test_previous_indexes_are_removed() -> None:
    """A migration replaces the previous indexes and discards their pending updates."""
    await check_migrated(CONFIG, MEMORIES)
    await with_engines(check_indexes)


async def test_an_interrupted_migration_of_indexes() -> None:
    """If a process dies during the migration of the indexes, the next one completes it."""

    async def interrupt(storage: Storage, vectors: VectorStore) -> None:
        metadata = await read_metadata(storage)
        assert metadata.signature is not None
        await migrate_up(storage, metadata.signature)
        metadata = await record_index_location(storage, await read_metadata(storage), vectors)
        await vectors.create(index_specs(metadata, "cosine")[0])
        await vectors.drop(EMBEDDED[0])

    await with_engines(interrupt)
    await check_migrated(CONFIG, MEMORIES)
    await with_engines(check_indexes)


async def test_a_folder_with_records() -> None:
    """A folder with the records of another database is rejected as an index, and not changed."""
    lance = {"database": {"type": "lancedb", "path": "records.lance"}, "embeddings": CONFIG["embeddings"]}
    await make_old(lance, MEMORIES)
    wrong = {**CONFIG, "vectors": {"provider": "lancedb", "path": "records.lance"}}
    with pytest.raises(ConfigError, match="holds records"):
        await pattern_core.open(wrong)
    async with await load_wiring(load_config(lance)).storage() as storage:
        assert await storage.count(TABLES["memory_blocks"]) == MEMORIES
