"""``pattern agent``: agents, each with memories of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pattern_core.cli.commands import VerbGroup
from pattern_core.cli.database import use_database
from pattern_core.cli.filtering import all_of, where_option
from pattern_core.cli.lookup import find_agent, find_user, reworded
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
from pattern_core.cli.output import Column, print_done, print_page, print_record, print_removed
from pattern_core.cli.values import merge_entries, read_text
from pattern_core.errors import AlreadyExistsError, shorten

if TYPE_CHECKING:
    from pattern_core.cli.commands import Settings
    from pattern_core.cli.values import Entries
    from pattern_core.database import Database, Repositories
    from pattern_core.filters import Filter
    from pattern_core.models import Agent, Page

__all__ = ["agent"]


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
@click.option("--type", "agent_type", help="The type; a user has one agent of each. [default: from NAME]")
@click.option("--user", help="The user: id or name. [default: the only one; a new one if there is none]")
@click.option("--prompt", default="", help="The system prompt; - reads it from standard input.")
@_state_option
@_config_option
@id_option
@click.pass_obj
def add(
    settings: Settings,
    name: str,
    agent_type: str | None,
    user: str | None,
    prompt: str,
    state: Entries,
    agent_config: Entries,
    id: str | None,
) -> None:
    """Add an agent with a NAME."""

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
            config=merge_entries({}, agent_config),
            state=merge_entries({}, state),
            id=id,
        )

    async def add_agent(db: Database) -> Agent:
        try:
            return await db.run(work)  # a new user is created only together with the agent
        except AlreadyExistsError as error:
            if "agent_type" not in error.key:
                raise
            taken = shorten(error.key["agent_type"])
            message = f"The user already has an agent of type {taken}. --type names another type."
            raise reworded(error, message) from None

    text = read_text(prompt)
    created = use_database(settings, add_agent)
    print_done(settings, f"Added the agent {created.name} of type {created.agent_type} ({created.id}).", created)


@agent.command("list", examples="pattern agent list --all\npattern agent list --where state.mood=calm")
@click.option("--user", help="Only agents of this user: id or name.")
@click.option("--type", "agent_type", help="Only agents of this type.")
@where_option("agents")
@all_option("deactivated agents", "--include-inactive")
@page_options
@click.pass_obj
def list_(
    settings: Settings,
    user: str | None,
    agent_type: str | None,
    where: Filter | None,
    include_all: bool,  # noqa: FBT001 - an option of the command line
    limit: int,
    cursor: str | None,
) -> None:
    """List the agents, oldest first."""
    from pattern_core.filters import Field

    async def read(db: Database) -> tuple[Page[Agent], int]:
        owner = None if user is None else await find_user(db, user)
        wanted = all_of(
            [
                where,
                None if owner is None else Field("user_id") == owner.id,
                None if agent_type is None else Field("agent_type") == agent_type,
            ]
        )
        shown = wanted if include_all else all_of([wanted, Field("is_active") == True])
        page = await db.agents.list(shown, limit=limit, cursor=cursor)
        return page, 0 if page or include_all else await db.agents.count(wanted)

    def row(each: Agent) -> list[str]:
        return [each.name, each.agent_type, "yes" if each.is_active else "no", each.id]

    columns = [Column("name", share=1 / 3), Column("type", share=1 / 3), Column("active"), Column("id")]
    page, others = use_database(settings, read)
    print_page(settings, page, columns, row, hidden=f"{others:,} deactivated" if others else "")


@agent.command("show", examples="pattern agent show Archive")
@click.argument("agent")
@click.pass_obj
def show(settings: Settings, agent: str) -> None:
    """Show all fields of an agent, and the number of its memories."""

    async def read(db: Database) -> tuple[Agent, int]:
        found = await find_agent(db, agent)
        return found, await db.memories.count(agent_id=found.id)

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
    """Change an agent. State and configuration change entry by entry; KEY=null removes one."""
    changes = given_changes(
        name=name, agent_type=agent_type, system_prompt=prompt, state=state or None, config=agent_config or None
    )
    if prompt is not None:
        changes["system_prompt"] = read_text(prompt)

    async def change(db: Database) -> Agent:
        found = await find_agent(db, agent)
        objects = {
            field: merge_entries(getattr(found, field), changes[field])
            for field in changes.keys() & {"state", "config"}
        }
        return await db.agents.update(found, **{**changes, **objects})

    changed = use_database(settings, change)
    print_done(settings, f"Changed the agent {changed.name} ({changed.id}).", changed)


@agent.command("deactivate", examples="pattern agent deactivate Archive")
@click.argument("agent")
@click.pass_obj
def deactivate(settings: Settings, agent: str) -> None:
    """Deactivate an agent, and keep everything that it has."""
    _set_active(settings, agent, is_active=False)


@agent.command("reactivate", examples="pattern agent reactivate Archive")
@click.argument("agent")
@click.pass_obj
def reactivate(settings: Settings, agent: str) -> None:
    """Activate an agent again."""
    _set_active(settings, agent, is_active=True)


def _set_active(settings: Settings, wanted: str, *, is_active: bool) -> None:
    async def change(db: Database) -> Agent:
        found = await find_agent(db, wanted)
        return await (db.agents.reactivate(found.id) if is_active else db.agents.deactivate(found.id))

    changed = use_database(settings, change)
    print_done(settings, f"The agent {changed.name} is {'active' if is_active else 'deactivated'}.", changed)


@agent.command("rm", examples="pattern agent rm Archive --cascade --yes")
@click.argument("agent")
@cascade_option("its memories, conversations and tool calls")
@yes_option
@click.pass_obj
def rm(settings: Settings, agent: str, cascade: bool, yes: bool) -> None:  # noqa: FBT001 - options of the command line
    """Delete an agent; `deactivate` keeps everything that it has."""
    found = use_database(settings, lambda db: find_agent(db, agent))
    if not yes:
        confirm(f"Delete the agent {found.name} ({found.id}){' with everything that it has' if cascade else ''}?")
    print_removed(settings, use_database(settings, lambda db: db.agents.delete(found, cascade=cascade)))
