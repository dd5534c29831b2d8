"""Schema versions: the migration to each, and the tables of records that it has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import numpy as np

from pattern_core.abc import Patch, Put, Storage, Write
from pattern_core.catalog.commit_log import FIRST_WITH_LOG
from pattern_core.catalog.metadata import FIRST_WITH_GENERATIONS, SCHEMA_VERSION, Generation, Metadata, generation_guard
from pattern_core.catalog.tables import EMBEDDING_QUEUE, GENERATIONS, OUTBOX, vector_table
from pattern_core.embedding.chunks import EmbeddedText, chunk_rows, hash_text, record_id_of
from pattern_core.embedding.fitting import TextVectors
from pattern_core.filters import Field
from pattern_core.schema import COMMIT_LOG, EMBEDDED, TABLES, AlterTable, Column, Kind, Table

__all__ = ["LATEST", "MIGRATIONS", "Migration", "tables_at"]

_ROWS: Final = 500

DataStep = Callable[[Storage, Metadata, Generation], Awaitable[None]]


async def _nothing(_storage: Storage, _metadata: Metadata, _generation: Generation) -> None:
    """Change no data."""


@attrs.frozen
class Migration:
    """A step from one schema version to the next, and back.

    Attributes:
        version: The version after it.
        summary: One line about it.
        creates: The tables that it adds, in order.
        with_vectors: Whether it adds a first generation of vectors.
        alters: The tables whose columns it changes, before and after.
        upgrade_data: Moves data into that generation before columns change. It may run twice.
        downgrade_data: Moves data out of the active generation before tables go. It may run twice.
    """

    version: int
    summary: str
    creates: tuple[Table, ...] = ()
    with_vectors: bool = False
    alters: tuple[tuple[Table, Table], ...] = ()
    upgrade_data: DataStep = _nothing
    downgrade_data: DataStep = _nothing


def _with_vector(table: Table) -> Table:
    """Return a table of records with its former vector columns."""
    own = (Column("embedding", Kind.VECTOR, optional=True), Column("embedding_model", Kind.TEXT, optional=True))
    return attrs.evolve(table, columns=(*table.columns, *own), texts=())


async def _move_vectors(storage: Storage, metadata: Metadata, first: Generation) -> None:
    """Copy the vectors from the tables of records into tables of their own."""
    guard = generation_guard(metadata)
    for table in EMBEDDED:
        vectors = vector_table(table, first.number)
        async for batch in storage.scan(_with_vector(table), ~Field("embedding").is_null(), batch_rows=_ROWS):
            writes: list[Write] = []
            for row in batch.to_pylist():
                vector = np.array(row["embedding"], dtype=np.float32)
                made = TextVectors((vector,), (None,))
                embedded = EmbeddedText(first.number, first.signature.digest, hash_text(table.text(row)), made)
                writes += [Put(vectors, each) for each in chunk_rows(table, row, embedded)]
            await storage.commit([guard, *writes])  # a late process must not overwrite newer vectors


async def _move_vectors_back(storage: Storage, metadata: Metadata, active: Generation) -> None:
    """Copy the vectors into the tables of records; a chunked text keeps only its first vector."""
    guard = generation_guard(metadata)
    for table in EMBEDDED:
        vectors, wide = vector_table(table, active.number), _with_vector(table)
        await storage.apply_schema(AlterTable(table, wide, active.signature.dimensions))
        async for batch in storage.scan(vectors, Field("part") <= 1, columns=["id", "embedding"], batch_rows=_ROWS):
            rows = [(record_id_of(row["id"]), row["embedding"]) for row in batch.to_pylist()]
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
        creates=(GENERATIONS, EMBEDDING_QUEUE),
        with_vectors=True,
        upgrade_data=_move_vectors,
        downgrade_data=_move_vectors_back,
    ),
    Migration(
        4,
        "take the vectors out of the tables of records",
        alters=tuple((_with_vector(table), table) for table in EMBEDDED),
    ),
    Migration(FIRST_WITH_LOG, "create the commit log", creates=(COMMIT_LOG,)),
)
LATEST: Final = SCHEMA_VERSION


def tables_at(version: int) -> dict[str, Table]:
    """Return the tables of records of a schema version, by name; also valid while the database is being migrated."""
    beside = version < FIRST_WITH_GENERATIONS
    return {name: _with_vector(table) if beside and table.texts else table for name, table in TABLES.items()}
