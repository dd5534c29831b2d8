"""The vector indexes of a database, as entries of the manifest's state."""

from __future__ import annotations

import attrs

from pattern_core.errors import StorageError

from .snapshot import Snapshot

__all__ = ["VectorIndex", "all_indexes", "ann_key", "expect_index", "find_index", "index_key"]


@attrs.frozen(kw_only=True)
class VectorIndex:
    """The vector index of a table.

    Attributes:
        dimensions: The dimensions of its vectors.
        metric: The metric.
        database: The id of the database that the vectors belong to.
        column: The column of the Lance table that holds them.
    """

    dimensions: int
    metric: str
    database: str
    column: str


def index_key(name: str) -> str:
    """Return the key of a table's `VectorIndex` in the manifest's state."""
    return f"vectors/{name}"


def ann_key(name: str) -> str:
    """Return the key of a table's approximate index in the manifest's state."""
    return f"index/{name}"


def all_indexes(snapshot: Snapshot) -> dict[str, VectorIndex]:
    """Return the vector indexes by table."""
    prefix = index_key("")
    return {
        key.removeprefix(prefix): VectorIndex(**found)
        for key, found in snapshot.state.items()
        if key.startswith(prefix)
    }


def find_index(snapshot: Snapshot, name: str) -> VectorIndex | None:
    """Return the vector index of a table; None if there is none."""
    return all_indexes(snapshot).get(name)


def expect_index(snapshot: Snapshot, name: str) -> VectorIndex:
    """Return the vector index of a table; raise `StorageError` if there is none."""
    index = find_index(snapshot, name)
    if index is None:
        raise StorageError(f"{name} has no vector index. Create it with create(IndexSpec(table, dimensions, metric)).")
    return index
