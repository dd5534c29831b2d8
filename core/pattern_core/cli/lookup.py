"""Lookup of the record that the command line names: by id, or by a name that only one record has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, TypeVar

from pattern_core.errors import NotFoundError, ValidationError, nearest, shorten

from .output import note

if TYPE_CHECKING:
    from pattern_core.database import Repositories
    from pattern_core.filters import Filter
    from pattern_core.models import Agent, Conversation, Memory, Message, Record, Task, ToolCall, User
    from pattern_core.repositories import AppendRepository

__all__ = [
    "find_agent",
    "find_conversation",
    "find_memory",
    "find_message",
    "find_task",
    "find_tool_call",
    "find_user",
    "note_if_inactive",
    "reworded",
]

E = TypeVar("E", bound=Exception)
R = TypeVar("R", "Conversation", "Task")

_NAMES: Final = 50
"""How many names an error searches for the nearest one."""
_LABELS: Final = 1000
"""How many labels it reads at a time."""


async def find_user(repositories: Repositories, wanted: str | None) -> User:
    """Return the user that the command line names.

    Args:
        repositories: The repositories to read from.
        wanted: An id, or a name that only one user has; None for the only user.

    Returns:
        The user.

    Raises:
        NotFoundError: There is no such user.
        ValidationError: Several users match.
    """
    from pattern_core.filters import Field

    if wanted and (user := await repositories.users.find(wanted)):
        return user
    where = None if wanted is None else Field("metadata")["name"] == wanted
    found = await repositories.users.list(where, limit=_NAMES)
    if len(found) == 1:
        return found[0]
    if found and wanted is None:
        names = ", ".join(_name_and_id(user) for user in found)
        raise ValidationError(f"There are several users. Name one with --user: {names}.")
    if found:
        raise ValidationError(f"{len(found)} users have the name {shorten(wanted)}. Give an id: {_ids(found)}.")
    if wanted is None:
        raise reworded(NotFoundError("users", ""), "There are no users yet: `pattern user add NAME` adds one.")
    known = [str(user.metadata.get("name", user.id)) for user in await repositories.users.list(limit=_NAMES)]
    raise _missing("user", "users", wanted, known, "pattern user add NAME")


async def find_agent(repositories: Repositories, wanted: str) -> Agent:
    """Return the agent that the command line names.

    Args:
        repositories: The repositories to read from.
        wanted: An id, or a name or type that only one agent has.

    Returns:
        The agent, even if it is deactivated.

    Raises:
        NotFoundError: There is no such agent.
        ValidationError: Several agents match.
    """
    from pattern_core.filters import Field

    if wanted and (agent := await repositories.agents.find(wanted)):
        return agent
    found = await repositories.agents.list((Field("name") == wanted) | (Field("agent_type") == wanted), limit=_NAMES)
    if len(found) == 1:
        return found[0]
    if found:
        message = f"{len(found)} agents have the name or type {shorten(wanted)}. Give an id: {_ids(found)}."
        raise ValidationError(message)
    known = [agent.name for agent in await repositories.agents.list(limit=_NAMES)]
    raise _missing("agent", "agents", wanted, known, "pattern agent add NAME")


async def find_memory(repositories: Repositories, wanted: str, label: str | None) -> Memory:
    """Return the memory that the command line names.

    Args:
        repositories: The repositories to read from.
        wanted: The memory's id or, with a label, the agent.
        label: The memory's label.

    Returns:
        The memory.

    Raises:
        NotFoundError: There is no such memory, or no such agent.
    """
    if label is None:
        if wanted and (memory := await repositories.memories.find(wanted)):
            return memory
        raise reworded(
            NotFoundError("memory_blocks", wanted),
            f"There is no memory with the id {shorten(wanted)}. Name a memory by its id, or by its agent and its label: "
            f"AGENT LABEL. `pattern memory list AGENT` shows the labels.",
        )
    agent = await find_agent(repositories, wanted)
    try:
        return await repositories.memories.by_label(agent.id, label)
    except NotFoundError as error:
        known = [each.label async for each in repositories.memories.iterate(agent_id=agent.id, page=_LABELS)]
        close = get_close_matches(label, known, n=1, cutoff=0.5)
        way_out = f"Did you mean {close[0]!r}?" if close else f"`pattern memory list {agent.name}` shows the labels."
        raise reworded(error, f"{agent.name} has no memory labeled {shorten(label)}. {way_out}") from None


async def find_conversation(repositories: Repositories, wanted: str) -> Conversation:
    """Return the conversation that the command line names.

    Args:
        repositories: The repositories to read from.
        wanted: An id, or a title that only one conversation has. An open conversation comes before ended ones.

    Returns:
        The conversation.

    Raises:
        NotFoundError: There is no such conversation.
        ValidationError: Several conversations match.
    """
    from pattern_core.filters import Field

    return await _find_by_title(repositories.conversations, wanted, Field("ended_at").is_null(), "conversation")


async def find_task(repositories: Repositories, wanted: str) -> Task:
    """Return the task that the command line names.

    Args:
        repositories: The repositories to read from.
        wanted: An id, or a title that only one task has. An open task comes before closed ones.

    Returns:
        The task.

    Raises:
        NotFoundError: There is no such task.
        ValidationError: Several tasks match.
    """
    from pattern_core.filters import Field

    return await _find_by_title(repositories.tasks, wanted, Field("status").in_(["pending", "in_progress"]), "task")


async def find_message(repositories: Repositories, wanted: str) -> Message:
    """Return a message by id; raise `NotFoundError` if there is none."""
    if wanted and (message := await repositories.messages.find(wanted)):
        return message
    raise _missing_id("message", "messages", wanted, "pattern message list CONVERSATION --json")


async def find_tool_call(repositories: Repositories, wanted: str) -> ToolCall:
    """Return a tool call by id; raise `NotFoundError` if there is none."""
    if wanted and (call := await repositories.tool_calls.find(wanted)):
        return call
    raise _missing_id("tool call", "tool_calls", wanted, "pattern tool-call list --json")


def note_if_inactive(agent: Agent) -> None:
    """Print a note if an agent is deactivated."""
    if not agent.is_active:
        note(f"The agent {agent.name} is deactivated. `pattern agent reactivate` activates it again.")


def reworded(error: E, message: str) -> E:
    """Return an error with another message, in the terms of the command line."""
    error.args = (message,)
    return error


async def _find_by_title(repository: AppendRepository[R], wanted: str, is_open: Filter, kind: str) -> R:
    from pattern_core.filters import Field

    if wanted and (record := await repository.find(wanted)):
        return record
    titled = Field("title") == wanted
    found = await repository.list(titled & is_open, limit=_NAMES) or await repository.list(titled, limit=_NAMES)
    if len(found) == 1:
        return found[0]
    if found:
        message = f"{len(found)} {kind}s have the title {shorten(wanted)}. Give an id: {_ids(found)}."
        raise ValidationError(message)
    titles = [each.title for each in await repository.list(order="-created_at", limit=_NAMES) if each.title]
    close = get_close_matches(wanted, titles, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}?" if close else f"`pattern {kind} list` shows what there is."
    message = f"There is no {kind} with the id or title {shorten(wanted)}. {hint}"
    raise reworded(NotFoundError(repository.table.name, wanted), message)


def _missing(kind: str, table: str, wanted: str, known: Sequence[str], way_out: str) -> NotFoundError:
    hint = nearest(wanted, known) if known else f"There are none yet: `{way_out}` adds one."
    return reworded(NotFoundError(table, wanted), f"There is no {kind} {shorten(wanted)}. {hint}")


def _missing_id(kind: str, table: str, wanted: str, way_out: str) -> NotFoundError:
    message = f"There is no {kind} with the id {shorten(wanted)}. `{way_out}` shows the ids."
    return reworded(NotFoundError(table, wanted), message)


def _name_and_id(user: User) -> str:
    name = user.metadata.get("name")
    return f"{name} ({user.id})" if name else user.id


def _ids(records: Iterable[Record]) -> str:
    return ", ".join(record.id for record in records)
