"""Vector indexes: status, verification against the stored vectors, and rebuilding."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Final

import attrs
import numpy as np

from pattern_core.abc import IndexSpec, Storage, Vector, VectorStore
from pattern_core.catalog.commit_log import logged
from pattern_core.catalog.metadata import Metadata, index_specs, read_metadata, record_generation, touch_metadata
from pattern_core.catalog.tables import OUTBOX
from pattern_core.embedding.chunks import record_id_of
from pattern_core.errors import ConflictError
from pattern_core.filters import Field, Filter
from pattern_core.schema import Table
from pattern_core.search.metrics import score

__all__ = [
    "IndexReport",
    "IndexStatus",
    "index_status",
    "read_index_specs",
    "rebuild_index",
    "record_index_location",
    "verify_index",
]

_SHOWN: Final = 10
_TOLERANCE: Final = 1e-3
"""How far the score of a vector's search for itself may be from the best score, relative to the vector."""

Progress = Callable[[int], None]


def _ignore(_count: int) -> None: ...


@attrs.frozen
class IndexStatus:
    """The status of an index.

    Attributes:
        table: The table of vectors.
        vectors: How many vectors the table holds.
        indexed: How many vectors the index holds; None if there is no index.
        pending: How many index updates are pending in the outbox.
    """

    table: str
    vectors: int
    indexed: int | None
    pending: int

    @property
    def ok(self) -> bool:
        """Whether the index exists and holds as many vectors as the table."""
        return self.indexed == self.vectors


@attrs.frozen
class IndexReport:
    """The result of verifying an index against the stored vectors.

    Attributes:
        table: The table of vectors.
        checked: How many vectors were checked.
        wrong: How many of them the index did not find.
        examples: The ids of some records with such vectors.
        surplus: How many vectors the index holds beyond those of the storage.
    """

    table: str
    checked: int
    wrong: int
    examples: tuple[str, ...]
    surplus: int

    @property
    def ok(self) -> bool:
        """Whether the index agrees with the stored vectors."""
        return not self.wrong and not self.surplus


async def read_index_specs(storage: Storage, metric: str) -> list[IndexSpec]:
    """Read the specs of a database's indexes.

    Args:
        storage: The storage.
        metric: The metric of the vector search.

    Returns:
        One spec for each table of vectors.

    Raises:
        StorageError: The database is not set up.
    """
    return index_specs(await read_metadata(storage), metric)


async def record_index_location(storage: Storage, metadata: Metadata, vectors: VectorStore) -> Metadata:
    """Record which external index receives all changes from now on.

    An index that missed changes, because another one was used for a while, is then rebuilt by `VectorStore.create`.

    Args:
        storage: The storage.
        metadata: The database metadata.
        vectors: The vector search to use from now on.

    Returns:
        The metadata after that.
    """
    location = vectors.location or ""
    while (active := metadata.active) is not None and metadata.signature is not None and active.index != location:
        changed = attrs.evolve(active, index=location, index_since=uuid.uuid4().hex)
        with contextlib.suppress(ConflictError):  # another process does the same
            # The new revision tells sessions with another index before their next commit.
            await storage.commit(logged([record_generation(changed), touch_metadata(metadata)], storage.writer))
        metadata = await read_metadata(storage)
    return metadata


async def index_status(storage: Storage, vectors: VectorStore, table: Table) -> IndexStatus:
    """Return the status of an index.

    Args:
        storage: The storage.
        vectors: The vector search over it.
        table: A table of vectors.

    Returns:
        The status.
    """
    pending = await storage.count(OUTBOX, Field("record_table") == table.name) if vectors.location is not None else 0
    indexed = await vectors.count(table) if await vectors.exists(table) else None
    return IndexStatus(table.name, await storage.count(table, _with_vector(table)), indexed, pending)


async def rebuild_index(vectors: VectorStore, spec: IndexSpec) -> None:
    """Rebuild an index from the stored vectors. Until it is ready, searches of the table fail.

    Args:
        vectors: The vector search.
        spec: The spec of the index.
    """
    await vectors.drop(spec.table)
    await vectors.create(spec)


async def verify_index(
    storage: Storage, vectors: VectorStore, spec: IndexSpec, progress: Progress = _ignore
) -> IndexReport:
    """Verify an index: search for every vector by itself, in its own partition.

    Vectors that change meanwhile do not count as wrong.

    Args:
        storage: The storage.
        vectors: The vector search over it.
        spec: The spec of the index.
        progress: Called with the number of vectors checked since the last call.

    Returns:
        The result.
    """
    checked, wrong = 0, []
    async for id, partition, vector in _vectors(storage, spec.table):
        if not await _is_found(vectors, spec, id, partition, vector) and await _is_unchanged(
            storage, spec.table, id, vector
        ):
            wrong.append(id)
        checked += 1
        progress(1)
    surplus = max(0, await vectors.count(spec.table) - await storage.count(spec.table, _with_vector(spec.table)))
    examples = tuple(dict.fromkeys(map(record_id_of, wrong)))[:_SHOWN]
    return IndexReport(spec.table.name, checked, len(wrong), examples, surplus)


async def _is_found(vectors: VectorStore, spec: IndexSpec, id: str, partition: str, vector: Vector) -> bool:
    found = await vectors.search(spec.table, vector, partitions=[partition], limit=1, ids=[id])
    slack = _TOLERANCE * (1 if spec.metric == "cosine" else float(np.abs(vector).sum()))
    return found.ids == (id,) and found.scores[0] >= score(vector, vector, spec.metric) - slack


async def _is_unchanged(storage: Storage, table: Table, id: str, vector: Vector) -> bool:
    """Return whether a vector is still the one that was checked."""
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
        for id, partition_value, vector in zip(*values, batch.column(column.name), strict=True):
            yield id, partition_value, vector.values.to_numpy(zero_copy_only=False).astype(np.float32)


def _with_vector(table: Table) -> Filter:
    return ~Field(table.vector.name if table.vector else "id").is_null()
