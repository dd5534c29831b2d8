"""Compare the ways to search vectors with a SurrealDB server: writing, searching, recall, and search while others write.

``python benchmarks/server_search.py [VECTORS …]``, with the server's engine installed by ``npm ci`` in
``tests/servers/node``, or with ``PATTERN_TEST_SURREAL_URL``. Ten agents; each search is in the vectors of one. Ratios
matter, not the numbers. From here comes up to which size ``auto`` compares (``exact_rows``).
"""
# ruff: noqa: INP001, T201 - a program that prints

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import embeddings
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from pattern_core.abc import IndexSpec, Insert, Storage, Vector, VectorChange, VectorStore
from pattern_core.schema import CreateTable
from pattern_core.testing import VECTORS, sample_row
from pattern_core.toolkit import Secret
from pattern_surreal_remote.plugin import StorageOptions, VectorOptions, pattern_storage, pattern_vectors
from tests.servers.surreal import Server, running

AGENTS = 10
DIMENSIONS = 384
LIMIT = 10
SEARCHES = 30
AT_ONCE = 4
BATCH = 200
SINGLES = 20
KINDS = ("in-process", "exact", "native")
COLUMNS = ("rows/s", "1 row ms", "search ms", "searches/s", "others write", "recall", "exact")


async def write(
    storage: Storage, index: VectorStore | None, vectors: NDArray[np.float32], numbers: Sequence[int]
) -> None:
    """Write some vectors, by turns for each of the agents."""
    rows = [
        sample_row(VECTORS, f"m{n:07}", partition=f"agent{n % AGENTS}", embedding=vectors[n % len(vectors)])
        for n in numbers
    ]
    await storage.commit([Insert(VECTORS, row) for row in rows])
    if index is not None:
        changes = [VectorChange(row["id"], row["partition"], row["embedding"]) for row in rows]
        await index.apply(VECTORS, changes)


async def search(index: VectorStore, query: Vector) -> tuple[float, set[str], bool]:
    """Return the milliseconds that a search has taken, what it has found, and whether it was exact."""
    began = time.perf_counter()
    found = await index.search(VECTORS, query, partitions=["agent0"], limit=LIMIT)
    return (time.perf_counter() - began) * 1e3, set(found.ids), found.exact


async def measure(
    options: StorageOptions, kind: Any, vectors: NDArray[np.float32], queries: list[Vector]
) -> list[float]:
    """Return the figures of one kind."""
    count = len(vectors)
    own = np.arange(0, count, AGENTS)
    async with await pattern_storage().open(options) as storage, await pattern_storage().open(options) as other:
        await storage.apply_schema(CreateTable(VECTORS, DIMENSIONS))
        async with await pattern_vectors().open(VectorOptions(index=kind), storage) as index:
            await index.create(IndexSpec(VECTORS, DIMENSIONS, "cosine"))
            began = time.perf_counter()
            for start in range(0, count, BATCH):
                await write(storage, index, vectors, range(start, min(start + BATCH, count)))
            written = count / (time.perf_counter() - began)
            await index.maintain()
            took, hits, exact = [], 0, 0
            await search(index, queries[0])
            for query in queries:
                spent, found, was_exact = await search(index, query)
                took.append(spent)
                hits += len(found & {f"m{n:07}" for n in own[np.argsort(-(vectors[own] @ query))[:LIMIT]]})
                exact += was_exact
            began = time.perf_counter()
            parts = [queries[start::AT_ONCE] for start in range(AT_ONCE)]

            async def some(part: list[Vector]) -> None:
                for query in part:
                    await search(index, query)

            await asyncio.gather(*(some(part) for part in parts))
            throughput = len(queries) / (time.perf_counter() - began)
            singles, mixed = [], []
            for n in range(SINGLES):
                began = time.perf_counter()
                await write(storage, index, vectors, [count + 2 * n])
                singles.append((time.perf_counter() - began) * 1e3)
                await write(other, None, vectors, [count + 2 * n + 1])
                mixed.append((await search(index, queries[n]))[0])
    median = statistics.median
    return [
        *(written, median(singles), median(took), throughput, median(mixed)),
        *(hits / (LIMIT * len(queries)), exact / len(queries)),
    ]


def options_on(server: Server) -> StorageOptions:
    """Return the options of a new database on a server."""
    section = server.section(timeout=120.0)
    return StorageOptions(**{**section, "password": Secret(section["password"])})


async def main(counts: list[int]) -> None:
    """Measure each kind at each size, each on a server of its own."""
    print(f"{AGENTS} agents, vectors of {DIMENSIONS} numbers, the {LIMIT} nearest of one agent\n")
    print("| vectors | search | " + " | ".join(COLUMNS) + " |")
    print("| --- " * (2 + len(COLUMNS)) + "|")
    for count in counts:
        made = embeddings(np.random.default_rng(1), count + SEARCHES, DIMENSIONS)
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "server") as server:
                figures = await measure(options_on(server), kind, made[:count], list(made[count:]))
            print(f"| {count:,} | `{kind}` | " + " | ".join(f"{each:,.3g}" for each in figures) + " |", flush=True)


if __name__ == "__main__":
    asyncio.run(main([int(each) for each in sys.argv[1:]] or [1_000, 10_000, 50_000]))
