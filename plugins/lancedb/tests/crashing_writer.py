"""A program for tests: it writes to a database, and kills itself at a given call of its store.

Usage: crashing_writer.py FOLDER WORK METHOD COUNT WHEN. WORK is ``commit``, ``flush`` or ``create``. The program kills
itself ``before`` or ``after`` the COUNT-th call of METHOD since the work began.
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
from pattern_lancedb.local_store import LocalStore
from pattern_lancedb.maintenance import MaintenancePolicy
from pattern_lancedb.storage import LanceStorage
from pattern_lancedb.store import ManifestTag

USERS, AGENTS, MEMORIES = TABLES["users"], TABLES["agents"], TABLES["memory_blocks"]
NO_MAINTENANCE = MaintenancePolicy(rows=10**9, nbytes=10**12, age_s=10**6)


class CrashingStore(LocalStore):
    """A store that kills its process at one of its calls."""

    stage: tuple[str, int, str] | None = None

    async def write_wal(self, name: str, content: bytes) -> None:
        await self._step("write_wal", super().write_wal(name, content))

    async def publish(self, manifest: bytes, tag: ManifestTag | None) -> ManifestTag:
        return await self._step("publish", super().publish(manifest, tag))

    async def sync_table(self, lance_name: str) -> None:
        await self._step("sync_table", super().sync_table(lance_name))

    async def remove_wal(self, names: Sequence[str]) -> None:
        await self._step("remove_wal", super().remove_wal(names))

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
    """Commit records, report them as acknowledged, then start the work that crashes."""
    store = CrashingStore(folder)
    (folder / "log").mkdir(parents=True, exist_ok=True)
    storage = await LanceStorage.open(store, NO_MAINTENANCE)
    for table in (USERS, AGENTS, MEMORIES):
        await storage.apply_schema(CreateTable(table, DIMENSIONS))
    await storage.commit([Insert(USERS, sample_row(USERS, "old")), Insert(AGENTS, sample_row(AGENTS, "old"))])
    await storage.database.flush()
    await storage.commit([Insert(USERS, sample_row(USERS, "new")), Insert(MEMORIES, sample_row(MEMORIES, "new"))])
    sys.stdout.write("acknowledged\n")
    sys.stdout.flush()
    store.stage = (method, count, when)
    if work == "commit":
        users = [Put(USERS, sample_row(USERS, id, revision=2)) for id in ("old", "new")]
        await storage.commit([*users, Delete(AGENTS, "old"), Insert(MEMORIES, sample_row(MEMORIES, "last"))])
    elif work == "flush":
        await storage.database.flush()
    else:
        await storage.apply_schema(CreateTable(TABLES["tasks"], DIMENSIONS))
    sys.stdout.write("alive\n")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]))
