"""Dependents: the records that belong to a record, and to those, level by level."""

from __future__ import annotations

from typing import Final

from pattern_core.abc import CheckNone
from pattern_core.filters import Field
from pattern_core.schema import TABLES, Table
from pattern_core.sessions.edits import Edit
from pattern_core.sessions.session import Session

__all__ = ["find_dependents"]

_REFERRING: Final = {
    name: [(table, column.name) for table in TABLES.values() for column in table.columns if column.references == name]
    for name in TABLES
}
"""For each table, the tables and columns that refer to it."""


async def find_dependents(session: Session, table: Table, id: str) -> tuple[list[Edit], list[CheckNone]]:
    """Find the records that belong to a record.

    Args:
        session: The session to read through.
        table: The record's table.
        id: The record.

    Returns:
        The edits that delete the dependents, and checks that no other record depends on any of them.
    """
    found: dict[tuple[str, str], Edit] = {}
    checks: list[CheckNone] = []
    level = {table.name: [id]}
    while level:
        lower: dict[str, list[str]] = {}
        for name, ids in level.items():
            for referring, column in _REFERRING[name]:
                where = Field(column).in_(ids)
                checks.append(CheckNone(referring, where))
                for row in await session.find(referring, where):
                    key = (referring.name, row["id"])
                    if key not in found and key != (table.name, id):
                        found[key] = Edit(referring, row["id"], row, None)
                        lower.setdefault(referring.name, []).append(row["id"])
        level = lower
    return list(found.values()), checks
