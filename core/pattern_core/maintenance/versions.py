"""The versions of the schema: what each brings, and which tables a database of each has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import numpy as np

from pattern_core.abc import Patch, Put, Storage, Write
from pattern_core.catalog.metadata import FIRST_WITH_GENERATIONS, Generation, Metadata, fence
from pattern_core.catalog.tables import GENERATIONS, OUTBOX, UNEMBEDDED, vectors_of
from pattern_core.embedding.chunks import Parts, hash_text, part_rows, record_of
from pattern_core.embedding.model import Embedded
from pattern_core.filters import Field
from pattern_core.schema import EMBEDDED, TABLES, AlterTable, Column, Kind, Table

__all__ = ["LATEST", "MIGRATIONS", "Migration", "tables_at"]

_ROWS: Final = 500

Carry = Callable[[Storage, Metadata, Generation], Awaitable[None]]


async def _nothing(_storage: Storage, _known: Metadata, _generation: Generation) -> None:
    """Carry nothing."""


@attrs.frozen
class Migration:
    """A step from one schema version to the next, and back.

    Attributes:
        version: The version that it leads to.
        summary: What it does, in a few words.
        creates: The tables that it adds, in order.
        with_vectors: Whether it adds a first generation of vectors.
        alters: The tables whose columns it changes: as they were, and as they are from then on.
        carry: Takes data along, into that generation, before the columns change. It may be done twice.
        carry_back: Takes data back, out of the generation in use, before what the step has added goes. As above.
    """

    version: int
    summary: str
    creates: tuple[Table, ...] = ()
    with_vectors: bool = False
    alters: tuple[tuple[Table, Table], ...] = ()
    carry: Carry = _nothing
    carry_back: Carry = _nothing


def _with_vector(table: Table) -> Table:
    """Return the table of records as it was when their vectors stood beside them."""
    own = (Column("embedding", Kind.VECTOR, optional=True), Column("embedding_model", Kind.TEXT, optional=True))
    return attrs.evolve(table, columns=(*table.columns, *own), texts=())


async def _carry_vectors(storage: Storage, known: Metadata, first: Generation) -> None:
    """Copy the vectors that stand beside the records into tables of their own."""
    guard = fence(known)
    for table in EMBEDDED:
        vectors = vectors_of(table, first.number)
        async for batch in storage.scan(_with_vector(table), ~Field("embedding").is_null(), batch_rows=_ROWS):
            writes: list[Write] = []
            for row in batch.to_pylist():
                vector = np.array(row["embedding"], dtype=np.float32)
                made = Embedded((vector,), (None,))
                parts = Parts(first.number, first.signature.digest, hash_text(table.text(row)), made)
                writes += [Put(vectors, each) for each in part_rows(table, row, parts)]
            await storage.commit([guard, *writes])  # one who comes late must not write over what is newer


async def _carry_vectors_back(storage: Storage, known: Metadata, active: Generation) -> None:
    """Copy the vectors beside the records again; of a text that was cut into chunks, that of the first one."""
    guard = fence(known)
    for table in EMBEDDED:
        vectors, wide = vectors_of(table, active.number), _with_vector(table)
        await storage.apply_schema(AlterTable(table, wide, active.signature.dimensions))
        async for batch in storage.scan(vectors, Field("part") <= 1, columns=["id", "embedding"], batch_rows=_ROWS):
            rows = [(record_of(row["id"]), row["embedding"]) for row in batch.to_pylist()]
            there = await storage.get(wide, [id for id, _ in rows])
            model = active.signature.model
            patches = [
                Patch(wide, id, {"embedding": np.array(vector, np.float32), "embedding_model": model})
                for (id, vector), record in zip(rows, there, strict=True)
                if record is not None
            ]
            await storage.commit([guard, *patches])


MIGRATIONS: Final = (
    Migration(
        1,
        "create the tables of users, agents, memories, conversations, messages, tool calls and tasks",
        creates=tuple(TABLES.values()),
    ),
    Migration(2, "create the outbox of external vector indexes", creates=(OUTBOX,)),
    Migration(
        FIRST_WITH_GENERATIONS,
        "keep vectors in tables of their own, by generation",
        creates=(GENERATIONS, UNEMBEDDED),
        with_vectors=True,
        carry=_carry_vectors,
        carry_back=_carry_vectors_back,
    ),
    Migration(
        4,
        "take the vectors out of the tables of records",
        alters=tuple((_with_vector(table), table) for table in EMBEDDED),
    ),
)
LATEST: Final = MIGRATIONS[-1].version


def tables_at(version: int) -> dict[str, Table]:
    """Return the tables of records that a database of a version has, by name; of one that is being migrated, too."""
    beside = version < FIRST_WITH_GENERATIONS
    return {name: _with_vector(table) if beside and table.texts else table for name, table in TABLES.items()}
