"""What verbs take on the command line, and how it becomes records."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from pattern_core.errors import NotFoundError, ValidationError, nearest, shorten

from .output import note

if TYPE_CHECKING:
    from pattern_core.database import Repositories
    from pattern_core.models import Agent, Memory, User

__all__ = [
    "confirm",
    "entries_option",
    "find_agent",
    "find_memory",
    "find_user",
    "merged",
    "note_if_inactive",
    "page_options",
    "read_file",
    "read_text",
    "reworded",
    "some",
    "yes_option",
]

E = TypeVar("E", bound=Exception)
F = TypeVar("F", bound=Callable[..., Any])

_KNOWN: Final = 50
"""How many names an error looks through for the one that was meant."""
_LABELS: Final = 1000
"""How many labels it reads at a time."""


def entries_option(*names: str, what: str) -> Callable[[F], F]:
    """Add an option that sets an entry of a JSON object: ``source=diary``, ``level=3``; ``KEY=null`` removes one.

    Args:
        *names: The option's names.
        what: What it sets, in words.
    """

    def read(context: click.Context, parameter: click.Parameter, values: Iterable[str]) -> tuple[tuple[str, Any], ...]:
        entries = []
        for each in values:
            key, separator, text = each.partition("=")
            if not key or not separator:
                raise click.BadParameter(f"{each!r} is not KEY=VALUE", context, parameter)
            try:
                entries.append((key, json.loads(text)))
            except ValueError:
                entries.append((key, text))
        return tuple(entries)

    return click.option(
        *names, metavar="KEY=VALUE", multiple=True, callback=read, help=f"Set {what}; may be given several times."
    )


def merged(before: Mapping[str, Any], entries: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object with some entries set, and those that are None removed."""
    return {key: value for key, value in {**before, **dict(entries)}.items() if value is not None}


def some(**changes: Any) -> dict[str, Any]:
    """Return the changes that were asked for; raise `click.UsageError` where none was."""
    given = {name: value for name, value in changes.items() if value is not None}
    if not given:
        raise click.UsageError("Nothing to change. Say what, with one of the options; --help shows them.")
    return given


def page_options(verb: F) -> F:
    """Add ``--limit`` and ``--cursor``."""
    verb = click.option("--cursor", help="Go on where the page before ended.")(verb)
    limit = click.IntRange(min=1)
    return click.option("--limit", type=limit, default=50, show_default=True, help="Show this many at most.")(verb)


def yes_option(verb: F) -> F:
    """Add ``--yes``."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(verb)


def confirm(question: str) -> None:
    """Ask before something is lost.

    Args:
        question: The question.

    Raises:
        UsageError: Nobody is there to answer.
        Exit: The answer is no.
    """
    if not sys.stdin.isatty():
        raise click.UsageError("This asks before it deletes, and there is no terminal to ask on: add --yes.")
    if not click.confirm(question, err=True):
        click.echo("Left as it is.", err=True)
        click.get_current_context().exit(1)


def read_text(text: str) -> str:
    """Return a text from the command line; ``-`` reads it from standard input."""
    return read_file(text) if text == "-" else text


def read_file(path: str) -> str:
    """Return what stands in a UTF-8 file; ``-`` reads standard input."""
    with click.open_file(path, encoding="utf-8-sig") as source:
        try:
            text: str = source.read()
        except UnicodeDecodeError as error:
            raise click.UsageError(f"{path} is no UTF-8 text ({error}). Convert it first, with iconv, say.") from None
    return text


async def find_user(repositories: Repositories, wanted: str | None) -> User:
    """Find the user that is meant.

    Args:
        repositories: Where to look.
        wanted: An id, or a name that only one user has; None for the only user there is.

    Returns:
        The user.

    Raises:
        NotFoundError: There is no such user.
        ValidationError: Several could be meant.
    """
    from pattern_core.filters import Field

    if wanted is not None and (user := await repositories.users.find(wanted)):
        return user
    where = None if wanted is None else Field("metadata")["name"] == wanted
    found = await repositories.users.list(where, limit=_KNOWN)
    if len(found) == 1:
        return found[0]
    if found and wanted is None:
        names = ", ".join(_named(user) for user in found)
        raise ValidationError(f"there are several users; say which one, with --user: {names}", where="user")
    if found:
        raise ValidationError(f"{len(found)} users have the name {wanted!r}; give an id: {_ids(found)}", where="user")
    known = [str(user.metadata.get("name", user.id)) for user in await repositories.users.list(limit=_KNOWN)]
    raise _missing("user", "users", wanted or "", known)


async def find_agent(repositories: Repositories, wanted: str) -> Agent:
    """Find the agent that is meant.

    Args:
        repositories: Where to look.
        wanted: An id, or a name or type that only one agent has.

    Returns:
        The agent, also a deactivated one.

    Raises:
        NotFoundError: There is no such agent.
        ValidationError: Several could be meant.
    """
    from pattern_core.filters import Field

    if agent := await repositories.agents.find(wanted):
        return agent
    found = await repositories.agents.list((Field("name") == wanted) | (Field("agent_type") == wanted), limit=_KNOWN)
    if len(found) == 1:
        return found[0]
    if found:
        message = f"{len(found)} agents have the name or type {wanted!r}; give an id: {_ids(found)}"
        raise ValidationError(message, where="agent")
    known = [agent.name for agent in await repositories.agents.list(limit=_KNOWN)]
    raise _missing("agent", "agents", wanted, known)


async def find_memory(repositories: Repositories, wanted: str, label: str | None) -> Memory:
    """Find the memory that is meant.

    Args:
        repositories: Where to look.
        wanted: The memory's id or, with a label, the agent.
        label: The memory's label.

    Returns:
        The memory.

    Raises:
        NotFoundError: There is no such memory, or no such agent.
    """
    from pattern_core.filters import Field

    if label is None:
        if memory := await repositories.memories.find(wanted):
            return memory
        raise reworded(
            NotFoundError("memory_blocks", wanted),
            f"there is no memory with the id {shorten(wanted)}. A memory is told by its id, or by its agent and its label: "
            f"AGENT LABEL. `pattern memory list AGENT` shows the labels.",
        )
    agent = await find_agent(repositories, wanted)
    try:
        return await repositories.memories.by_label(agent.id, label)
    except NotFoundError as error:
        known = [
            each.label async for each in repositories.memories.iterate(Field("agent_id") == agent.id, page=_LABELS)
        ]
        close = get_close_matches(label, known, n=1, cutoff=0.5)
        way_out = f"Did you mean {close[0]!r}?" if close else f"`pattern memory list {agent.name}` shows the labels."
        raise reworded(error, f"{agent.name} has no memory labelled {shorten(label)}. {way_out}") from None


def note_if_inactive(agent: Agent) -> None:
    """Say so where an agent that is to be used is switched off."""
    if not agent.is_active:
        note(f"The agent {agent.name} is switched off. `pattern agent reactivate` switches it on again.")


def _missing(kind: str, table: str, wanted: str, known: Sequence[str]) -> NotFoundError:
    way_out = nearest(wanted, known) if known else f"There is none yet: `pattern {kind} add NAME` makes one."
    return reworded(NotFoundError(table, wanted), f"there is no {kind} {shorten(wanted)}. {way_out}")


def reworded(error: E, message: str) -> E:
    """Return an error with other words, those of the command line, where its own speak of what nobody typed."""
    error.args = (message,)
    return error


def _named(user: User) -> str:
    name = user.metadata.get("name")
    return f"{name} ({user.id})" if name else user.id


def _ids(records: Iterable[User | Agent]) -> str:
    return ", ".join(record.id for record in records)
