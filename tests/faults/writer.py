"""Writes to a database, and reports what is acknowledged, until `test_kill` kills it."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import Any

import pattern_core


def acknowledge(**what: object) -> None:
    """Report to the parent in one system call, so that a kill cannot truncate a line."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def main(config: dict[str, Any], seed: int) -> None:
    """Create, change and delete memories in batches of five, at random."""
    dice = random.Random(seed)
    async with pattern_core.open(config) as db:
        if await db.users.find("u") is None:
            async with db.transaction() as tx:
                await tx.users.create(id="u")
                await tx.agents.create(user_id="u", agent_type="a", name="A", id="a")
        acknowledge(opened=True)
        known = [memory.metadata["group"] async for memory in db.memories.iterate()]
        groups = sorted(set(known))
        for step in range(1_000_000):
            group = f"{seed}x{step}"
            kind = dice.choice(["create", "create", "upsert", "delete"]) if groups else "create"
            if kind == "create":
                blocks = [
                    {
                        "agent_id": "a",
                        "label": f"{group}-{n}",
                        "content": f"word{group} v1 n{n}",
                        "metadata": {"group": group},
                    }
                    for n in range(5)
                ]
                acknowledge(trying=group, content="v1")
                await db.memories.create_many(blocks)
                acknowledge(group=group, content="v1")
                groups.append(group)
            elif kind == "upsert":
                group = dice.choice(groups)
                version = f"v{step}"
                acknowledge(trying=group, content=version)
                await db.memories.upsert_many(
                    "a", [{"label": f"{group}-{n}", "content": f"word{group} {version} n{n}"} for n in range(5)]
                )
                acknowledge(group=group, content=version)
            else:
                group = groups.pop(dice.randrange(len(groups)))
                acknowledge(trying=group, content=None)
                async with db.transaction() as tx:
                    for n in range(5):
                        await tx.memories.delete((await tx.memories.by_label("a", f"{group}-{n}")).id)
                acknowledge(group=group, content=None)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1]), int(sys.argv[2])))
