"""Writes users one by one, and prints each id after its commit: a program for tests to kill.

Usage: writer.py FOLDER FIRST COUNT. After COUNT users it kills itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from pattern_core.abc import Insert, Patch, Write
from pattern_core.schema import TABLES, CreateTable
from pattern_core.testing import DIMENSIONS, sample_row
from pattern_surreal_embedded.storage import EmbeddedStorage

USERS, MEMORIES = TABLES["users"], TABLES["memory_blocks"]


async def main(folder: Path, first: int, count: int) -> None:
    """Write all users, or until this process is killed."""
    storage = await EmbeddedStorage.open(folder)
    for table in TABLES.values():
        await storage.apply_schema(CreateTable(table, DIMENSIONS))
    for number in range(first, first + count):
        id = f"{number:06}"
        batch: list[Write] = [Insert(USERS, sample_row(USERS, id))]
        batch += [Insert(MEMORIES, sample_row(MEMORIES, f"{id}-{part}", content="x" * 300)) for part in range(3)]
        batch.append(Patch(USERS, id, {"revision": 2}))
        await storage.commit(batch)
        sys.stdout.write(f"{id}\n")
        sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
