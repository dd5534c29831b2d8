"""The tables that a database keeps for itself: vectors, their generations, pending index updates, leases."""

from __future__ import annotations

import re
from typing import Final

from pattern_core.schema import TABLES, Column, Kind, Table
from pattern_core.schema.records import COMMON, record_table

__all__ = [
    "GENERATIONS",
    "LEASES",
    "OUTBOX",
    "UNEMBEDDED",
    "generation_of",
    "table_named",
    "vectors_of",
]

OUTBOX: Final = record_table(
    "vector_outbox",
    Column("record_table", Kind.TEXT),
    Column("record_id", Kind.TEXT),
    Column("record_partition", Kind.TEXT),
    Column("is_claim", Kind.BOOLEAN),
)
"""Which rows an external index has yet to learn of (`pattern_core.search.indexing`)."""

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
"""The generations of vectors; one is searched, another may be in the making (`pattern_core.catalog.metadata`)."""

UNEMBEDDED: Final = record_table("embedding_queue", Column("record_table", Kind.TEXT), Column("record_id", Kind.TEXT))
"""Which records were written while another generation was in the making, and have yet to get their vectors in it."""

LEASES: Final = record_table(
    "maintenance_leases",
    Column("holder", Kind.TEXT),
    Column("token", Kind.TEXT),
    Column("held_since", Kind.TIME),
    Column("seconds", Kind.NUMBER),
)
"""Who changes the database as a whole (``pattern_core.maintenance.lease``). It is there before anything else, and no part of
a schema version: where several processes may open a database, it is made when it is first needed."""

_VECTORS: Final = "_vectors_"


def vectors_of(table: Table, generation: int) -> Table:
    """Return the table that holds the vectors of a table's records.

    A record has a row for each of its vectors.

    Args:
        table: One of `EMBEDDED`.
        generation: The number of the generation.

    Returns:
        The table.
    """
    columns = (
        *COMMON[:2],  # nobody asks when a vector was made, and times are dear to some engines
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


def generation_of(name: str) -> int:
    """Return the number of the generation that a table of vectors belongs to; 0 for any other table's name."""
    found = re.fullmatch(rf"(\w+?){_VECTORS}([1-9]\d*)", name)
    return int(found[2]) if found and found[1] in TABLES else 0


def table_named(name: str) -> Table | None:
    """Return the table of ours that has a name, of records, vectors or anything else; None where none has."""
    if number := generation_of(name):
        return vectors_of(TABLES[name.removesuffix(f"{_VECTORS}{number}")], number)
    return TABLES.get(name) or {each.name: each for each in (OUTBOX, GENERATIONS, UNEMBEDDED, LEASES)}.get(name)
