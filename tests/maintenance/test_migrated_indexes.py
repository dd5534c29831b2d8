"""What an external index held before vectors had tables of their own goes when the database has been migrated."""

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
    """A database of version 2 with its external index, in an empty folder, and a change that this has yet to learn of."""
    monkeypatch.chdir(tmp_path)
    await make_old(CONFIG, MEMORIES)

    async def index(storage: Storage, vectors: VectorStore) -> None:
        known = await read_metadata(storage)
        for table in EMBEDDED:
            await vectors.create(IndexSpec(tables_at(2)[table.name], 64, "cosine", known.identity))
        left = {"record_table": "memory_blocks", "record_id": "memory_blocks 3", "record_partition": "a"}
        await storage.commit([Insert(OUTBOX, sample_row(OUTBOX, "left", is_claim=False, **left))])

    await with_parts(index)


async def with_parts(work: Callable[[Storage, VectorStore], Awaitable[None]]) -> None:
    """Open just the storage and the index, and do something with them."""
    wiring = load_wiring(load_config(CONFIG))
    async with await wiring.storage() as storage, await wiring.vectors(storage) as vectors:
        await work(storage, vectors)


async def check_indexes(storage: Storage, vectors: VectorStore) -> None:
    """Fail unless there are the indexes of the tables of vectors, no others, and nothing is left to be learnt."""
    assert not any([await vectors.exists(table) for table in EMBEDDED])
    assert all([await vectors.exists(spec.table) for spec in index_specs(await read_metadata(storage), "cosine")])
    assert await storage.count(OUTBOX) == 0


async def test_they_go() -> None:
    """The old indexes go, the new ones are there, and what was to be told of the old ones is forgotten."""
    await check_migrated(CONFIG, MEMORIES)
    await with_parts(check_indexes)


async def test_they_go_after_one_was_cut_off() -> None:
    """Where a process died when the database was migrated and one of its indexes made, the next one goes on."""

    async def cut_off(storage: Storage, vectors: VectorStore) -> None:
        known = await read_metadata(storage)
        assert known.signature is not None
        await migrate_up(storage, known.signature)
        known = await record_index_location(storage, await read_metadata(storage), vectors)
        await vectors.create(index_specs(known, "cosine")[0])
        await vectors.drop(EMBEDDED[0])

    await with_parts(cut_off)
    await check_migrated(CONFIG, MEMORIES)
    await with_parts(check_indexes)


async def test_records_are_no_index() -> None:
    """A place that holds another database's records is refused as a place of indexes, and they are left alone."""
    lance = {"database": {"type": "lancedb", "path": "records.lance"}, "embeddings": CONFIG["embeddings"]}
    await make_old(lance, MEMORIES)
    wrong = {**CONFIG, "vectors": {"provider": "lancedb", "path": "records.lance"}}
    with pytest.raises(ConfigError, match="holds records"):
        await pattern_core.open(wrong)
    async with await load_wiring(load_config(lance)).storage() as storage:
        assert await storage.count(TABLES["memory_blocks"]) == MEMORIES
