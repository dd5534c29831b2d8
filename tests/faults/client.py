"""One of several processes that use a database on a server, and report what they do. `crowd` starts them."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pattern_core
from pattern_core import Database, PatternError
from pattern_core.database import Repositories


def say(**what: object) -> None:
    """Report to the parent in one system call, so that a kill cannot truncate a line."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def attempt(work: Callable[[], Awaitable[object]], **what: object) -> bool:
    """Report an attempt, carry it out, report its outcome and duration; return whether it was acknowledged."""
    say(trying=True, **what)
    began = time.monotonic()
    try:
        await work()
    except PatternError as error:
        unknown = getattr(error, "may_have_written", False)
        say(failed=type(error).__name__, message=str(error), unknown=unknown, seconds=time.monotonic() - began, **what)
        return False
    say(done=True, seconds=time.monotonic() - began, **what)
    return True


async def add_one(tx: Repositories, id: str) -> None:
    """Add one to an agent's count: read, then write."""
    agent = await tx.agents.get(id)
    await tx.agents.save_state(agent, {"count": agent.state.get("count", 0) + 1})


async def one_write(db: Database, name: str, step: int, dice: random.Random) -> bool:
    """Make one write of some kind; return whether it was acknowledged."""
    kind = dice.choice(["memory", "memory", "user", "shared count", "own count"])
    if kind == "memory":
        label, content = f"{name} {step}", f"word{name}x{step} of client {name}"
        return await attempt(
            lambda: db.memories.create(agent_id="a", label=label, content=content), kind=kind, memory=label
        )
    if kind == "user":  # which has no other key than its id, so that a write that is repeated makes a second one
        return await attempt(
            lambda: db.users.create(metadata={"by": f"{name} {step}"}), kind=kind, user=f"{name} {step}"
        )
    id = "shared" if kind == "shared count" else f"of {name}"
    return await attempt(lambda: db.run(lambda tx: add_one(tx, id)), kind=kind, count=id)


async def write(db: Database, name: str, ending: asyncio.Event) -> None:
    """Write until the signal to stop, then until one more write is acknowledged."""
    dice = random.Random(name)
    for step in itertools.count():
        ended = ending.is_set()
        if await one_write(db, name, step, dice) and ended:
            return


async def increment(db: Database, times: int) -> None:
    """Increment the shared count repeatedly."""
    for _ in range(times):
        await attempt(lambda: db.run(lambda tx: add_one(tx, "shared")), count="shared")


async def main(config: dict[str, Any], name: str, times: int) -> None:
    """Run the given task; any input is the signal to stop."""
    async with pattern_core.open(config) as db:
        say(opened=True)
        if times:
            await increment(db, times)
        else:
            ending = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_reader(sys.stdin.fileno(), ending.set)
            await write(db, name, ending)
            loop.remove_reader(sys.stdin.fileno())
    say(closed=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
