"""Compare the in-process index with SurrealDB's HNSW index: writes, and searches within the memories of one agent.

``python benchmarks/search.py [MEMORIES]``. Compare ratios, not absolute numbers.
"""
# ruff: noqa: INP001, T201 - a program that prints

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import pattern_core
from pattern_core.abc import Insert, VectorChange
from pattern_core.testing import VECTORS, sample_row

AGENTS = 4
DIMENSIONS = 384
SEARCHES = 50


async def measure(folder: Path, index: str, count: int) -> dict[str, float]:
    """Return the seconds per write, the seconds per search, and the recall of the ten closest."""
    config: dict[str, Any] = {
        "database": {"type": "embedded", "path": str(folder / index)},
        "vectors": {"provider": "surreal-embedded", "index": index},
        "embeddings": {"provider": "hashing", "dimensions": DIMENSIONS},
    }
    generator = np.random.default_rng(1)
    vectors = generator.standard_normal((count, DIMENSIONS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"m{n:06}" for n in range(count)]
    agents = [f"agent{n % AGENTS}" for n in range(count)]
    async with pattern_core.open(config) as db:
        began = time.perf_counter()
        for start in range(0, count, 200):
            batch = range(start, min(start + 200, count))
            rows = [sample_row(VECTORS, ids[n], partition=agents[n], embedding=vectors[n]) for n in batch]
            await db.storage.commit([Insert(VECTORS, row) for row in rows])
            await db.vectors.apply(VECTORS, [VectorChange(ids[n], agents[n], vectors[n]) for n in batch])
        written = (time.perf_counter() - began) / count
        times, found = [], 0
        for _ in range(SEARCHES):
            query = generator.standard_normal(DIMENSIONS).astype(np.float32)
            began = time.perf_counter()
            matches = await db.vectors.search(VECTORS, query, partitions=["agent1"], limit=10)
            times.append(time.perf_counter() - began)
            own = np.arange(1, count, AGENTS)
            closest = own[np.argsort(-(vectors[own] @ query))[:10]]
            found += len({ids[n] for n in closest} & set(matches.ids))
    return {"write": written, "search": statistics.median(times), "recall": found / (10 * SEARCHES)}


async def main() -> None:
    """Measure both indexes, and print the results side by side."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with tempfile.TemporaryDirectory() as folder:
        exact = await measure(Path(folder), "in-process", count)
        native = await measure(Path(folder), "native", count)
    print(f"{count:,} memories of {AGENTS} agents, {DIMENSIONS} dimensions, the ten closest of one agent")
    print(f"{'':12}{'in-process':>14}{'native':>14}{'ratio':>10}")
    for name, unit in (("write", "rows/s"), ("search", "ms")):
        a, b = (1 / exact[name], 1 / native[name]) if name == "write" else (exact[name] * 1e3, native[name] * 1e3)
        print(f"{name + ' ' + unit:12}{a:14,.1f}{b:14,.1f}{native[name] / exact[name]:9.1f}x")
    print(f"{'recall':12}{exact['recall']:14.3f}{native['recall']:14.3f}")


if __name__ == "__main__":
    asyncio.run(main())
