"""A program for tests: it writes to a database, and kills itself at the stage that it was told.

Usage: dying.py FOLDER WORK METHOD COUNT WHEN. WORK is ``commit``, ``flush`` or ``create``; the program dies at the
COUNT-th call of METHOD of its place once the work has begun, ``before`` or ``after`` it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pattern_core.abc import Delete, Insert, Put
from pattern_core.schema import TABLES, CreateTable
from pattern_core.testing import DIMENSIONS, sample_row
from pattern_lancedb.place import Folder, Token
from pattern_lancedb.storage import LanceStorage
from pattern_lancedb.upkeep import Policy

USERS, AGENTS, MEMORIES = TABLES["users"], TABLES["agents"], TABLES["memory_blocks"]
NEVER = Policy(rows=10**9, size=10**12, age=10**6)


class DyingFolder(Folder):
    """A folder whose process dies at one of its steps."""

    stage: tuple[str, int, str] | None = None

    async def write(self, name: str, content: bytes) -> None:
        await self._step("write", super().write(name, content))

    async def publish(self, head: bytes, token: Token | None) -> Token:
        return await self._step("publish", super().publish(head, token))

    async def secure(self, table: str) -> None:
        await self._step("secure", super().secure(table))

    async def remove(self, names: Sequence[str]) -> None:
        await self._step("remove", super().remove(names))

    async def _step(self, method: str, work: Any) -> Any:
        if self.stage and self.stage[0] == method:
            self.stage = (method, self.stage[1] - 1, self.stage[2])
        if self.stage == (method, 0, "before"):
            os.kill(os.getpid(), signal.SIGKILL)
        result = await work
        if self.stage == (method, 0, "after"):
            os.kill(os.getpid(), signal.SIGKILL)
        return result


async def main(folder: Path, work: str, method: str, count: int, when: str) -> None:
    """Write what is acknowledged, say so, then do the work that it dies in."""
    place = DyingFolder(folder)
    (folder / "log").mkdir(parents=True, exist_ok=True)
    storage = await LanceStorage.open(place, NEVER)
    for table in (USERS, AGENTS, MEMORIES):
        await storage.apply_schema(CreateTable(table, DIMENSIONS))
    await storage.commit([Insert(USERS, sample_row(USERS, "old")), Insert(AGENTS, sample_row(AGENTS, "old"))])
    await storage.lance.flush()
    await storage.commit([Insert(USERS, sample_row(USERS, "new")), Insert(MEMORIES, sample_row(MEMORIES, "new"))])
    sys.stdout.write("acknowledged\n")
    sys.stdout.flush()
    place.stage = (method, count, when)
    if work == "commit":
        users = [Put(USERS, sample_row(USERS, id, revision=2)) for id in ("old", "new")]
        await storage.commit([*users, Delete(AGENTS, "old"), Insert(MEMORIES, sample_row(MEMORIES, "last"))])
    elif work == "flush":
        await storage.lance.flush()
    else:
        await storage.apply_schema(CreateTable(TABLES["tasks"], DIMENSIONS))
    sys.stdout.write("alive\n")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]))
