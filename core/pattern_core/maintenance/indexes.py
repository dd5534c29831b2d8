"""Look after vector indexes: say how they stand, compare them with the records, make them anew."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Final

import attrs
import numpy as np

from pattern_core.abc import IndexSpec, Storage, Vector, VectorStore
from pattern_core.catalog.metadata import Metadata, put_generation, read_metadata, specs_of, stamp
from pattern_core.catalog.tables import OUTBOX
from pattern_core.embedding.chunks import record_of
from pattern_core.errors import ConflictError
from pattern_core.filters import Field, Filter
from pattern_core.schema import Table
from pattern_core.search.exact import score

__all__ = [
    "IndexReport",
    "IndexStatus",
    "index_specs",
    "index_status",
    "note_index",
    "rebuild_index",
    "verify_index",
]

_SHOWN: Final = 10
_TOLERANCE: Final = 1e-3
"""How far the score of a vector's search for itself may be from the best there is, relative to the vector."""

Progress = Callable[[int], None]


def _ignore(_count: int) -> None: ...


@attrs.frozen
class IndexStatus:
    """How an index stands.

    Attributes:
        table: The table of vectors.
        vectors: How many it holds.
        indexed: How many vectors can be found; None where there is no index.
        pending: How many entries the outbox has: changes that the index has yet to learn of, or that are under way.
    """

    table: str
    vectors: int
    indexed: int | None
    pending: int

    @property
    def ok(self) -> bool:
        """Whether the index is there and complete, as far as counting tells."""
        return self.indexed == self.vectors


@attrs.frozen
class IndexReport:
    """What a comparison of an index with the records found.

    Attributes:
        table: The table of vectors.
        checked: How many vectors were looked for.
        wrong: How many of them were not found.
        examples: The ids of some records whose vectors those are.
        surplus: How many vectors the index holds that the storage does not.
    """

    table: str
    checked: int
    wrong: int
    examples: tuple[str, ...]
    surplus: int

    @property
    def ok(self) -> bool:
        """Whether the index agrees with the records."""
        return not self.wrong and not self.surplus


async def index_specs(storage: Storage, metric: str) -> list[IndexSpec]:
    """Return the indexes that a database has.

    Args:
        storage: A database that is set up.
        metric: How vectors are compared.

    Returns:
        For each table with vectors, what its index is for.

    Raises:
        StorageError: The database was never set up.
    """
    return specs_of(await read_metadata(storage), metric)


async def note_index(storage: Storage, known: Metadata, vectors: VectorStore) -> Metadata:
    """Note which external index is told of all changes from now on.

    One that was not told of all of them, since another was in use for a while, is then made anew by `VectorStore.create`.

    Args:
        storage: The database.
        known: What it says of itself.
        vectors: The vector search that is used from now on.

    Returns:
        What it says of itself then.
    """
    place = vectors.place or ""
    while (active := known.active) is not None and known.signature is not None and active.index != place:
        changed = attrs.evolve(active, index=place, index_since=uuid.uuid4().hex)
        with contextlib.suppress(ConflictError):  # another process does so, too
            # With the stamp: who has the database open with another index learns of it before the next commit.
            await storage.commit([put_generation(changed), stamp(known, known.schema_version, known.signature)])
        known = await read_metadata(storage)
    return known


async def index_status(storage: Storage, vectors: VectorStore, table: Table) -> IndexStatus:
    """Say how the index of a table stands.

    Args:
        storage: The database.
        vectors: The vector search over it.
        table: A table with vectors.

    Returns:
        The status.
    """
    pending = await storage.count(OUTBOX, Field("record_table") == table.name) if vectors.place is not None else 0
    indexed = await vectors.count(table) if await vectors.exists(table) else None
    return IndexStatus(table.name, await storage.count(table, _with_vector(table)), indexed, pending)


async def rebuild_index(vectors: VectorStore, spec: IndexSpec) -> None:
    """Make an index anew from what the storage holds. Until it is ready, searches of the table fail.

    Args:
        vectors: The vector search.
        spec: What the index is for.
    """
    await vectors.drop(spec.table)
    await vectors.create(spec)


async def verify_index(
    storage: Storage, vectors: VectorStore, spec: IndexSpec, progress: Progress = _ignore
) -> IndexReport:
    """Look for every vector by itself, in its own partition.

    One that changes meanwhile is not counted as wrong.

    Args:
        storage: The database.
        vectors: The vector search over it.
        spec: What the index is for.
        progress: Called with the number of vectors compared since the last call.

    Returns:
        What was found.
    """
    checked, wrong = 0, []
    async for id, partition, vector in _vectors(storage, spec.table):
        if not await _is_found(vectors, spec, id, partition, vector) and await _still(storage, spec.table, id, vector):
            wrong.append(id)
        checked += 1
        progress(1)
    surplus = max(0, await vectors.count(spec.table) - await storage.count(spec.table, _with_vector(spec.table)))
    examples = tuple(dict.fromkeys(map(record_of, wrong)))[:_SHOWN]
    return IndexReport(spec.table.name, checked, len(wrong), examples, surplus)


async def _is_found(vectors: VectorStore, spec: IndexSpec, id: str, partition: str, vector: Vector) -> bool:
    found = await vectors.search(spec.table, vector, partitions=[partition], limit=1, ids=[id])
    slack = _TOLERANCE * (1 if spec.metric == "cosine" else float(np.abs(vector).sum()))
    return found.ids == (id,) and found.scores[0] >= score(vector, vector, spec.metric) - slack


async def _still(storage: Storage, table: Table, id: str, vector: Vector) -> bool:
    """Return whether a record is as it was when the comparison read it."""
    (row,) = await storage.get(table, [id], vectors=True)
    now = None if row is None or table.vector is None else row[table.vector.name]
    return now is not None and np.array_equal(now, vector)


async def _vectors(storage: Storage, table: Table) -> AsyncIterator[tuple[str, str, Vector]]:
    column, partition = table.vector, table.partition
    if column is None or partition is None:
        return
    wanted = ["id", partition, column.name]
    async for batch in storage.scan(table, _with_vector(table), columns=wanted):
        values = (batch.column(name).to_pylist() for name in ("id", partition))
        for id, home, vector in zip(*values, batch.column(column.name), strict=True):
            yield id, home, vector.values.to_numpy(zero_copy_only=False).astype(np.float32)


def _with_vector(table: Table) -> Filter:
    return ~Field(table.vector.name if table.vector else "id").is_null()
