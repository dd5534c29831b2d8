"""``pattern search``: memories by meaning."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from pattern_core.cli.commands import Verb
from pattern_core.cli.database import use_database
from pattern_core.cli.filtering import label_options, where_labels, where_option
from pattern_core.cli.lookup import find_agent, note_if_inactive
from pattern_core.cli.options import all_option, search_options
from pattern_core.cli.output import Column, print_hits

if TYPE_CHECKING:
    from pattern_core.cli.commands import Settings
    from pattern_core.database import Database
    from pattern_core.filters import Filter
    from pattern_core.models import Agent, Hit, Memory

__all__ = ["search"]


@click.command(
    "search",
    cls=Verb,
    examples="""
        pattern search Archive "what does she drink in the morning?"
        pattern search Archive "plans for the garden" --limit 3 --json
        pattern search Archive "plans" --prefix notes.md --where metadata.topic=garden
    """,
)
@click.argument("agent")
@click.argument("text")
@label_options
@where_option("memory_blocks")
@all_option("inactive memories", "--include-inactive")
@search_options
@click.pass_obj
def search(
    settings: Settings,
    agent: str,
    text: str,
    label: str | None,
    prefix: str | None,
    where: Filter | None,
    include_all: bool,  # noqa: FBT001 - an option of the command line
    limit: int,
    min_score: float | None,
) -> None:
    """Find the memories of an AGENT whose meaning is closest to TEXT, best first.

    AGENT is an agent's id, or a name or type that only one agent has. The score is the cosine similarity (1: equal), or
    the distance times -1 if the configuration names another metric. Of a long memory, the passage that matches is shown.
    """

    async def work(db: Database) -> tuple[list[Hit[Memory]], float, str]:
        found = await find_agent(db, agent)
        note_if_inactive(found)
        wanted = where_labels(where, label, prefix)
        start = time.perf_counter()
        hits = await db.memories.search(
            text,
            agent_id=found.id,
            limit=limit,
            where=wanted,
            min_score=min_score,
            include_inactive=include_all,
        )
        took = (time.perf_counter() - start) * 1000
        return hits, took, "" if hits else await _why_nothing(db, found, wanted, include_all=include_all)

    hits, milliseconds, nothing = use_database(settings, work, load_model=True)
    print_hits(
        settings,
        (hits, milliseconds),
        "memory",
        [Column("label", share=1 / 3, middle=True)],
        lambda memory: [memory.label, memory.content],
        nothing=nothing,
    )


async def _why_nothing(db: Database, agent: Agent, where: Filter | None, *, include_all: bool) -> str:
    """Return the note for a search without hits."""
    if not await db.memories.count(agent_id=agent.id):
        return f"{agent.name} has no memories yet."
    inactive = 0 if include_all else await db.memories.count(where, agent_id=agent.id, is_active=False)
    return f"Nothing found. With --all: {inactive:,} inactive." if inactive else "Nothing found."
