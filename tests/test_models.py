"""Records: fields, validation, and agreement with the tables."""

import types
import typing
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import attrs
import numpy as np
import pytest

from pattern_core.errors import ValidationError
from pattern_core.models import (
    Agent,
    Conversation,
    Embedding,
    Energy,
    Hit,
    Memory,
    Message,
    Page,
    Priority,
    Record,
    Role,
    Task,
    TaskStatus,
    ToolCall,
    User,
)
from pattern_core.schema import TABLES, Column, Kind
from pattern_core.testing import sample_row, sample_vector

MODELS: dict[str, type[Record]] = {
    "users": User,
    "agents": Agent,
    "memory_blocks": Memory,
    "conversations": Conversation,
    "messages": Message,
    "tool_calls": ToolCall,
    "tasks": Task,
}
NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)


def minimal(model: type[Record], **fields: Any) -> Record:
    """Return a record with the required fields and some others."""
    required = {
        "user_id": "u1",
        "agent_id": "a1",
        "conversation_id": "c1",
        "agent_type": "archive",
        "name": "Archive",
        "label": "coffee",
        "content": "Ada drinks espresso.",
        "role": "user",
        "tool_name": "search",
        "title": "Call Ada",
    }
    missing = {
        field.name: required[field.name]
        for field in attrs.fields(model)
        if field.default is attrs.NOTHING and field.name not in fields
    }
    return model(**missing | fields)


each_model = pytest.mark.parametrize("name", MODELS)


class TestAgreement:
    """Models agree with tables."""

    def test_every_table_has_a_model(self) -> None:
        """Every table except the metadata has a model."""
        assert MODELS.keys() == TABLES.keys() - {"system_metadata"}

    @each_model
    def test_fields_are_columns(self, name: str) -> None:
        """A model has the columns of its table in the same order, and allows None for the nullable ones."""
        model, table = MODELS[name], TABLES[name]
        fields = {field.name: field for field in attrs.fields(attrs.resolve_types(model))}
        names = [column.name for column in table.columns]
        # Vectors are in tables of their own, and read on request.
        assert sorted(fields) == sorted([*names, *(["embedding"] if table.texts else [])])
        assert [field for field in fields if field != "embedding"] == names
        for column in table.columns:
            optional = type(None) in typing.get_args(fields[column.name].type)
            assert optional == column.optional, column.name

    @each_model
    def test_fields_have_the_type_of_the_column(self, name: str) -> None:
        """The type of a field is the Python type of its column; choices are texts."""
        expected: dict[Kind, Any] = {
            Kind.TEXT: str,
            Kind.INTEGER: int,
            Kind.NUMBER: float,
            Kind.BOOLEAN: bool,
            Kind.TIME: datetime,
            Kind.OBJECT: dict,
            Kind.OBJECTS: list,
            Kind.TEXTS: list,
            Kind.VECTOR: np.ndarray,
        }

        def plain(type_: Any) -> Any:
            if isinstance(type_, types.UnionType) or typing.get_origin(type_) is typing.Union:
                (type_,) = (each for each in typing.get_args(type_) if each is not type(None))
            return typing.get_origin(type_) or type_

        def check(column: Column, type_: Any) -> None:
            if (name, column.name) == ("tool_calls", "result"):
                assert type_ is Any  # any JSON value, which the repository keeps in an object
                return
            assert issubclass(plain(type_), expected[column.kind]), column.name

        fields = {field.name: field for field in attrs.fields(attrs.resolve_types(MODELS[name]))}
        for column in TABLES[name].columns:
            check(column, fields[column.name].type)

    @each_model
    def test_sample_rows_are_valid(self, name: str) -> None:
        """A sample row of the kit makes a record with the same values."""
        row = sample_row(TABLES[name], "r1")
        record = MODELS[name](**row)
        back = attrs.asdict(record)
        assert back.keys() - {"embedding"} == row.keys()
        for field, value in row.items():
            assert np.array_equal(back[field], value), field


class TestRecords:
    """Rules for all records."""

    @each_model
    def test_defaults(self, name: str) -> None:
        """A new record has a unique id, revision 1, and equal times of creation and update."""
        first, second = minimal(MODELS[name]), minimal(MODELS[name])
        assert first.id != second.id
        assert first.revision == 1
        assert first.created_at == first.updated_at
        assert first.created_at < second.created_at
        assert first.created_at.utcoffset() == timedelta()

    @each_model
    def test_frozen(self, name: str) -> None:
        """A record cannot be changed and takes no further attributes."""
        record = minimal(MODELS[name])
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            record.id = "other"  # type: ignore[misc]
        assert not hasattr(record, "__dict__")

    @each_model
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("id", ""),
            ("id", "x" * 513),
            ("id", 1),
            ("id", None),
            ("id", "half \ud800"),
            ("revision", 0),
            ("revision", 1.0),
            ("revision", True),
            ("revision", 2**63),
            ("created_at", "2024-02-29"),
            ("created_at", NOON.replace(tzinfo=None)),
            ("updated_at", None),
        ],
    )
    def test_common_fields_are_checked(self, name: str, field: str, value: object) -> None:
        """An invalid id, revision or time is an error that names model and field."""
        with pytest.raises(ValidationError) as error:
            minimal(MODELS[name], **{field: value})
        assert (error.value.where, error.value.field) == (MODELS[name].__name__, field)
        assert str(error.value).startswith(f"{MODELS[name].__name__}.{field}: ")

    @each_model
    def test_wrong_types_are_rejected(self, name: str) -> None:
        """Every field rejects an arbitrary object, except the embedding, which is checked where it is made."""
        for field in attrs.fields(MODELS[name]):
            if field.name != "embedding":
                with pytest.raises(ValidationError) as error:
                    minimal(MODELS[name], **{field.name: object()})
                assert error.value.field == field.name

    @each_model
    def test_unknown_fields_are_rejected(self, name: str) -> None:
        """A misspelled field is an error."""
        with pytest.raises(TypeError, match="metdata"):
            minimal(MODELS[name], metdata={})

    @each_model
    def test_objects_are_copied(self, name: str) -> None:
        """Changing a dict that was passed to a record does not change the record."""
        for column in TABLES[name].columns:
            if column.kind is Kind.OBJECT:
                given = {"a": [1, {"b": 2}]}
                record = minimal(MODELS[name], **{column.name: given})
                given["a"].append(3)
                assert getattr(record, column.name) == {"a": [1, {"b": 2}]}

    def test_times_become_utc(self) -> None:
        """A time in another zone becomes the same instant in UTC."""
        record = minimal(Task, due_at=NOON.astimezone(timezone(timedelta(hours=5))))
        assert isinstance(record, Task)
        assert record.due_at == NOON
        assert record.due_at is not None
        assert record.due_at.tzinfo is UTC


