"""``pattern memory``: what agents remember."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pattern_core.errors import AlreadyExistsError, shorten

from .arguments import (
    confirm,
    entries_option,
    find_agent,
    find_memory,
    merged,
    note_if_inactive,
    page_options,
    read_text,
    reworded,
    some,
    yes_option,
)
from .base import Settings, VerbGroup
from .database import use_database
from .importing import import_file
from .output import Column, print_done, print_page, print_record, print_removed, shown_time
from .progress import loading

if TYPE_CHECKING:
    from pattern_core.database import Database
    from pattern_core.models import Memory, Page

__all__ = ["memory"]

Entries = tuple[tuple[str, Any], ...]


@click.group(
    cls=VerbGroup,
    examples="""
        pattern memory add Archive coffee "Ada drinks one espresso before ten and tea after lunch."
        pattern memory import Archive notes.md
        pattern memory list Archive
        pattern memory show Archive coffee
    """,
)
def memory() -> None:
    """Memories: what agents remember.

    AGENT is an agent's id, or a name or type that only one agent has. A memory is told by its id, or by its agent and
    its label.
    """


memory.add_command(import_file)

_metadata_option = entries_option("--metadata", what="an entry of the metadata")


@memory.command("add", examples='pattern memory add Archive coffee "Ada drinks one espresso before ten."')
@click.argument("agent")
@click.argument("label")
@click.argument("content")
@click.option("--description", help="What the memory is for.")
@_metadata_option
@click.option("--id", help="The id; made where it is not given.")
@click.pass_obj
def add(
    settings: Settings,
    agent: str,
    label: str,
    content: str,
    description: str | None,
    metadata: Entries,
    id: str | None,
) -> None:
    """Remember CONTENT under a LABEL that is new for the agent. - reads it from standard input."""
    text = read_text(content)

    async def work(db: Database) -> Memory:
        found = await find_agent(db, agent)
        note_if_inactive(found)
        about = merged({}, metadata)
        with loading(settings):
            await db.embeddings.signature()
        try:
            return await db.memories.create(
                agent_id=found.id, label=label, content=text, description=description, metadata=about, id=id
            )
        except AlreadyExistsError as error:
            if "label" not in error.key:
                raise
            message = f"{found.name} already has a memory labelled {shorten(label)}. `pattern memory edit` changes it."
            raise reworded(error, message) from None

    made = use_database(settings, work)
    print_done(settings, f"Remembered {made.label} ({made.id}).", made)


@memory.command("list", examples="pattern memory list Archive --limit 200")
@click.argument("agent")
@click.option("--all", "inactive", is_flag=True, help="The inactive ones, too.")
@page_options
@click.pass_obj
def list_(
    settings: Settings,
    agent: str,
    inactive: bool,  # noqa: FBT001 - an option of the command line
    limit: int,
    cursor: str | None,
) -> None:
    """List an agent's memories, oldest first."""
    from pattern_core.filters import Field

    async def read(db: Database) -> Page[Memory]:
        where = Field("agent_id") == (await find_agent(db, agent)).id
        if not inactive:
            where &= Field("is_active") == True
        return await db.memories.list(where, limit=limit, cursor=cursor)

    columns = [Column("label", share=1 / 3, middle=True), Column("content", share=1), Column("updated")]
    page = use_database(settings, read)
    print_page(settings, page, columns, lambda each: [each.label, each.content, shown_time(each.updated_at)])


@memory.command(
    "show", examples="pattern memory show Archive coffee\npattern memory show 01900000-0000-7000-8000-000000000000"
)
@click.argument("memory", metavar="MEMORY|AGENT")
@click.argument("label", required=False)
@click.pass_obj
def show(settings: Settings, memory: str, label: str | None) -> None:
    """Show everything about a memory."""
    print_record(settings, use_database(settings, lambda db: find_memory(db, memory, label)))


@memory.command("edit", examples='pattern memory edit Archive coffee --content "Ada has given up coffee."')
@click.argument("memory", metavar="MEMORY|AGENT")
@click.argument("label", required=False)
@click.option("--content", help="The new content; - reads it from standard input.")
@click.option("--label", "new_label", help="The new label.")
@click.option("--description", help="What the memory is for.")
@click.option("--active/--inactive", default=None, help="Let search find it, or pass over it.")
@_metadata_option
@click.pass_obj
def edit(
    settings: Settings,
    memory: str,
    label: str | None,
    content: str | None,
    new_label: str | None,
    description: str | None,
    active: bool | None,  # noqa: FBT001 - an option of the command line
    metadata: Entries,
) -> None:
    """Change a memory. A new content is embedded anew."""
    given = some(content=content, label=new_label, description=description, is_active=active, metadata=metadata or None)
    if content is not None:
        given["content"] = read_text(content)

    async def change(db: Database) -> Memory:
        found = await find_memory(db, memory, label)
        about = {"metadata": merged(found.metadata, metadata)} if metadata else {}
        if content is not None:
            with loading(settings):
                await db.embeddings.signature()
        return await db.memories.update(found, **{**given, **about})

    changed = use_database(settings, change)
    print_done(settings, f"Changed {changed.label} ({changed.id}).", changed)


@memory.command("rm", examples="pattern memory rm Archive coffee --yes")
@click.argument("memory", metavar="MEMORY|AGENT")
@click.argument("label", required=False)
@yes_option
@click.pass_obj
def rm(settings: Settings, memory: str, label: str | None, yes: bool) -> None:  # noqa: FBT001 - an option
    """Forget a memory."""
    found = use_database(settings, lambda db: find_memory(db, memory, label))
    if not yes:
        confirm(f"Forget {found.label} ({found.id})?")
    print_removed(settings, use_database(settings, lambda db: db.memories.delete(found)))
