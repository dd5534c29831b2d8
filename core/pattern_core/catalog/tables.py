"""Internal tables: vectors, their generations, pending index updates, leases."""

from __future__ import annotations

import functools
import re
from typing import Final

from pattern_core.schema import COMMIT_LOG, TABLES, Column, Kind, Table
from pattern_core.schema.records import COMMON, record_table

__all__ = [
    "EMBEDDING_QUEUE",
    "GENERATIONS",
    "LEASES",
    "OUTBOX",
    "find_table",
    "generation_number",
    "vector_table",
]

OUTBOX: Final = record_table(
    "vector_outbox",
    Column("record_table", Kind.TEXT),
    Column("record_id", Kind.TEXT),
    Column("record_partition", Kind.TEXT),
    Column("is_claim", Kind.BOOLEAN),
)
"""Pending updates of an external index (`pattern_core.search.outbox`)."""

GENERATIONS: Final = record_table(
    "embedding_generations",
    Column("number", Kind.INTEGER),
    Column("signature", Kind.TEXT),
    Column("state", Kind.TEXT, choices=("active", "building", "retired", "dropped")),
    Column("has_chunks", Kind.BOOLEAN),
    Column("index", Kind.TEXT),
    Column("index_since", Kind.TEXT),
    Column("held_until", Kind.TIME, optional=True),
    Column("worker", Kind.TEXT, optional=True),
    Column("worker_seen_at", Kind.TIME, optional=True),
)
"""The generations of vectors (`pattern_core.catalog.metadata`)."""

EMBEDDING_QUEUE: Final = record_table(
    "embedding_queue", Column("record_table", Kind.TEXT), Column("record_id", Kind.TEXT)
)
"""Records written while a generation is being built, which still need vectors in it."""

LEASES: Final = record_table(
    "maintenance_leases",
    Column("holder", Kind.TEXT),
    Column("token", Kind.TEXT),
    Column("held_since", Kind.TIME),
    Column("seconds", Kind.NUMBER),
)
"""Leases of processes that change the whole database (``pattern_core.maintenance.migrations.lease``).

The table is created on first use, before any schema version, and only if several processes may open the database."""

_VECTORS: Final = "_vectors_"


def vector_table(table: Table, generation: int) -> Table:
    """Return the table that holds the vectors of a table's records, one row for each vector.

    Args:
        table: One of `EMBEDDED`.
        generation: The number of the generation.

    Returns:
        The table.
    """
    columns = (
        *COMMON[:2],  # no times: nothing reads them, and they are expensive in some engines
        Column("partition", Kind.TEXT),
        Column("part", Kind.INTEGER),
        Column("parts", Kind.INTEGER),
        Column("begins_at", Kind.INTEGER, optional=True),
        Column("ends_at", Kind.INTEGER, optional=True),
        Column("text_hash", Kind.TEXT),
        Column("signature", Kind.TEXT),
        Column("embedding", Kind.VECTOR),
    )
    name = f"{table.name}{_VECTORS}{generation}"
    return Table(name, columns, indexes=(("partition",),), partition="partition")


@functools.lru_cache(maxsize=256)
def generation_number(name: str) -> int:
    """Return the generation of a table of vectors by its name; 0 for any other name."""
    found = re.fullmatch(rf"(\w+?){_VECTORS}([1-9]\d*)", name)
    return int(found[2]) if found and found[1] in TABLES else 0


def find_table(name: str) -> Table | None:
    """Return the table of pattern-core with a name, internal tables included; None for a foreign table."""
    if number := generation_number(name):
        return vector_table(TABLES[name.removesuffix(f"{_VECTORS}{number}")], number)
    return TABLES.get(name) or {
        each.name: each for each in (OUTBOX, GENERATIONS, EMBEDDING_QUEUE, LEASES, COMMIT_LOG)
    }.get(name)