class TestSingleModels:
    """Rules for single models."""

    @pytest.mark.parametrize(
        ("model", "field", "value"),
        [
            (Agent, "name", " \n"),
            (Agent, "agent_type", ""),
            (Memory, "label", ""),
            (Memory, "content", "\t"),
            (Task, "title", ""),
            (Task, "tags", [""]),
            (Task, "tags", "abc"),
            (Task, "tags", [1]),
            (Task, "complexity_score", float("nan")),
            (Task, "complexity_score", -0.5),
            (Task, "complexity_score", -1),
            (Task, "complexity_score", True),
            (Task, "complexity_score", "1"),
            (Task, "complexity_score", 10**400),
            pytest.param(Task, "estimated_minutes", 10**5000, id="5,000 digits"),
            (Task, "estimated_minutes", -1),
            (Task, "estimated_minutes", 1.5),
            (Task, "parent_id", ""),
            (Task, "due_at", NOON.replace(tzinfo=None)),
            (ToolCall, "duration_ms", -1),
            (ToolCall, "tool_name", " "),
            (Message, "tool_calls", {"name": "search"}),
            (Message, "tool_calls", ["search"]),
            (Message, "metadata", {"a": {1}}),
            (User, "settings", [1]),
            (User, "settings", {"a": float("inf")}),
            (User, "settings", {1: "a"}),
            (Agent, "is_active", 1),
        ],
    )
    def test_invalid_values(self, model: type[Record], field: str, value: object) -> None:
        """An invalid value is an error that names model and field."""
        with pytest.raises(ValidationError) as error:
            minimal(model, **{field: value})
        assert (error.value.where, error.value.field.partition("[")[0]) == (model.__name__, field)

    @pytest.mark.parametrize(
        ("model", "field", "value", "message"),
        [
            (Message, "role", "robot", r"Known: assistant, system, tool, user\."),
            (Task, "status", "done", r"Known: cancelled, completed, in_progress, pending\."),
            (Task, "priority", "hihg", r"Did you mean 'high'\?"),
            (Task, "energy_required", None, r"None is not a valid choice"),
        ],
    )
    def test_unknown_choices(self, model: type[Record], field: str, value: object, message: str) -> None:
        """An error about an unknown choice lists the valid ones or suggests the closest."""
        with pytest.raises(ValidationError, match=message) as error:
            minimal(model, **{field: value})
        assert (error.value.where, error.value.field) == (model.__name__, field)

    def test_choices_are_texts(self) -> None:
        """A choice can be given as a text, and equals it."""
        task = Task(user_id="u1", title="x", status="in_progress", priority="urgent", energy_required="low")
        assert (task.status, task.priority, task.energy_required) == (
            TaskStatus.IN_PROGRESS,
            Priority.URGENT,
            Energy.LOW,
        )
        assert task.status == "in_progress"
        assert Message(conversation_id="c1", role=Role.TOOL, content="").role == "tool"

    def test_a_whole_number_becomes_a_float(self) -> None:
        """A whole number in a field of numbers becomes a float, as it is read back."""
        task = Task(user_id="u1", title="x", complexity_score=3)
        assert task.complexity_score == 3
        assert type(task.complexity_score) is float

    @pytest.mark.parametrize(
        ("status", "is_open"), [("pending", True), ("in_progress", True), ("completed", False), ("cancelled", False)]
    )
    def test_open_tasks(self, status: TaskStatus, is_open: bool) -> None:
        """Pending and started tasks are open."""
        assert Task(user_id="u1", title="x", status=status).is_open is is_open

    def test_embeddings_are_not_compared(self) -> None:
        """Records with and without their embedding are equal, and the repr does not show it."""
        memory = Memory(agent_id="a1", label="x", content="y")
        with_vector = attrs.evolve(
            memory, embedding=Embedding(sample_vector("x")[None], (None,), model="m", signature="s")
        )
        assert memory == with_vector
        assert "embedding=" not in repr(with_vector)


class TestResults:
    """Hits and pages."""

    def test_a_hit_has_memory(self) -> None:
        """`memory` is another name of a hit's record."""
        memory = Memory(agent_id="a1", label="x", content="y")
        hit = Hit(memory, 0.5, exact=True)
        assert hit.memory is hit.record is memory

    def test_a_page_is_a_sequence(self) -> None:
        """A page supports indexes, slices, `len`, iteration and `in`."""
        users = tuple(User() for _ in range(3))
        page = Page(users, cursor="next")
        assert len(page) == 3
        assert page[0] is users[0]
        assert page[-1] is users[2]
        assert page[1:] == users[1:]
        assert list(page) == list(users)
        assert users[1] in page
        assert page.cursor == "next"
        assert not Page(())
