"""Compare lookups in LanceDB after many single upserts, with background maintenance, and in a freshly compacted database.

``python benchmarks/lancedb_maintenance.py [RECORDS] [UPSERTS]``. Compare the ratios; the times depend on the machine.
"""
# ruff: noqa: INP001, T201 - a program that prints

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from measuring import median

from pattern_core.abc import Put, Storage
from pattern_core.embedding.chunks import chunk_id
from pattern_core.filters import Field
from pattern_core.schema import TABLES, CreateTable
from pattern_core.testing import VECTORS, sample_row, sample_vector
from pattern_lancedb.plugin import StorageOptions, pattern_storage

MEMORIES = TABLES["memory_blocks"]
DIMENSIONS = 384
LOOKUPS = 300


def record(number: int) -> list[Put]:
    """Return the writes of a memory and its vector."""
    id, agent = f"m{number:06}", f"agent-{number % 10}"
    vector = sample_row(VECTORS, chunk_id(id, 0), partition=agent, embedding=sample_vector(id, DIMENSIONS))
    return [Put(MEMORIES, sample_row(MEMORIES, id, agent_id=agent)), Put(VECTORS, vector)]


async def lookups(storage: Storage, records: int) -> dict[str, float]:
    """Return the median times of reads, in milliseconds."""
    return {
        "get by id": await median(lambda n: storage.get(MEMORIES, [f"m{n * 7 % records:06}"]), LOOKUPS),
        "find by key": await median(
            lambda n: storage.find(
                MEMORIES, (Field("agent_id") == f"agent-{n % 10}") & (Field("label") == f"label of m{n:06}")
            ),
            LOOKUPS,
        ),
        "count of an agent": await median(
            lambda n: storage.count(MEMORIES, Field("agent_id") == f"agent-{n % 10}"), 30
        ),
    }


async def main(records: int, upserts: int) -> None:
    """Fill a database and compact it; measure reads, upsert one by one, measure again, compact, measure again."""
    with tempfile.TemporaryDirectory() as folder:
        async with await pattern_storage().open(StorageOptions(path=Path(folder) / "bench.lance")) as storage:
            for table in (MEMORIES, VECTORS):
                await storage.apply_schema(CreateTable(table, DIMENSIONS))
            began = time.perf_counter()
            for start in range(0, records, 1000):
                await storage.commit([put for n in range(start, min(records, start + 1000)) for put in record(n)])
            print(f"{records:,} records in batches of 1,000: {records / (time.perf_counter() - began):,.0f} a second")
            await storage.maintain()
            fresh = await lookups(storage, records)
            upsert = await median(lambda n: storage.commit(record(n * 3 % records)), upserts)
            print(f"{upserts:,} single upserts, each {upsert:.1f} ms")
            after = await lookups(storage, records)
            print(dict((await storage.health()).details))
            await storage.maintain()
            again = await lookups(storage, records)
            for name, value in after.items():
                best = min(fresh[name], again[name])
                print(f"{name}: {best:.2f} ms compacted, {value:.2f} ms after the upserts: {value / best:.2f} x")


if __name__ == "__main__":
    given = [int(each) for each in sys.argv[1:]]
    asyncio.run(main(*(given + [10_000, 2_000][len(given) :])))
