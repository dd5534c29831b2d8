"""The contract of a vector search."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import attrs

from pattern_core.schema import Table

from .base import AsyncResource, Detail, Health, Vector

__all__ = ["IndexSpec", "Matches", "VectorChange", "VectorStore"]


@attrs.frozen
class IndexSpec:
    """What an index is for.

    Attributes:
        table: The table whose vectors it holds; ``table.partition`` names the column that partitions it.
        dimensions: The length of the vectors.
        metric: ``cosine``, ``euclidean`` or ``manhattan``.
        database: What tells the database that the index belongs to from all others, and the time that an index in this
            place was kept up from all others. An external index that was made for another one is made anew.
    """

    table: Table
    dimensions: int
    metric: str
    database: str = ""


@attrs.frozen
class VectorChange:
    """What the index has to hold of one record from now on.

    Attributes:
        id: The record.
        partition: The value of its partition column.
        vector: Its vector; None where it has none, or is gone.
    """

    id: str
    partition: str
    vector: Vector | None


@attrs.frozen
class Matches:
    """What a vector search found.

    Attributes:
        ids: The records, closest first, ties by id.
        scores: For each, how close it is, more is closer: the cosine similarity, or the distance times -1.
        exact: Whether every candidate was compared.
    """

    ids: tuple[str, ...]
    scores: tuple[float, ...]
    exact: bool


class VectorStore(AsyncResource):
    """An index over the vectors that a storage holds. It can always be made again from there.

    Once it is closed, every call raises `ClosedError`; for a table without an index, `StorageError`.
    """

    @property
    def place(self) -> str | None:
        """Where the index is kept, if that is a place of its own, which a crash may leave behind the storage; else None.

        For such an external index core keeps an outbox in the storage: a commit also records which records the index has
        yet to learn of, and forgets it when `apply` has returned. So `apply` returns when its changes survive a crash;
        and an index that `create` had not finished when it was interrupted does not pass for a ready one.

        The place tells the index from others: an index that was not kept up for a while, because the database was used
        with one in another place or with none, is made anew.
        """
        return None

    @abstractmethod
    async def create(self, index: IndexSpec) -> None:
        """Make the index of a table ready for search, from what the storage holds; do nothing where it is ready.

        An index that was made for other dimensions, another metric, another database or other parameters is made anew.
        """

    @abstractmethod
    async def exists(self, table: Table) -> bool:
        """Return whether the table has an index."""

    @abstractmethod
    async def apply(self, table: Table, changes: Sequence[VectorChange]) -> None:
        """Make the index agree with records that a commit has changed. Repeats do no harm.

        Core calls it in the order of the commits, one call at a time; where several processes write, each of them
        does, and repeats itself until the index agrees with the storage.

        Args:
            table: The table.
            changes: What it has to hold from now on.
        """

    @abstractmethod
    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, ids: Sequence[str] | None = None
    ) -> Matches:
        """Find the closest vectors.

        Args:
            table: The table.
            vector: The query, float32 ``[dimensions]``.
            partitions: The partitions to look in, and no others.
            limit: The most matches to return. Fewer come only where the partitions hold fewer.
            ids: The only records to consider; None for all.

        Returns:
            The matches, closest first, ties by id.

        Raises:
            InvalidVectorError: The query has another length than the index, is all zeros, or not finite.
        """

    @abstractmethod
    async def count(self, table: Table) -> int:
        """Return how many vectors of a table can be found."""

    @abstractmethod
    async def drop(self, table: Table) -> None:
        """Remove the index of a table; do nothing where there is none."""

    async def maintain(self) -> Mapping[str, Detail]:
        """Do now the upkeep that is due, and say what was done, as `Storage.maintain`."""
        return {}

    @abstractmethod
    async def health(self) -> Health:
        """Ask the engine whether it works."""
