"""A program for tests: it waits for a line, then puts the same new records as the other processes that run it.

Usage: concurrent_writer.py FOLDER NAME COUNT.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from pattern_core.abc import Put
from pattern_core.schema import TABLES
from pattern_core.testing import sample_row
from pattern_lancedb.local_store import LocalStore
from pattern_lancedb.maintenance import MaintenancePolicy
from pattern_lancedb.storage import LanceStorage

USERS = TABLES["users"]


async def main(folder: Path, name: str, count: int) -> None:
    """Put records with the ids that all processes use."""
    async with await LanceStorage.open(await LocalStore.open(folder), MaintenancePolicy(rows=3)) as storage:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        for number in range(count):
            await storage.commit([Put(USERS, sample_row(USERS, f"u{number}", settings={"by": name}))])


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
