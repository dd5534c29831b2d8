"""The records: frozen values that refuse what no storage could hold."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar, overload

import attrs
import numpy as np
from attrs.validators import optional
from numpy.typing import NDArray

from .support.clock import new_id, utc_now
from .support.validators import (
    as_choice,
    as_float,
    as_json,
    as_utc,
    boolean,
    identifier,
    integer,
    json_object,
    list_of,
    number,
    text,
    title_text,
    utc,
)

__all__ = [
    "Agent",
    "Conversation",
    "EmbeddedRecord",
    "Embedding",
    "Energy",
    "Hit",
    "Memory",
    "Message",
    "Page",
    "Priority",
    "Record",
    "Role",
    "Task",
    "TaskStatus",
    "ToolCall",
    "User",
]

Json = dict[str, Any]


class Role(enum.StrEnum):
    """Who speaks in a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class TaskStatus(enum.StrEnum):
    """Where a task stands. Pending and in progress are open; completed and cancelled are closed."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


class Priority(enum.StrEnum):
    """How much a task matters, from least to most."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    URGENT = "urgent"


class Energy(enum.StrEnum):
    """How much energy a task takes, from least to most."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


def _role(value: object) -> Role:
    return as_choice(value, Role, "Message", "role")


def _status(value: object) -> TaskStatus:
    return as_choice(value, TaskStatus, "Task", "status")


def _priority(value: object) -> Priority:
    return as_choice(value, Priority, "Task", "priority")


def _energy(value: object) -> Energy:
    return as_choice(value, Energy, "Task", "energy_required")


def _object() -> Any:
    return attrs.field(factory=dict, converter=as_json, validator=json_object)


def _moment() -> Any:
    return attrs.field(default=None, converter=as_utc, validator=optional(utc))


@attrs.frozen(kw_only=True)
class Record:
    """What all records have.

    Attributes:
        id: Unique within the table; made by the library where it is not given.
        revision: Counts the writes to the record, from 1.
        created_at: When it was first written (UTC).
        updated_at: When it was last written (UTC).
    """

    id: str = attrs.field(factory=new_id, validator=identifier)
    revision: int = attrs.field(default=1, validator=integer(minimum=1))
    created_at: datetime = attrs.field(factory=utc_now, converter=as_utc, validator=utc)
    updated_at: datetime = attrs.field(converter=as_utc, validator=utc)

    @updated_at.default
    def _first_written(self) -> datetime:
        return self.created_at


@attrs.frozen
class Embedding:
    """The vectors of a record.

    Attributes:
        vectors: A float32 array, shape ``[n, dimensions]``: one vector, or one for each chunk of a text that was longer
            than the model reads.
        spans: For each vector, where the part of the text that it was made of begins and ends; None for all of it.
        model: The model that made them.
        signature: The digest of that model's signature.
    """

    vectors: NDArray[np.float32] = attrs.field(eq=False, repr=False)
    spans: tuple[tuple[int, int] | None, ...]
    model: str
    signature: str

    @property
    def truncated(self) -> bool:
        """Whether the text was cut off, so that its end is not found."""
        return len(self.spans) == 1 and self.spans[0] is not None


@attrs.frozen(kw_only=True)
class EmbeddedRecord(Record):
    """A record that is found by what it means.

    Attributes:
        embedding: Its vectors; None unless they were asked for, or without text.
    """

    embedding: Embedding | None = attrs.field(default=None, eq=False, repr=False)


@attrs.frozen(kw_only=True)
class User(Record):
    """A person whom agents work for.

    Attributes:
        settings: The person's settings (JSON).
        metadata: Anything else about the person (JSON).
    """

    settings: Json = _object()
    metadata: Json = _object()


@attrs.frozen(kw_only=True)
class Agent(Record):
    """An agent of one user. A user has one agent of each type.

    Attributes:
        user_id: The user.
        agent_type: What kind of agent it is; unique for the user.
        name: The name to show.
        system_prompt: What the agent is told before every conversation.
        config: How it is set up (JSON).
        state: What it keeps between runs (JSON).
        is_active: False after `deactivate`.
    """

    user_id: str = attrs.field(validator=identifier)
    agent_type: str = attrs.field(validator=title_text)
    name: str = attrs.field(validator=title_text)
    system_prompt: str = attrs.field(default="", validator=text)
    config: Json = _object()
    state: Json = _object()
    is_active: bool = attrs.field(default=True, validator=boolean)


@attrs.frozen(kw_only=True)
class Memory(EmbeddedRecord):
    """A memory block of one agent, found by its label or by what it means.

    Attributes:
        agent_id: The agent.
        label: Its name; unique for the agent.
        content: The text that is embedded.
        description: What the block is for.
        metadata: Anything else (JSON).
        is_active: False for a block that search passes over.
    """

    agent_id: str = attrs.field(validator=identifier)
    label: str = attrs.field(validator=title_text)
    content: str = attrs.field(validator=title_text)
    description: str | None = attrs.field(default=None, validator=optional(text))
    metadata: Json = _object()
    is_active: bool = attrs.field(default=True, validator=boolean)


@attrs.frozen(kw_only=True)
class Conversation(Record):
    """A thread of messages between a user and an agent.

    Attributes:
        user_id: The user.
        agent_id: The agent.
        title: What it is about.
        context: What both sides know from the start (JSON).
        ended_at: When it ended (UTC); None while it goes on.
    """

    user_id: str = attrs.field(validator=identifier)
    agent_id: str = attrs.field(validator=identifier)
    title: str | None = attrs.field(default=None, validator=optional(text))
    context: Json = _object()
    ended_at: datetime | None = _moment()


@attrs.frozen(kw_only=True)
class Message(EmbeddedRecord):
    """One message of a conversation.

    Attributes:
        conversation_id: The conversation.
        role: Who speaks.
        content: The text that is embedded, where there is any.
        metadata: Anything else (JSON).
        tool_calls: The calls that an assistant's message asks for (a list of JSON objects), or None.
    """

    conversation_id: str = attrs.field(validator=identifier)
    role: Role = attrs.field(converter=_role)
    content: str = attrs.field(validator=text)
    metadata: Json = _object()
    tool_calls: list[Json] | None = attrs.field(
        default=None, converter=as_json, validator=optional(list_of(json_object))
    )


@attrs.frozen(kw_only=True)
class ToolCall(Record):
    """A line of the audit trail: one use of a tool. It is never changed.

    Attributes:
        agent_id: The agent that used the tool.
        conversation_id: The conversation in which it did.
        tool_name: The tool.
        parameters: What went in (JSON).
        result: What came out (JSON).
        error: What went wrong, or None.
        duration_ms: How long it took, in milliseconds.
    """

    agent_id: str = attrs.field(validator=identifier)
    conversation_id: str = attrs.field(validator=identifier)
    tool_name: str = attrs.field(validator=title_text)
    parameters: Json = _object()
    result: Json = _object()
    error: str | None = attrs.field(default=None, validator=optional(text))
    duration_ms: int = attrs.field(default=0, validator=integer(minimum=0))


@attrs.frozen(kw_only=True)
class Task(EmbeddedRecord):
    """Something to do, with what an ADHD-aware planner needs to know of it.

    Attributes:
        user_id: The user.
        parent_id: The task that it is a part of, or None.
        title: What to do.
        description: More about it.
        status: Where it stands.
        priority: How much it matters.
        estimated_minutes: How long it should take, in minutes.
        actual_minutes: How long it took, in minutes.
        complexity_score: How involved it is, on the caller's own scale from 0 up.
        energy_required: How much energy it takes.
        tags: Words to find it by.
        metadata: Anything else (JSON).
        started_at: When it was begun (UTC).
        completed_at: When it was completed (UTC).
        due_at: When it has to be done (UTC).
    """

    user_id: str = attrs.field(validator=identifier)
    parent_id: str | None = attrs.field(default=None, validator=optional(identifier))
    title: str = attrs.field(validator=title_text)
    description: str | None = attrs.field(default=None, validator=optional(text))
    status: TaskStatus = attrs.field(default=TaskStatus.PENDING, converter=_status)
    priority: Priority = attrs.field(default=Priority.MEDIUM, converter=_priority)
    estimated_minutes: int | None = attrs.field(default=None, validator=optional(integer(minimum=0)))
    actual_minutes: int | None = attrs.field(default=None, validator=optional(integer(minimum=0)))
    complexity_score: float | None = attrs.field(
        default=None, converter=as_float, validator=optional(number(minimum=0))
    )
    energy_required: Energy = attrs.field(default=Energy.MEDIUM, converter=_energy)
    tags: list[str] = attrs.field(factory=list, converter=as_json, validator=list_of(title_text))
    metadata: Json = _object()
    started_at: datetime | None = _moment()
    completed_at: datetime | None = _moment()
    due_at: datetime | None = _moment()

    @property
    def is_open(self) -> bool:
        """Whether there is still something to do."""
        return self.status in (TaskStatus.PENDING, TaskStatus.IN_PROGRESS)


R = TypeVar("R", bound=Record)


@attrs.frozen
class Hit(Generic[R]):
    """A record that a search found.

    Attributes:
        record: The record.
        score: How alike it is, more is closer: the cosine similarity in [-1, 1], or the distance times -1 for the
            Euclidean and Manhattan metrics.
        exact: Whether the search compared every candidate; False where an approximate index chose them.
        passage: The part of the record's text that is alike, where it was cut into chunks; None for all of it.
    """

    record: R
    score: float
    exact: bool
    passage: str | None = None

    @property
    def memory(self) -> R:
        """The record, by the name that reads well where memories are searched."""
        return self.record


@attrs.frozen
class Page(Sequence[R]):
    """Some records of a list, in order.

    Attributes:
        records: The records.
        cursor: What to pass to the next call to go on behind the last record; None at the end.
    """

    records: tuple[R, ...]
    cursor: str | None = None

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[R, ...]: ...
    def __getitem__(self, index: int | slice) -> R | tuple[R, ...]:
        return self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[R]:
        return iter(self.records)
