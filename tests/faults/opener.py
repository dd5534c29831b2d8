"""Open a database, and say so. Killed by `test_migrate_kill`, and one of several in `test_migrate_shared`."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pattern_core
from pattern_core.assembly.wiring import load_wiring
from pattern_core.config import load_config
from pattern_core.maintenance.migrations.lease import with_lease


def say(word: str) -> None:
    """Tell the parent."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def open_it(config: dict[str, Any]) -> None:
    """Say when all is loaded; open the database when told to, and say that it is open, and what is found in it."""
    wiring = load_wiring(load_config(config))
    async with await wiring.storage() as storage, await wiring.vectors(storage):
        await wiring.embeddings.signature()
    await wiring.embeddings.aclose()
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    async with pattern_core.open(config) as db:
        say("opened")
        found = await db.memories.search_semantic("a", "word", limit=100_000)
        say(f"found {len(found)}")


async def hold(config: dict[str, Any]) -> None:
    """Take the lease of those who migrate, and do nothing with it."""

    async def work() -> None:
        say("holding")
        await asyncio.Event().wait()

    async with await load_wiring(load_config(config)).storage() as storage:
        await with_lease(storage, work)


if __name__ == "__main__":
    asyncio.run((hold if sys.argv[2:] == ["hold"] else open_it)(json.loads(sys.argv[1])))
