"""``pattern message``: the messages of conversations."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from pattern_core.cli.commands import VerbGroup
from pattern_core.cli.database import use_database
from pattern_core.cli.filtering import where_option
from pattern_core.cli.lookup import find_agent, find_conversation, find_message
from pattern_core.cli.options import (
    ROLES,
    confirm,
    given_changes,
    id_option,
    metadata_option,
    page_options,
    search_options,
    yes_option,
)
from pattern_core.cli.output import (
    Column,
    print_done,
    print_hits,
    print_page,
    print_record,
    print_removed,
    shown_time,
)
from pattern_core.cli.progress import loading
from pattern_core.cli.values import json_or_text, merge_entries, read_text
from pattern_core.errors import shorten

if TYPE_CHECKING:
    from pattern_core.cli.commands import Settings
    from pattern_core.cli.values import Entries
    from pattern_core.database import Database
    from pattern_core.filters import Filter
    from pattern_core.models import Hit, Message, Page

__all__ = ["message"]


@click.group(
    cls=VerbGroup,
    examples="""
        pattern message add "The garden" user "When do I sow the beans?"
        pattern message list "The garden"
        pattern message search "vegetables" --agent Archive
    """,
)
def message() -> None:
    """Messages of conversations.

    CONVERSATION is an id, or a title that only one conversation has. An open one comes before ended ones. MESSAGE is an
    id.
    """


@message.command("add", examples='pattern message add "The garden" user "When do I sow the beans?"')
@click.argument("conversation")
@click.argument("role", type=click.Choice(ROLES))
@click.argument("content")
@click.option(
    "--tool-call", multiple=True, help="A tool call that the message asks for, as a JSON object; may be repeated."
)
@metadata_option
@id_option
@click.pass_obj
def add(
    settings: Settings,
    conversation: str,
    role: str,
    content: str,
    tool_call: tuple[str, ...],
    metadata: Entries,
    id: str | None,
) -> None:
    """Append a message to a CONVERSATION.

    ROLE is the speaker. CONTENT is the text; - reads it from standard input.
    """
    tool_calls = [_object(each) for each in tool_call]
    text = read_text(content)

    async def work(db: Database) -> Message:
        found = await find_conversation(db, conversation)
        with loading(settings):
            await db.embeddings.signature()
        return await db.messages.create(
            conversation_id=found.id,
            role=role,
            content=text,
            metadata=merge_entries({}, metadata),
            tool_calls=tool_calls or None,
            id=id,
        )

    created = use_database(settings, work)
    print_done(settings, f"Added the message {created.id}.", created)


def _object(text: str) -> dict[str, Any]:
    value = json_or_text(text)
    if not isinstance(value, dict):
        raise click.UsageError(f"--tool-call takes a JSON object, got {shorten(text)}.")
    return value


@message.command(
    "list",
    examples="""
        pattern message list "The garden" --where role=user
        pattern message list "The garden" --last --limit 5
    """,
)
@click.argument("conversation")
@click.option("--last", is_flag=True, help="List the last messages, instead of the first ones.")
@where_option("messages")
@page_options
@click.pass_obj
def list_(
    settings: Settings,
    conversation: str,
    last: bool,  # noqa: FBT001 - an option of the command line
    where: Filter | None,
    limit: int,
    cursor: str | None,
) -> None:
    """List the messages of a CONVERSATION, oldest first."""
    from pattern_core.models import Page as Pages

    if last and cursor is not None:
        raise click.UsageError("--last takes no --cursor. Use a larger --limit.")

    async def read(db: Database) -> Page[Message]:
        found = await find_conversation(db, conversation)
        order = "-created_at" if last else "created_at"
        page = await db.messages.list(where, order=order, conversation_id=found.id, limit=limit, cursor=cursor)
        return Pages(tuple(reversed(page.records)), None) if last else page

    columns = [Column("role"), Column("content", share=1, lines=3), Column("created"), Column("id", wide=True)]
    page = use_database(settings, read)
    print_page(
        settings, page, columns, lambda each: [str(each.role), each.content, shown_time(each.created_at), each.id]
    )


@message.command("search", examples='pattern message search "vegetables" --agent Archive')
@click.argument("text")
@click.option("--conversation", help="Only messages of this conversation: id or title.")
@click.option("--agent", help="Only messages of this agent's conversations: id, name or type.")
@where_option("messages")
@search_options
@click.pass_obj
def search(
    settings: Settings,
    text: str,
    conversation: str | None,
    agent: str | None,
    where: Filter | None,
    limit: int,
    min_score: float | None,
) -> None:
    """Find messages by meaning, best first.

    Search one conversation, or all conversations of an agent, for the messages that are closest to TEXT.
    """
    if (conversation is None) == (agent is None):
        raise click.UsageError("Name where to search: either --conversation or --agent.")

    async def work(db: Database) -> tuple[list[Hit[Message]], float]:
        agent_id = None if agent is None else (await find_agent(db, agent)).id
        conversation_id = None if conversation is None else (await find_conversation(db, conversation)).id
        start = time.perf_counter()
        hits = await db.messages.search(
            text,
            agent_id=agent_id,
            conversation_id=conversation_id,
            limit=limit,
            where=where,
            min_score=min_score,
        )
        return hits, (time.perf_counter() - start) * 1000

    print_hits(
        settings,
        use_database(settings, work, load_model=True),
        "message",
        [Column("role"), Column("created", wide=True)],
        lambda found: [str(found.role), shown_time(found.created_at), found.content],
        nothing="Nothing found.",
    )


@message.command("show", examples="pattern message show 01900000-0000-7000-8000-000000000000")
@click.argument("message")
@click.pass_obj
def show(settings: Settings, message: str) -> None:
    """Show all fields of a message."""
    print_record(settings, use_database(settings, lambda db: find_message(db, message)))


@message.command(
    "edit", examples='pattern message edit 01900000-0000-7000-8000-000000000000 --content "Sow them in May."'
)
@click.argument("message")
@click.option("--content", help="The new content; - reads it from standard input.")
@metadata_option
@click.pass_obj
def edit(settings: Settings, message: str, content: str | None, metadata: Entries) -> None:
    """Change a message. New content is embedded; metadata change entry by entry."""
    changes = given_changes(content=content, metadata=metadata or None)
    if content is not None:
        changes["content"] = read_text(content)

    async def change(db: Database) -> Message:
        found = await find_message(db, message)
        entries = {"metadata": merge_entries(found.metadata, metadata)} if metadata else {}
        if content is not None:
            with loading(settings):
                await db.embeddings.signature()
        return await db.messages.update(found, **{**changes, **entries})

    changed = use_database(settings, change)
    print_done(settings, f"Changed the message {changed.id}.", changed)


@message.command("rm", examples="pattern message rm 01900000-0000-7000-8000-000000000000 --yes")
@click.argument("message")
@yes_option
@click.pass_obj
def rm(settings: Settings, message: str, yes: bool) -> None:  # noqa: FBT001 - an option of the command line
    """Delete a message."""
    found = use_database(settings, lambda db: find_message(db, message))
    if not yes:
        confirm(f"Delete the message {found.id}?")
    print_removed(settings, use_database(settings, lambda db: db.messages.delete(found)))
