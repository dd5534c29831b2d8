"""``pattern memory``: the memories of agents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pattern_core.cli.commands import VerbGroup
from pattern_core.cli.database import use_database
from pattern_core.cli.filtering import label_options, where_labels, where_option
from pattern_core.cli.importing import import_files
from pattern_core.cli.lookup import find_agent, find_memory, note_if_inactive, reworded
from pattern_core.cli.options import (
    all_option,
    confirm,
    given_changes,
    id_option,
    metadata_option,
    page_options,
    yes_option,
)
from pattern_core.cli.output import Column, print_done, print_page, print_record, print_removed, shown_time
from pattern_core.cli.progress import loading
from pattern_core.cli.values import merge_entries, read_text
from pattern_core.errors import AlreadyExistsError, shorten

if TYPE_CHECKING:
    from pattern_core.cli.commands import Settings
    from pattern_core.cli.values import Entries
    from pattern_core.database import Database
    from pattern_core.filters import Filter
    from pattern_core.models import Memory, Page

__all__ = ["memory"]


@click.group(
    cls=VerbGroup,
    examples="""
        pattern memory add Archive coffee "Ada drinks one espresso before ten and tea after lunch."
        pattern memory import Archive notes.md
        pattern memory list Archive --prefix notes
        pattern memory show Archive coffee
    """,
)
def memory() -> None:
    """Memories: the texts that agents keep.

    AGENT is an agent's id, or a name or type that only one agent has. Name a memory by its id, or by its agent and its
    label.
    """


@memory.command("add", examples='pattern memory add Archive coffee "Ada drinks one espresso before ten."')
@click.argument("agent")
@click.argument("label")
@click.argument("content")
@click.option("--description", help="The purpose of the memory.")
@metadata_option
@id_option
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
    """Add a memory with a new LABEL.

    CONTENT is its text; - reads it from standard input.
    """
    text = read_text(content)

    async def work(db: Database) -> Memory:
        found = await find_agent(db, agent)
        note_if_inactive(found)
        entries = merge_entries({}, metadata)
        with loading(settings):
            await db.embeddings.signature()
        try:
            return await db.memories.create(
                agent_id=found.id, label=label, content=text, description=description, metadata=entries, id=id
            )
        except AlreadyExistsError as error:
            if "label" not in error.key:
                raise
            message = f"{found.name} already has a memory labeled {shorten(label)}. `pattern memory edit` changes it."
            raise reworded(error, message) from None

    created = use_database(settings, work)
    print_done(settings, f"Added {created.label} ({created.id}).", created)


@memory.command(
    "list",
    examples="""
        pattern memory list Archive --limit 200
        pattern memory list Archive --prefix notes.md --where metadata.topic=garden
    """,
)
@click.argument("agent")
@label_options
@where_option("memory_blocks")
@all_option("inactive memories", "--include-inactive")
@page_options
@click.pass_obj
def list_(
    settings: Settings,
    agent: str,
    label: str | None,
    prefix: str | None,
    where: Filter | None,
    include_all: bool,  # noqa: FBT001 - an option of the command line
    limit: int,
    cursor: str | None,
) -> None:
    """List the memories of an agent, oldest first."""
    from pattern_core.filters import Field

    async def read(db: Database) -> tuple[Page[Memory], int]:
        wanted = where_labels(where, label, prefix)
        agent_id = (await find_agent(db, agent)).id
        active = Field("is_active") == True
        shown = wanted if include_all else active if wanted is None else wanted & active
        page = await db.memories.list(shown, agent_id=agent_id, limit=limit, cursor=cursor)
        return page, 0 if page or include_all else await db.memories.count(wanted, agent_id=agent_id)

    columns = [Column("label", share=1 / 3, middle=True), Column("content", share=1), Column("updated")]
    page, others = use_database(settings, read)
    print_page(
        settings,
        page,
        columns,
        lambda each: [each.label, each.content, shown_time(each.updated_at)],
        hidden=f"{others:,} inactive" if others else "",
    )


@memory.command(
    "show", examples="pattern memory show Archive coffee\npattern memory show 01900000-0000-7000-8000-000000000000"
)
@click.argument("memory", metavar="MEMORY|AGENT")
@click.argument("label", required=False)
@click.pass_obj
def show(settings: Settings, memory: str, label: str | None) -> None:
    """Show all fields of a memory."""
    print_record(settings, use_database(settings, lambda db: find_memory(db, memory, label)))


@memory.command("edit", examples='pattern memory edit Archive coffee --content "Ada has given up coffee."')
@click.argument("memory", metavar="MEMORY|AGENT")
@click.argument("label", required=False)
@click.option("--content", help="The new content; - reads it from standard input.")
@click.option("--label", "new_label", help="The new label.")
@click.option("--description", help="The purpose of the memory.")
@click.option("--active/--inactive", default=None, help="Whether lists and searches include it.")
@metadata_option
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
    """Change a memory. New content is embedded."""
    changes = given_changes(
        content=content, label=new_label, description=description, is_active=active, metadata=metadata or None
    )
    if content is not None:
        changes["content"] = read_text(content)

    async def change(db: Database) -> Memory:
        found = await find_memory(db, memory, label)
        entries = {"metadata": merge_entries(found.metadata, metadata)} if metadata else {}
        if content is not None:
            with loading(settings):
                await db.embeddings.signature()
        return await db.memories.update(found, **{**changes, **entries})

    changed = use_database(settings, change)
    print_done(settings, f"Changed {changed.label} ({changed.id}).", changed)


@memory.command("rm", examples="pattern memory rm Archive coffee --yes")
@click.argument("memory", metavar="MEMORY|AGENT")
@click.argument("label", required=False)
@yes_option
@click.pass_obj
def rm(settings: Settings, memory: str, label: str | None, yes: bool) -> None:  # noqa: FBT001 - an option
    """Delete a memory; `edit --inactive` keeps it."""
    found = use_database(settings, lambda db: find_memory(db, memory, label))
    if not yes:
        confirm(f"Delete {found.label} ({found.id})?")
    print_removed(settings, use_database(settings, lambda db: db.memories.delete(found)))


memory.add_command(import_files)
