"""A follower of the commit log, while three processes write and are killed: its copy equals the database at each pause."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

import pattern_core

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

WRITER: Final = Path(__file__).with_name("change_writer.py")
ROUNDS: Final = int(os.environ.get("PATTERN_FAULT_ROUNDS", "2"))
"""In each round, three processes are killed."""
WRITERS: Final = 3
STORAGES: Final = {"sqlite": "pattern_sqlite", "lancedb": "pattern_lancedb"}


class Copy:
    """What a follower knows: the revision of each user.

    Args:
        db: The database that it follows.
        position: The position to begin at.
    """

    def __init__(self, db: pattern_core.Database, position: str) -> None:
        self._db = db
        self._position = position
        self.revisions: dict[str, int] = {}

    async def catch_up(self) -> None:
        """Apply the changes since the last time; fail if one was skipped, repeated, or is in the wrong order."""
        async for change in self._db.changes(since=self._position):
            self._position = change.position
            before = self.revisions.get(change.id, 0)
            expected = before if change.kind == "delete" else before + 1
            assert change.revision == expected, f"{change} after revision {before}"
            if change.kind == "delete":
                del self.revisions[change.id]
            else:
                self.revisions[change.id] = change.revision

    async def check(self) -> None:
        """Compare the copy with the database."""
        await self.catch_up()
        assert self.revisions == {user.id: user.revision async for user in self._db.users.iterate(page=1000)}


@pytest.mark.parametrize("storage", STORAGES)
async def test_a_follower_misses_nothing(storage: str, tmp_path: Path) -> None:
    """Three processes write and are killed at random moments; a follower's copy equals the database at every pause."""
    pytest.importorskip(STORAGES[storage], reason=f"needs the plugin {storage}")
    config: dict[str, Any] = {
        "database": {"type": storage, "path": str(tmp_path / "pattern.db")},
        "embeddings": {"provider": "hashing"},
    }
    chance = random.Random(7)
    async with pattern_core.open(config) as db:
        copy = Copy(db, await db.position())
        for number in range(ROUNDS):
            command = [sys.executable, str(WRITER), json.dumps(config)]
            writers = [
                subprocess.Popen([*command, f"w{each}", str(number)], stdout=subprocess.PIPE, text=True)
                for each in range(WRITERS)
            ]
            try:
                for _ in range(chance.randrange(3, 12)):
                    for writer in writers:
                        assert writer.stdout is not None
                        # In a thread, since maintenance of this process may hold a lock that the writer waits for.
                        line = await asyncio.to_thread(writer.stdout.readline)
                        assert line.strip(), "the writer has failed"
                    await copy.catch_up()
            finally:
                for writer in writers:
                    writer.kill()
                    await asyncio.to_thread(writer.communicate)
            await copy.check()
        assert copy.revisions
