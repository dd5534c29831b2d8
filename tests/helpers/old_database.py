"""A database of schema version 2, which keeps vectors in the tables of the records."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

import pattern_core
from pattern_core.abc import Insert, Row, Write
from pattern_core.assembly.wiring import load_wiring
from pattern_core.catalog.metadata import Metadata, read_metadata, record_schema_version
from pattern_core.catalog.tables import OUTBOX, generation_number, vector_table
from pattern_core.config import load_config
from pattern_core.embedding.chunks import hash_text, record_id_of
from pattern_core.embedding.model import EmbeddingModel
from pattern_core.maintenance.indexes import read_index_specs, verify_index
from pattern_core.maintenance.migrations.migrate import LATEST
from pattern_core.maintenance.migrations.versions import tables_at
from pattern_core.schema import EMBEDDED, TABLES, CreateTable, Table
from pattern_core.testing import sample_row

__all__ = ["check_migrated", "make_old"]

_OLD: Final = tables_at(2)
_BATCH: Final = 100


async def make_old(config: dict[str, Any], memories: int) -> None:
    """Create a database of schema version 2, with memories of an agent "a", messages and tasks.

    Args:
        config: The configuration; its model makes the vectors.
        memories: The number of memories.
    """
    wiring = load_wiring(load_config(config))
    try:
        signature = await wiring.embeddings.signature()
        async with await wiring.storage() as storage:
            for table in (*_OLD.values(), OUTBOX):
                await storage.apply_schema(CreateTable(table, signature.dimensions))
            writes: list[Write] = [record_schema_version(Metadata(), 2, signature)]
            writes += [Insert(TABLES["users"], sample_row(TABLES["users"], "u"))]
            writes += [Insert(TABLES["agents"], sample_row(TABLES["agents"], "a", user_id="u"))]
            conversation = sample_row(TABLES["conversations"], "c", user_id="u", agent_id="a")
            writes += [Insert(TABLES["conversations"], conversation)]
            for name, rows in _records(memories).items():
                writes += [Insert(_OLD[name], row) for row in await _embedded(name, rows, wiring.embeddings)]
            for start in range(0, len(writes), _BATCH):
                await storage.commit(writes[start : start + _BATCH])
    finally:
        await wiring.embeddings.aclose()


def _records(memories: int) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for table, count, partition in (("memory_blocks", memories, "a"), ("messages", 20, "c"), ("tasks", 20, "u")):
        column, text = str(TABLES[table].partition), TABLES[table].texts[0]
        found[table] = [
            sample_row(_OLD[table], f"{table} {n}", **{column: partition, text: f"word{n} of {table}"})
            for n in range(count)
        ]
    found["messages"].append(sample_row(_OLD["messages"], "messages blank", conversation_id="c", content=" "))
    return found


async def _embedded(name: str, rows: list[Row], embeddings: EmbeddingModel) -> list[Row]:
    table, model = TABLES[name], (await embeddings.signature()).model
    filled = [row for row in rows if table.text(row).strip()]
    for row, made in zip(filled, await embeddings.embed_documents([table.text(row) for row in filled]), strict=True):
        row |= {"embedding": made.vectors[0], "embedding_model": model}
    return rows


async def check_migrated(config: dict[str, Any], memories: int) -> None:
    """Open a database of `make_old`, and check that it is migrated and that searches find every record.

    Args:
        config: The configuration.
        memories: The number of memories.
    """
    async with pattern_core.open(config) as db:
        metadata = await read_metadata(db.storage)
        assert metadata.schema_version == LATEST
        tables = {vector_table(table, metadata.in_use.number).name for table in EMBEDDED}
        assert {name for name in await db.storage.tables() if generation_number(name)} == tables
        for name, rows in _records(memories).items():
            await _check_table(db, TABLES[name], {row["id"]: row for row in rows})
        for spec in await read_index_specs(db.storage, "cosine"):
            assert (await verify_index(db.storage, db.vectors, spec)).ok
        for n in range(0, memories, max(1, memories // 20)):
            (hit,) = await db.memories.search_semantic("a", f"word{n} of memory_blocks", limit=1)
            assert hit.memory.id == f"memory_blocks {n}"
        assert len(await db.memories.search_semantic("a", "word", limit=memories + 10)) == memories
        assert await db.users.count() == await db.agents.count() == await db.conversations.count() == 1
        memory = await db.memories.create(agent_id="a", label="new", content="a zeppelin over the lake")
        (hit,) = await db.memories.search_semantic("a", "zeppelin over a lake", limit=1)
        assert hit.memory.id == memory.id
        await db.memories.delete(memory.id)


async def _check_table(db: pattern_core.Database, table: Table, expected: dict[str, Row]) -> None:
    made = await _embedded(table.name, list(expected.values()), db.embeddings)
    metadata = await read_metadata(db.storage)
    vectors = await db.storage.find(vector_table(table, metadata.in_use.number), vectors=True)
    stored = {record_id_of(row["id"]): row for row in vectors}
    assert stored.keys() == {row["id"] for row in made if row["embedding"] is not None}
    assert len(vectors) == len(stored)
    for id, row in stored.items():
        assert np.array_equal(row["embedding"], expected[id]["embedding"])
        assert row["text_hash"] == hash_text(table.text(expected[id]))
    names = [column.name for column in table.columns]
    found = {row["id"]: row for row in await db.storage.find(table)}
    assert found == {id: {name: row[name] for name in names} for id, row in expected.items()}
