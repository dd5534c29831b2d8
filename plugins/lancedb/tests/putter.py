"""A program for tests: it waits until a line comes, then puts the same new records as all others that do.

Usage: putter.py FOLDER NAME COUNT.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from pattern_core.abc import Put
from pattern_core.schema import TABLES
from pattern_core.testing import sample_row
from pattern_lancedb.place import Folder
from pattern_lancedb.storage import LanceStorage
from pattern_lancedb.upkeep import Policy

USERS = TABLES["users"]


async def main(folder: Path, name: str, count: int) -> None:
    """Put records that are new to all."""
    async with await LanceStorage.open(await Folder.open(folder), Policy(rows=3)) as storage:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        for number in range(count):
            await storage.commit([Put(USERS, sample_row(USERS, f"u{number}", settings={"by": name}))])


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
