"""Verification of a database: what can be checked by reading everything."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from pattern_core.abc import Storage, VectorStore

from .indexes import IndexReport, read_index_specs, verify_index

__all__ = ["VerifyReport", "verify_database"]


def _ignore(_count: int) -> None: ...


@attrs.frozen
class VerifyReport:
    """The result of verifying a database.

    Attributes:
        indexes: The result for each vector index.
    """

    indexes: tuple[IndexReport, ...]

    @property
    def ok(self) -> bool:
        """Whether everything agrees."""
        return all(each.ok for each in self.indexes)


async def verify_database(
    storage: Storage, vectors: VectorStore, metric: str, progress: Callable[[int], None] = _ignore
) -> VerifyReport:
    """Verify every vector index against the stored vectors.

    Args:
        storage: The storage.
        vectors: The vector search over it.
        metric: The metric of the vector search.
        progress: Called with the number of vectors checked since the last call.

    Returns:
        The result.
    """
    specs = await read_index_specs(storage, metric)
    return VerifyReport(tuple([await verify_index(storage, vectors, spec, progress) for spec in specs]))
