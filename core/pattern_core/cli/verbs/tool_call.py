"""``pattern tool-call``: the record of tool calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pattern_core.cli.commands import VerbGroup
from pattern_core.cli.database import use_database
from pattern_core.cli.filtering import all_of, where_option
from pattern_core.cli.lookup import find_agent, find_conversation, find_tool_call
from pattern_core.cli.options import entries_option, id_option, page_options
from pattern_core.cli.output import Column, print_done, print_page, print_record, shown_time
from pattern_core.cli.values import json_or_text, merge_entries

if TYPE_CHECKING:
    from pattern_core.cli.commands import Settings
    from pattern_core.cli.values import Entries
    from pattern_core.database import Database
    from pattern_core.filters import Filter
    from pattern_core.models import Page, ToolCall

__all__ = ["tool_call"]


@click.group(
    "tool-call",
    cls=VerbGroup,
    examples="""
        pattern tool-call add "The garden" weather --parameter place=London --result '{"rain": true}'
        pattern tool-call list --agent Archive
    """,
)
def tool_call() -> None:
    """The record of tool calls.

    It is append-only: a tool call is deleted only with its conversation or agent. TOOL_CALL is an id.
    """


@tool_call.command("add", examples='pattern tool-call add "The garden" weather --result \'{"rain": true}\'')
@click.argument("conversation")
@click.argument("tool")
@entries_option("--parameter", what="a parameter")
@click.option("--result", help="The result, as JSON or text.")
@click.option("--error", help="The error message of a call that failed.")
@click.option("--duration-ms", type=click.IntRange(min=0), default=0, help="How long it took, in milliseconds.")
@id_option
@click.pass_obj
def add(
    settings: Settings,
    conversation: str,
    tool: str,
    parameter: Entries,
    result: str | None,
    error: str | None,
    duration_ms: int,
    id: str | None,
) -> None:
    """Record a call of a TOOL in a CONVERSATION."""

    async def work(db: Database) -> ToolCall:
        found = await find_conversation(db, conversation)
        return await db.tool_calls.create(
            agent_id=found.agent_id,
            conversation_id=found.id,
            tool_name=tool,
            parameters=merge_entries({}, parameter),
            result=None if result is None else json_or_text(result),
            error=error,
            duration_ms=duration_ms,
            id=id,
        )

    created = use_database(settings, work)
    print_done(settings, f"Recorded the tool call {created.id}.", created)


@tool_call.command("list", examples="pattern tool-call list --agent Archive --where 'duration_ms>1000'")
@click.option("--agent", help="Only calls of this agent: id, name or type.")
@click.option("--conversation", help="Only calls in this conversation: id or title.")
@click.option("--tool", help="Only calls of this tool.")
@where_option("tool_calls")
@page_options
@click.pass_obj
def list_(
    settings: Settings,
    agent: str | None,
    conversation: str | None,
    tool: str | None,
    where: Filter | None,
    limit: int,
    cursor: str | None,
) -> None:
    """List the tool calls, oldest first."""
    from pattern_core.filters import Field

    async def read(db: Database) -> Page[ToolCall]:
        caller = None if agent is None else await find_agent(db, agent)
        thread = None if conversation is None else await find_conversation(db, conversation)
        wanted = all_of(
            [
                where,
                None if caller is None else Field("agent_id") == caller.id,
                None if thread is None else Field("conversation_id") == thread.id,
                None if tool is None else Field("tool_name") == tool,
            ]
        )
        return await db.tool_calls.list(wanted, limit=limit, cursor=cursor)

    def row(each: ToolCall) -> list[str]:
        return [each.tool_name, each.error or "", f"{each.duration_ms:,}", shown_time(each.created_at), each.id]

    columns = [Column("tool", share=1 / 3), Column("error", share=1), Column("ms", number=True)]
    columns += [Column("created"), Column("id", wide=True)]
    print_page(settings, use_database(settings, read), columns, row)


@tool_call.command("show", examples="pattern tool-call show 01900000-0000-7000-8000-000000000000")
@click.argument("tool_call")
@click.pass_obj
def show(settings: Settings, tool_call: str) -> None:
    """Show all fields of a tool call."""
    print_record(settings, use_database(settings, lambda db: find_tool_call(db, tool_call)))
