"""``pattern conversation``: threads of messages between users and agents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pattern_core.cli.commands import VerbGroup
from pattern_core.cli.database import use_database
from pattern_core.cli.filtering import all_of, where_option
from pattern_core.cli.lookup import find_agent, find_conversation, find_user
from pattern_core.cli.options import (
    all_option,
    cascade_option,
    confirm,
    entries_option,
    given_changes,
    id_option,
    page_options,
    yes_option,
)
from pattern_core.cli.output import Column, print_done, print_page, print_record, print_removed, shown_time
from pattern_core.cli.values import merge_entries

if TYPE_CHECKING:
    from pattern_core.cli.commands import Settings
    from pattern_core.cli.values import Entries
    from pattern_core.database import Database
    from pattern_core.filters import Filter
    from pattern_core.models import Conversation, Page

__all__ = ["conversation"]


@click.group(
    cls=VerbGroup,
    examples="""
        pattern conversation add Archive --title "The garden"
        pattern conversation list
        pattern message list "The garden"
        pattern conversation end "The garden"
    """,
)
def conversation() -> None:
    """Conversations: threads of messages between users and agents.

    CONVERSATION is an id, or a title that only one conversation has. An open one comes before ended ones.
    """


_context_option = entries_option("--context", what="an entry of the context")


@conversation.command("add", examples='pattern conversation add Archive --title "The garden"')
@click.argument("agent")
@click.option("--user", help="The user: id or name. [default: the agent's]")
@click.option("--title", help="The title.")
@_context_option
@id_option
@click.pass_obj
def add(settings: Settings, agent: str, user: str | None, title: str | None, context: Entries, id: str | None) -> None:
    """Begin a conversation with an AGENT."""

    async def work(db: Database) -> Conversation:
        found = await find_agent(db, agent)
        user_id = found.user_id if user is None else (await find_user(db, user)).id
        return await db.conversations.create(
            user_id=user_id, agent_id=found.id, title=title, context=merge_entries({}, context), id=id
        )

    created = use_database(settings, work)
    print_done(settings, f"Added the conversation {created.title or ''} ({created.id}).".replace("  ", " "), created)


@conversation.command("list", examples="pattern conversation list --agent Archive --all")
@click.option("--user", help="Only conversations of this user: id or name.")
@click.option("--agent", help="Only conversations with this agent: id, name or type.")
@where_option("conversations")
@all_option("ended conversations")
@page_options
@click.pass_obj
def list_(
    settings: Settings,
    user: str | None,
    agent: str | None,
    where: Filter | None,
    include_all: bool,  # noqa: FBT001 - an option of the command line
    limit: int,
    cursor: str | None,
) -> None:
    """List the conversations, oldest first."""
    from pattern_core.filters import Field

    async def read(db: Database) -> tuple[Page[Conversation], int]:
        owner = None if user is None else await find_user(db, user)
        partner = None if agent is None else await find_agent(db, agent)
        wanted = all_of(
            [
                where,
                None if owner is None else Field("user_id") == owner.id,
                None if partner is None else Field("agent_id") == partner.id,
            ]
        )
        shown = wanted if include_all else all_of([wanted, Field("ended_at").is_null()])
        page = await db.conversations.list(shown, limit=limit, cursor=cursor)
        return page, 0 if page or include_all else await db.conversations.count(wanted)

    def row(each: Conversation) -> list[str]:
        return [each.title or "", each.id, shown_time(each.created_at), shown_time(each.ended_at)]

    columns = [Column("title", share=1 / 2), Column("id"), Column("created"), Column("ended", wide=True)]
    page, others = use_database(settings, read)
    print_page(settings, page, columns, row, hidden=f"{others:,} ended" if others else "")


@conversation.command("show", examples='pattern conversation show "The garden"')
@click.argument("conversation")
@click.pass_obj
def show(settings: Settings, conversation: str) -> None:
    """Show all fields of a conversation, and the number of its messages."""

    async def read(db: Database) -> tuple[Conversation, int]:
        found = await find_conversation(db, conversation)
        return found, await db.messages.count(conversation_id=found.id)

    found, messages = use_database(settings, read)
    print_record(settings, found, messages=messages)


@conversation.command("edit", examples='pattern conversation edit "The garden" --context season=spring')
@click.argument("conversation")
@click.option("--title", help="The new title.")
@_context_option
@click.pass_obj
def edit(settings: Settings, conversation: str, title: str | None, context: Entries) -> None:
    """Change a conversation. The context changes entry by entry; KEY=null removes one."""
    changes = given_changes(title=title, context=context or None)

    async def change(db: Database) -> Conversation:
        found = await find_conversation(db, conversation)
        entries = {"context": merge_entries(found.context, context)} if context else {}
        return await db.conversations.update(found, **{**changes, **entries})

    changed = use_database(settings, change)
    print_done(settings, f"Changed the conversation {changed.id}.", changed)


@conversation.command("end", examples='pattern conversation end "The garden"')
@click.argument("conversation")
@click.pass_obj
def end(settings: Settings, conversation: str) -> None:
    """End a conversation: it takes no more messages."""

    async def change(db: Database) -> Conversation:
        return await db.conversations.end((await find_conversation(db, conversation)).id)

    ended = use_database(settings, change)
    print_done(settings, f"The conversation {ended.id} ended at {shown_time(ended.ended_at)}.", ended)


@conversation.command("rm", examples='pattern conversation rm "The garden" --cascade --yes')
@click.argument("conversation")
@cascade_option("its messages and tool calls")
@yes_option
@click.pass_obj
def rm(
    settings: Settings,
    conversation: str,
    cascade: bool,  # noqa: FBT001 - options of the command line
    yes: bool,  # noqa: FBT001 - as above
) -> None:
    """Delete a conversation; `end` keeps it."""
    found = use_database(settings, lambda db: find_conversation(db, conversation))
    if not yes:
        confirm(f"Delete the conversation {found.title or found.id}{' with all messages' if cascade else ''}?")
    print_removed(settings, use_database(settings, lambda db: db.conversations.delete(found, cascade=cascade)))
