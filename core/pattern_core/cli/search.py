"""``pattern search``: find an agent's memories by what they mean."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from .arguments import find_agent, note_if_inactive
from .base import Settings, Verb
from .database import use_database
from .output import Column, note, print_json, print_table

if TYPE_CHECKING:
    from pattern_core.database import Database
    from pattern_core.models import Hit, Memory

__all__ = ["search"]


@click.command(
    "search",
    cls=Verb,
    examples="""
        pattern search Archive "what does she drink in the morning?"
        pattern search Archive "plans for the garden" --limit 3 --json
    """,
)
@click.argument("agent")
@click.argument("text")
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, help="Show this many at most.")
@click.option("--all", "inactive", is_flag=True, help="Look at inactive memories, too.")
@click.pass_obj
def search(
    settings: Settings,
    agent: str,
    text: str,
    limit: int,
    inactive: bool,  # noqa: FBT001 - an option of the command line
) -> None:
    """Find the memories of an AGENT that mean what TEXT means, best first.

    AGENT is an agent's id, or a name or type that only one agent has. The score is the cosine similarity (1: the
    same), or the distance times -1 where the configuration names another metric. Of a memory that was embedded in parts,
    the part is shown that was found.
    """

    async def work(db: Database) -> tuple[list[Hit[Memory]], float]:
        found = await find_agent(db, agent)
        note_if_inactive(found)
        start = time.perf_counter()
        hits = await db.memories.search_semantic(found.id, text, limit, include_inactive=inactive)
        return hits, (time.perf_counter() - start) * 1000

    hits, milliseconds = use_database(settings, work, load_model=True)
    if settings.json:
        items = [{"score": hit.score, "exact": hit.exact, "passage": hit.passage, "memory": hit.memory} for hit in hits]
        print_json({"items": items, "milliseconds": round(milliseconds, 3)})
        return
    columns = [
        Column("score", number=True),
        Column("label", share=1 / 3, middle=True),
        Column("content", share=1, lines=3),
    ]
    print_table(columns, [[f"{hit.score:.3f}", hit.memory.label, hit.passage or hit.memory.content] for hit in hits])
    how = "exact" if all(hit.exact for hit in hits) else "approximate"
    note(f"{len(hits)} found in {milliseconds:,.1f} ms ({how})." if hits else f"{agent} remembers nothing yet.")
