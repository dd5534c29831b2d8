"""The contract of a vector search."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from pattern_core.schema import Table

from .base import AsyncResource, Detail, Health, Vector
from .changes import Change

__all__ = ["IndexSpec", "Matches", "VectorChange", "VectorStore"]


@attrs.frozen
class IndexSpec:
    """The spec of an index.

    Attributes:
        table: The table whose vectors it holds; ``table.partition`` names the column that partitions it.
        dimensions: The length of the vectors.
        metric: ``cosine``, ``euclidean`` or ``manhattan``.
        database: A text that identifies the database and the period in which the index received all its changes. An
            external index that was built for another text is rebuilt.
    """

    table: Table
    dimensions: int
    metric: str
    database: str = ""


@attrs.frozen
class VectorChange:
    """The new state of one record in an index.

    Attributes:
        id: The record.
        partition: The value of its partition column.
        vector: Its vector; None if it has none or was deleted.
    """

    id: str
    partition: str
    vector: Vector | None


@attrs.frozen
class Matches:
    """The matches of a vector search.

    Attributes:
        ids: The records, closest first, ties by id.
        scores: The score of each, more is closer: the cosine similarity, or the distance times -1.
        exact: Whether the search compared every candidate.
    """

    ids: tuple[str, ...]
    scores: tuple[float, ...]
    exact: bool


class VectorStore(AsyncResource):
    """An index over the vectors that a storage holds. It can always be rebuilt from them.

    After `aclose`, every call raises `ClosedError`. A call for a table without an index raises `StorageError`.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "place" in vars(cls) and "location" not in vars(cls):
            message = f"{cls.__name__}.place is now called location; rename it. The old name will stop working."
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            cls.location = vars(cls)["place"]  # type: ignore[method-assign]  # a property as well

    @property
    def location(self) -> str | None:
        """Where an external index is stored; None for an index that lives in the storage or in this process.

        A crash can leave an external index behind the storage, so core keeps an outbox for it: a commit also writes the
        pending index updates, and removes them when `apply` has returned. Therefore `apply` must return only when its
        changes survive a crash, and an index whose `create` was interrupted must not count as ready.

        The location identifies the index. An index that missed changes, because the database was used with another
        location or without an external index, is rebuilt.
        """
        return None

    @abstractmethod
    async def create(self, index: IndexSpec) -> None:
        """Build the index of a table from the stored vectors; do nothing if it is ready.

        An index that was built for other dimensions, another metric, another database or other parameters is rebuilt.

        Args:
            index: The spec of the index.
        """

    @abstractmethod
    async def exists(self, table: Table) -> bool:
        """Return whether the table has an index."""

    @abstractmethod
    async def apply(self, table: Table, changes: Sequence[VectorChange]) -> None:
        """Update the index for records that a commit has changed. It is idempotent.

        Core makes one call at a time, in the order of the commits. If several processes write, each of them does so, and
        repeats its calls until the index agrees with the storage.

        Args:
            table: The table.
            changes: The new state of each record.
        """

    async def refresh(self, changes: Sequence[Change] | None) -> None:
        """Update what this object holds in memory, because others have committed. The default does nothing.

        Core calls it before the next search, never while `apply` runs. An index that lives in the storage, and an
        external one, have nothing to do: the other process has updated it.

        Args:
            changes: What has changed, in order, tables of others included. None if anything may have changed.
        """

    @abstractmethod
    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, ids: Sequence[str] | None = None
    ) -> Matches:
        """Return the closest vectors.

        Args:
            table: The table.
            vector: The query, float32 ``[dimensions]``.
            partitions: The partitions to search, and no others.
            limit: The most matches to return. Fewer are returned only if the partitions hold fewer.
            ids: The only records to consider; None for all.

        Returns:
            The matches, closest first, ties by id.

        Raises:
            InvalidVectorError: The query has another length than the index, is all zeros, or is not finite.
        """

    @abstractmethod
    async def count(self, table: Table) -> int:
        """Return how many vectors of a table the index holds."""

    @abstractmethod
    async def drop(self, table: Table) -> None:
        """Remove the index of a table; do nothing if there is none."""

    async def maintain(self) -> Mapping[str, Detail]:
        """Run pending maintenance, and report what was done, as `Storage.maintain`."""
        return {}

    @abstractmethod
    async def health(self) -> Health:
        """Return whether the engine works."""
