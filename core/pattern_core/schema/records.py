"""The tables of records, declared once for every storage."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pattern_core.models import Energy, Priority, Role, TaskStatus

from .table import Column, Kind, Table

__all__ = ["COMMON", "EMBEDDED", "TABLES", "record_table"]

COMMON: Final = (
    Column("id", Kind.TEXT),
    Column("revision", Kind.INTEGER),
    Column("created_at", Kind.TIME),
    Column("updated_at", Kind.TIME),
)


def record_table(
    name: str,
    *columns: Column,
    unique: tuple[tuple[str, ...], ...] = (),
    indexes: tuple[tuple[str, ...], ...] = (),
    partition: str | None = None,
    texts: tuple[str, ...] = (),
) -> Table:
    """Return a table with the common columns before its own."""
    return Table(name, (*COMMON, *columns), unique, indexes, partition, texts)


_ALL: Final = (
    record_table(
        "system_metadata",
        Column("embedding_model", Kind.TEXT),
        Column("embedding_dimensions", Kind.INTEGER),
        Column("embedding_signature", Kind.TEXT),
        Column("schema_version", Kind.INTEGER),
    ),
    record_table("users", Column("settings", Kind.OBJECT), Column("metadata", Kind.OBJECT)),
    record_table(
        "agents",
        Column("user_id", Kind.TEXT, references="users"),
        Column("agent_type", Kind.TEXT),
        Column("name", Kind.TEXT),
        Column("system_prompt", Kind.TEXT),
        Column("config", Kind.OBJECT),
        Column("state", Kind.OBJECT),
        Column("is_active", Kind.BOOLEAN),
        unique=(("user_id", "agent_type"),),
    ),
    record_table(
        "memory_blocks",
        Column("agent_id", Kind.TEXT, references="agents"),
        Column("label", Kind.TEXT),
        Column("content", Kind.TEXT),
        Column("description", Kind.TEXT, optional=True),
        Column("metadata", Kind.OBJECT),
        Column("is_active", Kind.BOOLEAN),
        unique=(("agent_id", "label"),),
        partition="agent_id",
        texts=("content",),
    ),
    record_table(
        "conversations",
        Column("user_id", Kind.TEXT, references="users"),
        Column("agent_id", Kind.TEXT, references="agents"),
        Column("title", Kind.TEXT, optional=True),
        Column("context", Kind.OBJECT),
        Column("ended_at", Kind.TIME, optional=True),
        indexes=(("user_id",), ("agent_id",)),
    ),
    record_table(
        "messages",
        Column("conversation_id", Kind.TEXT, references="conversations"),
        Column("role", Kind.TEXT, choices=tuple(Role)),
        Column("content", Kind.TEXT),
        Column("metadata", Kind.OBJECT),
        Column("tool_calls", Kind.OBJECTS, optional=True),
        indexes=(("conversation_id", "created_at"),),
        partition="conversation_id",
        texts=("content",),
    ),
    record_table(
        "tool_calls",
        Column("agent_id", Kind.TEXT, references="agents"),
        Column("conversation_id", Kind.TEXT, references="conversations"),
        Column("tool_name", Kind.TEXT),
        Column("parameters", Kind.OBJECT),
        Column("result", Kind.OBJECT),
        Column("error", Kind.TEXT, optional=True),
        Column("duration_ms", Kind.INTEGER),
        indexes=(("agent_id",), ("conversation_id",)),
    ),
    record_table(
        "tasks",
        Column("user_id", Kind.TEXT, references="users"),
        Column("parent_id", Kind.TEXT, optional=True, references="tasks"),
        Column("title", Kind.TEXT),
        Column("description", Kind.TEXT, optional=True),
        Column("status", Kind.TEXT, choices=tuple(TaskStatus)),
        Column("priority", Kind.TEXT, choices=tuple(Priority)),
        Column("estimated_minutes", Kind.INTEGER, optional=True),
        Column("actual_minutes", Kind.INTEGER, optional=True),
        Column("complexity_score", Kind.NUMBER, optional=True),
        Column("energy_required", Kind.TEXT, choices=tuple(Energy)),
        Column("tags", Kind.TEXTS),
        Column("metadata", Kind.OBJECT),
        Column("started_at", Kind.TIME, optional=True),
        Column("completed_at", Kind.TIME, optional=True),
        Column("due_at", Kind.TIME, optional=True),
        indexes=(("user_id", "status"), ("parent_id",)),
        partition="user_id",
        texts=("title", "description"),
    ),
)

TABLES: Final[Mapping[str, Table]] = MappingProxyType({table.name: table for table in _ALL})
"""The tables of records by name, in the order of creation."""

EMBEDDED: Final = tuple(table for table in TABLES.values() if table.texts)
"""The tables whose records are embedded."""
