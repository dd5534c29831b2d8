"""``pattern agent``: agents, each with memories of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .arguments import confirm, entries_option, find_agent, find_user, merged, page_options, read_text, some, yes_option
from .base import Settings, VerbGroup
from .database import use_database
from .output import Column, note, print_done, print_page, print_record, print_removed

if TYPE_CHECKING:
    from pattern_core.database import Database, Repositories
    from pattern_core.filters import Filter
    from pattern_core.models import Agent, Page

__all__ = ["agent"]

Entries = tuple[tuple[str, Any], ...]


@click.group(
    cls=VerbGroup,
    examples="""
        pattern agent add Archive --prompt "Remember what matters."
        pattern agent list
        pattern agent edit Archive --state mood=calm
        pattern agent deactivate Archive
    """,
)
def agent() -> None:
    """Agents, each with memories of its own.

    AGENT is an agent's id, or a name or type that only one agent has.
    """


_state_option = entries_option("--state", what="an entry of the agent's state")
_config_option = entries_option("--agent-config", what="an entry of the agent's configuration")


@agent.command("add", examples='pattern agent add Archive --prompt "Remember what matters."')
@click.argument("name")
@click.option("--type", "agent_type", help="What kind of agent it is; a user has one of each. [default: from NAME]")
@click.option("--user", help="The user: id or name. [default: the only one; made where there is none]")
@click.option("--prompt", default="", help="The system prompt; - reads it from standard input.")
@click.option("--id", help="The id; made where it is not given.")
@_state_option
@_config_option
@click.pass_obj
def add(
    settings: Settings,
    name: str,
    agent_type: str | None,
    user: str | None,
    prompt: str,
    id: str | None,
    state: Entries,
    agent_config: Entries,
) -> None:
    """Add an agent with a NAME to find it by."""

    async def work(repositories: Repositories) -> Agent:
        if user is None and not await repositories.users.count():
            owner = await repositories.users.create()
        else:
            owner = await find_user(repositories, user)
        return await repositories.agents.create(
            user_id=owner.id,
            agent_type=agent_type or "-".join(name.lower().split()),
            name=name,
            system_prompt=text,
            config=merged({}, agent_config),
            state=merged({}, state),
            id=id,
        )

    text = read_text(prompt)
    # A user that is made for the agent is there only if the agent is.
    made = use_database(settings, lambda db: db.run(work))
    print_done(settings, f"Added the agent {made.name} of type {made.agent_type} ({made.id}).", made)


@agent.command("list", examples="pattern agent list --all")
@click.option("--user", help="Only those of this user: id or name.")
@click.option("--type", "agent_type", help="Only those of this type.")
@click.option("--all", "inactive", is_flag=True, help="The deactivated ones, too.")
@page_options
@click.pass_obj
def list_(
    settings: Settings,
    user: str | None,
    agent_type: str | None,
    inactive: bool,  # noqa: FBT001 - an option of the command line
    limit: int,
    cursor: str | None,
) -> None:
    """List the agents, oldest first."""
    from pattern_core.filters import And, Field

    async def read(db: Database) -> tuple[Page[Agent], int]:
        parts: list[Filter] = []
        if user is not None:
            parts.append(Field("user_id") == (await find_user(db, user)).id)
        if agent_type is not None:
            parts.append(Field("agent_type") == agent_type)
        where = And(tuple(parts))
        page = await db.agents.list(
            where if inactive else where & (Field("is_active") == True), limit=limit, cursor=cursor
        )
        return page, 0 if page else await db.agents.count(where)

    def row(each: Agent) -> list[str]:
        return [each.name, each.agent_type, "yes" if each.is_active else "no", each.id]

    columns = [Column("name", share=1 / 3), Column("type", share=1 / 3), Column("active"), Column("id")]
    page, others = use_database(settings, read)
    print_page(settings, page, columns, row)
    if others:
        note(f"{others:,} are switched off: --all shows them.")


@agent.command("show", examples="pattern agent show Archive")
@click.argument("agent")
@click.pass_obj
def show(settings: Settings, agent: str) -> None:
    """Show everything about an agent, and how many memories it has."""
    from pattern_core.filters import Field

    async def read(db: Database) -> tuple[Agent, int]:
        found = await find_agent(db, agent)
        return found, await db.memories.count(Field("agent_id") == found.id)

    found, memories = use_database(settings, read)
    print_record(settings, found, memories=memories)


@agent.command("edit", examples='pattern agent edit Archive --name "The Archive" --state mood=calm')
@click.argument("agent")
@click.option("--name", help="The new name.")
@click.option("--type", "agent_type", help="The new type.")
@click.option("--prompt", help="The new system prompt; - reads it from standard input.")
@_state_option
@_config_option
@click.pass_obj
def edit(
    settings: Settings,
    agent: str,
    name: str | None,
    agent_type: str | None,
    prompt: str | None,
    state: Entries,
    agent_config: Entries,
) -> None:
    """Change an agent. Entries of state and configuration are set one by one; KEY=null removes one."""
    changes = some(
        name=name, agent_type=agent_type, system_prompt=prompt, state=state or None, config=agent_config or None
    )
    if prompt is not None:
        changes["system_prompt"] = read_text(prompt)

    async def change(db: Database) -> Agent:
        found = await find_agent(db, agent)
        objects = {
            field: merged(getattr(found, field), changes[field]) for field in changes.keys() & {"state", "config"}
        }
        return await db.agents.update(found, **{**changes, **objects})

    changed = use_database(settings, change)
    print_done(settings, f"Changed the agent {changed.name} ({changed.id}).", changed)


@agent.command("deactivate", examples="pattern agent deactivate Archive")
@click.argument("agent")
@click.pass_obj
def deactivate(settings: Settings, agent: str) -> None:
    """Switch an agent off, and keep everything it has."""
    _switch(settings, agent, is_active=False)


@agent.command("reactivate", examples="pattern agent reactivate Archive")
@click.argument("agent")
@click.pass_obj
def reactivate(settings: Settings, agent: str) -> None:
    """Switch an agent on again."""
    _switch(settings, agent, is_active=True)


def _switch(settings: Settings, wanted: str, *, is_active: bool) -> None:
    async def change(db: Database) -> Agent:
        found = await find_agent(db, wanted)
        return await (db.agents.reactivate(found.id) if is_active else db.agents.deactivate(found.id))

    changed = use_database(settings, change)
    print_done(settings, f"The agent {changed.name} is {'active' if is_active else 'switched off'}.", changed)


@agent.command("rm", examples="pattern agent rm Archive --cascade --yes")
@click.argument("agent")
@click.option("--cascade", is_flag=True, help="Delete its memories, conversations and tool calls, too.")
@yes_option
@click.pass_obj
def rm(settings: Settings, agent: str, cascade: bool, yes: bool) -> None:  # noqa: FBT001 - options of the command line
    """Delete an agent for good; `deactivate` keeps what it has."""
    found = use_database(settings, lambda db: find_agent(db, agent))
    if not yes:
        confirm(f"Delete the agent {found.name} ({found.id}){' with everything it has' if cascade else ''}?")
    print_removed(settings, use_database(settings, lambda db: db.agents.delete(found, cascade=cascade)))
