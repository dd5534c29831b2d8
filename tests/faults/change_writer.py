"""A process that creates, changes and deletes users until it is killed: ``change_writer.py CONFIG NAME SEED``."""

from __future__ import annotations

import asyncio
import json
import random
import sys

import pattern_core


async def main(config: str, name: str, seed: str) -> None:
    """Write at random, and print a line after each commit."""
    chance = random.Random(int(seed))
    async with pattern_core.open(json.loads(config)) as db:
        mine: list[str] = []
        number = 0
        while True:
            number += 1
            if mine and chance.random() < 0.3:
                await db.users.update(chance.choice(mine), metadata={"number": number})
            elif mine and chance.random() < 0.3:
                await db.users.delete(mine.pop(chance.randrange(len(mine))))
            else:
                ids = [f"{name}-{seed}-{number}-{each}" for each in range(chance.randrange(1, 4))]
                await db.users.create_many([{"id": id} for id in ids])
                mine += ids
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
