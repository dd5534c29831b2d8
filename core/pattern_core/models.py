"""Records: frozen, validated values."""

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
    json_value,
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
    "RecordChange",
    "Role",
    "Task",
    "TaskStatus",
    "ToolCall",
    "User",
]

Json = dict[str, Any]


class Role(enum.StrEnum):
    """The speaker of a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class TaskStatus(enum.StrEnum):
    """The status of a task. Pending and in progress are open; completed and cancelled are closed."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


class Priority(enum.StrEnum):
    """The priority of a task, lowest first."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    URGENT = "urgent"


class Energy(enum.StrEnum):
    """The energy that a task takes, lowest first."""

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
    """The fields of every record.

    Attributes:
        id: The id, unique within the table; generated if it is not given.
        revision: The number of writes to the record, from 1.
        created_at: The time of the first write (UTC).
        updated_at: The time of the last write (UTC).
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
        vectors: A float32 array, shape ``[n, dimensions]``: one vector, or one for each chunk of a text over the
            model's token limit.
        spans: For each vector, the start and end of its chunk in the text; None for the whole text.
        model: The model that made them.
        signature: The digest of the model's signature.
    """

    vectors: NDArray[np.float32] = attrs.field(eq=False, repr=False)
    spans: tuple[tuple[int, int] | None, ...]
    model: str
    signature: str

    @property
    def truncated(self) -> bool:
        """Whether the text was truncated, so that searches do not find its end."""
        return len(self.spans) == 1 and self.spans[0] is not None


@attrs.frozen(kw_only=True)
class EmbeddedRecord(Record):
    """A record with an embedding, which searches find by meaning.

    Attributes:
        embedding: Its vectors; None unless requested, and for a blank text.
    """

    embedding: Embedding | None = attrs.field(default=None, eq=False, repr=False)


@attrs.frozen(kw_only=True)
class User(Record):
    """A person that agents work for.

    Attributes:
        settings: The settings of the user (JSON).
        metadata: Further facts (JSON).
    """

    settings: Json = _object()
    metadata: Json = _object()


@attrs.frozen(kw_only=True)
class Agent(Record):
    """An agent of one user. A user has one agent of each type.

    Attributes:
        user_id: The user.
        agent_type: The type of the agent; unique for the user.
        name: The name to show.
        system_prompt: The instructions that the agent gets before every conversation.
        config: Its configuration (JSON).
        state: Its state between runs (JSON).
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
    """A memory of one agent, found by its label or by meaning.

    Attributes:
        agent_id: The agent.
        label: The name of the memory; unique for the agent.
        content: The text, which is embedded.
        description: What the memory is for.
        metadata: Further facts (JSON).
        is_active: False for a memory that searches skip.
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
        title: Its subject.
        context: Facts that both sides know from the start (JSON).
        ended_at: When it ended (UTC); None for an open conversation.
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
        role: The speaker.
        content: The text, which is embedded unless it is blank.
        metadata: Further facts (JSON).
        tool_calls: The tool calls that an assistant's message asks for (a list of JSON objects), or None.
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
    """A record of the audit trail: one use of a tool. It never changes.

    Attributes:
        agent_id: The agent that used the tool.
        conversation_id: The conversation.
        tool_name: The tool.
        parameters: The input (JSON object).
        result: The output: any JSON value.
        error: The error message; None if the call succeeded.
        duration_ms: The duration, in milliseconds.
    """

    agent_id: str = attrs.field(validator=identifier)
    conversation_id: str = attrs.field(validator=identifier)
    tool_name: str = attrs.field(validator=title_text)
    parameters: Json = _object()
    result: Any = attrs.field(default=None, converter=as_json, validator=json_value)
    error: str | None = attrs.field(default=None, validator=optional(text))
    duration_ms: int = attrs.field(default=0, validator=integer(minimum=0))


@attrs.frozen(kw_only=True)
class Task(EmbeddedRecord):
    """A task of a user, with the fields of an ADHD-aware planner.

    Attributes:
        user_id: The user.
        parent_id: The parent task, or None.
        title: The title.
        description: The details.
        status: The status.
        priority: The priority.
        estimated_minutes: The estimated duration, in minutes.
        actual_minutes: The actual duration, in minutes.
        complexity_score: The complexity, on the caller's own scale from 0 up.
        energy_required: The energy that it takes.
        tags: Words to find it by.
        metadata: Further facts (JSON).
        started_at: The start time (UTC).
        completed_at: The time of completion (UTC).
        due_at: The due time (UTC).
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
        """Whether the task is pending or in progress."""
        return self.status in (TaskStatus.PENDING, TaskStatus.IN_PROGRESS)


R = TypeVar("R", bound=Record)


@attrs.frozen
class Hit(Generic[R]):
    """A record that a search found.

    Attributes:
        record: The record.
        score: The similarity, more is closer: the cosine similarity in [-1, 1], or the distance times -1 for the
            Euclidean and Manhattan metrics.
        exact: Whether the search compared every candidate; False if an approximate index chose them.
        passage: The matching chunk of the record's text; None if the text is not chunked.
    """

    record: R
    score: float
    exact: bool
    passage: str | None = None

    @property
    def memory(self) -> R:
        """The record, under a name that reads well in a search for memories."""
        return self.record


@attrs.frozen(kw_only=True)
class RecordChange:
    """A change of one record.

    Attributes:
        table: The table of the record.
        id: The record.
        kind: ``create``, ``update`` or ``delete``.
        revision: The revision after the change; of a deleted record the last one.
        partition: The agent of a memory, the conversation of a message, the user of a task; None for other records.
        committed_at: When it was committed, by the clock of the writer.
        position: The position in the commit log after the commit of this change.
        record: The record as it was read with the changes; None if it was not asked for, or no longer exists.
    """

    table: str
    id: str
    kind: str
    revision: int
    partition: str | None
    committed_at: datetime
    position: str
    record: Record | None = None


@attrs.frozen
class Page(Sequence[R]):
    """A page of a list.

    Attributes:
        records: The records, in order.
        cursor: The argument for the next call, which continues after the last record; None at the end.
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
