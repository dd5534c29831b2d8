"""What it costs to share a database: writes and searches by one process and by several, on each set-up, in one run.

``python benchmarks/sharing.py [MEMORIES] [PROCESSES] [SET-UP…]``, with the server's engine installed by ``npm ci`` in
``tests/servers/node``, or with ``PATTERN_TEST_SURREAL_URL``. Each process has an agent of its own and writes its memories
in batches of 50; then single ones; then it searches while nobody writes; then all search while all write. Ratios matter,
not the numbers.
"""
# ruff: noqa: INP001, S101, T201 - a program that prints

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import median

sys.path.insert(0, str(Path(__file__).parents[1]))

import pattern_core
from tests.servers.surreal import Server, running

BATCH = 50
SINGLES = 30
SEARCHES = 30
MIXED = 20
MODEL = {"provider": "hashing", "dimensions": 384, "cache": False}
PHASES = ("batches", "single", "search", "search, others write")


def set_ups(folder: Path, server: Server) -> dict[str, dict[str, Any]]:
    """Return the configurations to compare."""
    remote = {"type": "surreal-remote", **server.section()}
    beside = {"provider": "lancedb", "path": str(folder / "vectors.lance")}

    def on_server(index: str) -> dict[str, Any]:
        return {
            "database": {**remote, **server.section()},
            "vectors": {"provider": "surreal-remote", "index": index},
        }

    return {
        "surreal-embedded": {"database": {"type": "surreal-embedded", "path": str(folder / "pattern.db")}},
        "lancedb": {"database": {"type": "lancedb", "path": str(folder / "pattern.lance")}},
        "surreal-remote": {"database": remote},
        "surreal-remote, compared on the server": on_server("exact"),
        "surreal-remote, vectors in lancedb": {"database": {**remote, **server.section()}, "vectors": beside},
    }


def text(name: str, number: int) -> dict[str, str]:
    """Return a memory to write."""
    words = " ".join(f"w{(number * 7 + step * step) % 4096}" for step in range(40))
    return {"label": f"{number}", "content": f"{name} {number}: {words}"}


async def child(config: dict[str, Any], name: str, count: int) -> None:
    """Do one phase for each line on standard input, and say what came of it."""
    async with pattern_core.open(config) as db:
        user = await db.users.create()
        agent = await db.agents.create(user_id=user.id, agent_type=name, name=name)

        async def batches() -> float:
            began = time.perf_counter()
            for start in range(0, count, BATCH):
                numbers = range(start, min(count, start + BATCH))
                await db.memories.create_many([{"agent_id": agent.id, **text(name, n)} for n in numbers])
            return count / (time.perf_counter() - began)

        async def single() -> float:
            return await median(lambda n: db.memories.create(agent_id=agent.id, **text(name, 1_000_000 + n)), SINGLES)

        async def search() -> float:
            await db.memories.search_semantic(agent.id, "w1", limit=10)
            return await median(lambda n: db.memories.search_semantic(agent.id, f"w{n} w{n * 3}", limit=10), SEARCHES)

        async def mixed() -> float:
            taken = []
            for n in range(MIXED):
                await db.memories.create(agent_id=agent.id, **text(name, 2_000_000 + n))
                taken.append(await median(lambda n: db.memories.search_semantic(agent.id, f"w{n}", limit=10), 1))
            return statistics.median(taken)

        print("ready", flush=True)
        for phase in (batches, single, search, mixed):
            await asyncio.to_thread(sys.stdin.readline)
            print(await phase(), flush=True)
        await asyncio.to_thread(sys.stdin.readline)


async def measure(config: dict[str, Any], count: int, processes: int) -> list[list[float]]:
    """Return what each process says of each phase, all of them beginning a phase at once."""
    pipe = asyncio.subprocess.PIPE
    command = [__file__, "--child", json.dumps({**config, "embeddings": MODEL})]
    children = [
        await asyncio.create_subprocess_exec(sys.executable, *command, f"p{n}", str(count), stdin=pipe, stdout=pipe)
        for n in range(processes)
    ]

    async def hear(process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode().strip()
        if not line:
            raise RuntimeError("a process has ended early; see above")
        return line

    await asyncio.gather(*(hear(each) for each in children))
    found = []
    for _ in PHASES:
        for each in children:
            assert each.stdin is not None
            each.stdin.write(b"\n")
        found.append([float(line) for line in await asyncio.gather(*(hear(each) for each in children))])
    for each in children:
        assert each.stdin is not None
        each.stdin.close()
    await asyncio.gather(*(each.wait() for each in children))
    return found


async def main(count: int, processes: int, wanted: list[str]) -> None:
    """Measure each set-up, with one process and with several."""
    print(f"{count:,} memories of 384 numbers for each process")
    print("| set-up | processes | rows/s, all together | a single write, ms | a search, ms | …while all write, ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    for many in (1, processes):
        with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "server") as server:
            for name, config in set_ups(Path(folder), server).items():
                if (wanted and name not in wanted) or (many > 1 and name == "surreal-embedded"):
                    continue
                batches, *rest = await measure(config, count, many)
                shown = [f"{sum(batches):,.0f}", *(f"{statistics.median(each):.1f}" for each in rest)]
                print(f"| {name} | {many} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        asyncio.run(child(json.loads(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
    else:
        given = sys.argv[1:]
        asyncio.run(main(int(given[0]) if given else 1000, int(given[1]) if given[1:] else 4, given[2:]))
