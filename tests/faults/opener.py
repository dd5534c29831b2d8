"""Opens a database, and reports it. `test_migrate_kill` kills it; `test_migrate_shared` starts several."""

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
    """Report to the parent."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def open_it(config: dict[str, Any]) -> None:
    """Report when everything is loaded; open the database on the signal; report that, and the number of hits."""
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
    """Take the migration lease, and do nothing."""

    async def work() -> None:
        say("holding")
        await asyncio.Event().wait()

    async with await load_wiring(load_config(config)).storage() as storage:
        await with_lease(storage, work)


if __name__ == "__main__":
    asyncio.run((hold if sys.argv[2:] == ["hold"] else open_it)(json.loads(sys.argv[1])))
