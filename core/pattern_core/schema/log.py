"""The table of the commit log, declared once for every storage."""

from __future__ import annotations

from typing import Final

from .table import Column, Kind, Table

__all__ = ["COMMIT_LOG"]

COMMIT_LOG: Final = Table(
    "commit_log",
    (
        Column("id", Kind.TEXT),
        Column("revision", Kind.INTEGER),
        Column("sequence", Kind.INTEGER),
        Column("writer", Kind.TEXT),
        Column("committed_at", Kind.TIME),
        Column("changes", Kind.TEXT),
    ),
    indexes=(("sequence",),),
)
"""One row for each commit that changed records: who committed, and what changed (`pattern_core.abc.Commit`).

`pattern_core.abc.Append` writes the rows, and the storage numbers them.
"""
