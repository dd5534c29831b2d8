"""Changes the embedding model during writes and searches, and reports what is acknowledged. `test_reembed_kill` kills it."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import Any

import pattern_core
from pattern_core import SignatureMismatchError


def say(**what: object) -> None:
    """Report to the parent in one system call, so that a kill cannot truncate a line."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def open_with_any(config: dict[str, Any], models: list[dict[str, Any]]) -> pattern_core.Database:
    """Open the database with the model of its vectors."""
    for model in models:
        try:
            return await pattern_core.open({**config, "embeddings": model})
        except SignatureMismatchError:
            continue
    raise AssertionError("the vectors are of neither model")


async def write(db: pattern_core.Database, name: str, seed: int) -> None:
    """Create, change and delete memories until killed."""
    dice = random.Random(f"{name} {seed}")
    labels = [each.label async for each in db.memories.iterate() if each.label.startswith(f"{name} ")]
    for step in range(1_000_000):
        if labels and dice.random() < 0.3:
            label, content = labels.pop(dice.randrange(len(labels))), None
        elif labels and dice.random() < 0.5:
            label, content = dice.choice(labels), f"changed {seed} {step}"
        else:
            label, content = f"{name} {seed} {step}", f"created {seed} {step}"
            labels.append(label)
        say(writer=name, trying=label, content=content)
        if content is None:
            await db.memories.delete((await db.memories.by_label("busy", label)).id)
        else:
            await db.memories.upsert("busy", label, content)
        say(writer=name, done=label, content=content)


async def search(db: pattern_core.Database, wanted: int) -> None:
    """Search until killed, and report whether all memories were found."""
    while True:
        say(found=len(await db.memories.search_semantic("still", "memory number", limit=wanted)))
        await asyncio.sleep(0.02)


async def main(config: dict[str, Any], models: list[dict[str, Any]], wanted: int, seed: int, *, shielded: bool) -> None:
    """Re-embed with the other model, while two tasks write and one searches."""
    async with await open_with_any(config, models) as db:
        dimensions = (await db.embeddings.signature()).dimensions
        (other,) = [model for model in models if model["dimensions"] != dimensions]
        say(opened=dimensions)
        busy = [asyncio.create_task(write(db, name, seed)) for name in ("first", "second")]
        busy.append(asyncio.create_task(search(db, wanted)))
        change = asyncio.create_task(db.reembed(other, take_over=True))
        await asyncio.wait([*busy, change], return_when=asyncio.FIRST_COMPLETED)
        if change.done():
            say(switched=change.result().signature.dimensions)
            if shielded:
                for each in busy:
                    each.cancel()
        await asyncio.wait(busy, return_when=asyncio.FIRST_EXCEPTION)
        ended: list[asyncio.Task[Any]] = [*busy, change]
        for task in ended:
            if task.done() and not task.cancelled():
                task.result()


if __name__ == "__main__":
    asyncio.run(
        main(
            json.loads(sys.argv[1]),
            json.loads(sys.argv[2]),
            int(sys.argv[3]),
            int(sys.argv[4]),
            shielded=sys.argv[5] == "end",
        )
    )
