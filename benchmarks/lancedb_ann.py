"""Compare exact search in LanceDB with the plugin's approximate indexes: build time, search time, recall.

``python benchmarks/lancedb_ann.py [VECTORS …]``. Compare the ratios; the times depend on the machine. The default of
``exact_rows`` comes from these results.
"""
# ruff: noqa: INP001, S101, T201 - a program that prints, and stops if a search is exact when it should not be

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from measuring import embeddings
from numpy.typing import NDArray

from pattern_core.abc import IndexSpec, Vector, VectorChange, VectorStore
from pattern_core.schema import CreateTable
from pattern_core.testing import VECTORS, MemoryStorage
from pattern_lancedb.plugin import VectorOptions, pattern_vectors

USERS = 10
DIMENSIONS = 384
SEARCHES = 60
LIMIT = 10
SPEC = IndexSpec(VECTORS, DIMENSIONS, "cosine")
KINDS = ("ivf-sq", "ivf-flat", "ivf-hnsw-sq")


@attrs.define
class Truth:
    """The vectors that the index should hold.

    Attributes:
        vectors: Every vector, float32 ``[n, dimensions]``, of length 1.
        present: Which of them are not deleted.
    """

    vectors: NDArray[np.float32]
    present: NDArray[np.bool_]

    def nearest(self, query: Vector) -> set[str]:
        """Return the ids of the closest vectors of the first user."""
        own = np.arange(0, len(self.vectors), USERS)
        own = own[self.present[own]]
        return {f"m{n:07}" for n in own[np.argsort(-(self.vectors[own] @ query))[:LIMIT]]}


def changes(truth: Truth, numbers: Sequence[int]) -> list[VectorChange]:
    """Return the changes that bring some vectors into the index."""
    return [
        VectorChange(f"m{n:07}", f"user{n % USERS}", truth.vectors[n] if truth.present[n] else None) for n in numbers
    ]


async def search(index: VectorStore, truth: Truth, queries: Sequence[Vector]) -> tuple[float, float, bool]:
    """Return the median milliseconds of a search, the recall, and whether all searches were exact."""
    times, found, exact = [], 0, True
    for query in queries:
        began = time.perf_counter()
        matches = await index.search(VECTORS, query, partitions=["user0"], limit=LIMIT)
        times.append(time.perf_counter() - began)
        found += len(truth.nearest(query) & set(matches.ids))
        exact &= matches.exact
    return statistics.median(times) * 1e3, found / (LIMIT * len(queries)), exact


async def fill(path: Path, truth: Truth) -> None:
    """Fill an index with the vectors."""
    async with await open_index(path, exact_rows=1 << 30) as index:
        await index.create(SPEC)
        for start in range(0, len(truth.vectors), 1000):
            await index.apply(VECTORS, changes(truth, range(start, min(start + 1000, len(truth.vectors)))))
        await index.maintain()


async def open_index(path: Path, **options: Any) -> VectorStore:
    """Open an index of copies beside an empty storage."""
    storage = MemoryStorage()
    await storage.apply_schema(CreateTable(VECTORS, DIMENSIONS))
    return await pattern_vectors().open(VectorOptions(path=path, **options), storage)


async def measure(folder: Path, count: int) -> None:
    """Print the results for one number of vectors."""
    generator = np.random.default_rng(1)
    points = embeddings(generator, count + SEARCHES, DIMENSIONS)
    truth, queries = Truth(points[:count], np.ones(count, dtype=np.bool_)), list(points[count:])
    began = time.perf_counter()
    await fill(folder, truth)
    print(f"\n{count:,} vectors of {DIMENSIONS} dimensions, {USERS} users, the {LIMIT} nearest of one")
    print(f"(written and compacted in {time.perf_counter() - began:.1f} s)")
    print(f"{'':14}{'build s':>10}{'search ms':>12}{'ratio':>8}{'recall':>9}{'changed ms':>12}{'recall':>9}")
    base = 0.0
    for kind in ("exact", *KINDS):
        given: dict[str, Any] = {"exact_rows": 1 << 30} if kind == "exact" else {"index": kind, "exact_rows": 0}
        async with await open_index(folder, **given) as index:
            began = time.perf_counter()
            await index.maintain()
            spent = time.perf_counter() - began
            await search(index, truth, queries[:5])
            took, recall, exact = await search(index, truth, queries)
            assert exact is (kind == "exact")
            base = base or took
            some = generator.choice(count, count // 100, replace=False)
            truth.present[some[::3]] = False
            truth.present[some[1::3]] = True
            truth.vectors[some[1::3]] = embeddings(generator, len(some[1::3]), DIMENSIONS)
            await index.apply(VECTORS, changes(truth, some.tolist()))
            later, kept, _ = await search(index, truth, queries)
        print(f"{kind:14}{spent:10.1f}{took:12.1f}{base / took:7.1f}x{recall:9.3f}{later:12.1f}{kept:9.3f}", flush=True)


async def main() -> None:
    """Measure several numbers of vectors."""
    for count in [int(each) for each in sys.argv[1:]] or [2_000, 10_000, 50_000, 100_000, 200_000]:
        with tempfile.TemporaryDirectory() as folder:
            await measure(Path(folder), count)


if __name__ == "__main__":
    asyncio.run(main())
