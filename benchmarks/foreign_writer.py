"""Measure how much a search slows down while another process writes to the same database.

``python benchmarks/foreign_writer.py [DATABASE TYPE] [MEMORIES]``. Compare ratios, not absolute numbers.
"""
# ruff: noqa: INP001, T201 - a program that prints

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pattern_core

DIMENSIONS = 384
COMMITS_PER_S = 20
SEARCHES = 200


def config(folder: Path, database: str) -> dict[str, Any]:
    """Return the configuration of both processes."""
    return {
        "database": {"type": database, "path": str(folder / "pattern.db")},
        "embeddings": {"provider": "hashing", "dimensions": DIMENSIONS},
    }


def write(pipe: Connection, settings: dict[str, Any], agent: str) -> None:
    """Write memories of an agent at a steady rate, until a message comes."""

    async def work() -> None:
        async with pattern_core.open(settings) as db:
            pipe.send("ready")
            number = 0
            while not pipe.poll():
                await db.memories.upsert(agent, f"foreign {number % 50}", f"written elsewhere, number {number}")
                number += 1
                await asyncio.sleep(1 / COMMITS_PER_S)

    asyncio.run(work())


async def search(db: pattern_core.Database) -> float:
    """Return the median time of a search, in milliseconds."""
    times = []
    for number in range(SEARCHES):
        began = time.perf_counter()
        await db.memories.search(f"what did I say about subject {number}?", agent_id="archive")
        times.append((time.perf_counter() - began) * 1e3)
        await asyncio.sleep(0.01)
    return statistics.median(times)


async def beside(db: pattern_core.Database, settings: dict[str, Any], agent: str) -> float:
    """Return the median time of a search while another process writes memories of an agent."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=write, args=(theirs, settings, agent))
    process.start()
    try:
        await asyncio.to_thread(ours.recv)
        return await search(db)
    finally:
        ours.send("stop")
        await asyncio.to_thread(process.join)


async def main() -> None:
    """Fill a database, and search alone, beside a writer to another agent, and beside one to the same agent."""
    _, database, size = [*sys.argv, *["", "sqlite", "20000"][len(sys.argv) :]]
    count = int(size)
    with tempfile.TemporaryDirectory() as folder:
        settings = config(Path(folder), database)
        async with pattern_core.open(settings) as db:
            user = await db.users.create()
            for name in ("archive", "other"):
                await db.agents.create(id=name, user_id=user.id, agent_type=name, name=name, system_prompt="-")
            for start in range(0, count, 1000):
                await db.memories.create_many(
                    {"agent_id": "archive", "label": f"m{n}", "content": f"subject {n}, said on day {n % 365}"}
                    for n in range(start, min(start + 1000, count))
                )
            await db.maintain()
            await search(db)
            alone = await search(db)
            other = await beside(db, settings, "other")
            same = await beside(db, settings, "archive")
    print(f"{database}, {count:,} memories, {DIMENSIONS} dimensions; a writer with {COMMITS_PER_S} commits per second")
    for name, figure in (("alone", alone), ("writer to another agent", other), ("writer to the same agent", same)):
        print(f"{name:26}{figure:8.1f} ms{figure / alone:8.2f}x")


if __name__ == "__main__":
    asyncio.run(main())
