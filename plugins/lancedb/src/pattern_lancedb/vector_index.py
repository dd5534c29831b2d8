"""The common part of both vector searches, over the storage's own columns and over copies.

Up to `AnnSettings.exact_rows` rows, a search compares all. Among more rows, with a metric that Lance supports, an
approximate index proposes candidates, with the partition as a prefilter. It is built and extended in the background.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs
import lancedb

from pattern_core.abc import Detail, Health, IndexSpec, Matches, Vector, VectorChange, VectorStore
from pattern_core.errors import ClosedError, ConfigError, PatternError, StorageError, nearest
from pattern_core.schema import Table
from pattern_core.toolkit import as_vector

from .ann_index import AnnIndexes, AnnSettings
from .database import LanceDatabase
from .dialect import is_unicode
from .engine import engine_errors
from .index_state import VectorIndex, all_indexes, ann_key, expect_index, find_index, index_key
from .knn import DISTANCES, KnnQuery, search_approximate, search_exact
from .snapshot import Changes, Snapshot

__all__ = ["LanceVectorStore", "last_changes"]

_METRICS: Final = frozenset({*DISTANCES, "manhattan"})
_LOGGER: Final = logging.getLogger(__name__)
_CHECK_CHANGES: Final = 512
"""After so many changes, the background task checks whether an index is due."""


class LanceVectorStore(VectorStore):
    """A vector search over Lance tables.

    Args:
        database: The database with the vectors.
        settings: The settings of indexes and searches.
    """

    def __init__(self, database: LanceDatabase, settings: AnnSettings) -> None:
        self._database = database
        self._ann = AnnIndexes(database, settings)
        self._changes = 0
        self._background: asyncio.Task[None] | None = None
        self._closed = False

    @abstractmethod
    def _columns(self, table: Table) -> tuple[str, str]:
        """Return the columns of the Lance table that hold a table's partitions and vectors."""

    @abstractmethod
    async def _create(self, spec: IndexSpec, index: VectorIndex) -> None:
        """Create the index, and record it in the manifest's state."""

    async def create(self, index: IndexSpec) -> None:
        self._check_open()
        if index.metric not in _METRICS:
            message = f"unknown metric {index.metric!r}. {nearest(index.metric, _METRICS)}"
            raise ConfigError(message, key="vectors.metric")
        if index.table.vector is None or index.table.partition is None:
            message = f"{index.table.name} has no vectors to search. Declare a vector column and a partition."
            raise StorageError(message)
        _, column = self._columns(index.table)
        wanted = VectorIndex(dimensions=index.dimensions, metric=index.metric, database=index.database, column=column)
        if find_index(await self._database.snapshot(), index.table.name) != wanted:
            await self._create(index, wanted)
        self._start_maintenance()

    async def exists(self, table: Table) -> bool:
        self._check_open()
        return find_index(await self._database.snapshot(), table.name) is not None

    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, ids: Sequence[str] | None = None
    ) -> Matches:
        self._check_open()
        snapshot = await self._database.snapshot()
        index = expect_index(snapshot, table.name)
        query_vector = as_vector(vector, index.dimensions)
        names, only = _storable(partitions), None if ids is None else _storable(ids)
        if limit < 1 or not names or only == []:
            return Matches((), (), exact=True)
        query = KnnQuery(
            table=table.name,
            partition=self._columns(table)[0],
            column=index.column,
            metric=index.metric,
            vector=query_vector,
            partitions=names,
            limit=limit,
            ids=only,
        )
        settings, found = self._ann.settings, None
        with engine_errors(f"search {table.name}"):
            if self._ann.is_current(snapshot, table.name, index.metric):
                found = await search_approximate(
                    snapshot, query, exact_rows=settings.exact_rows, effort=settings.effort
                )
            return await search_exact(snapshot, query) if found is None else found

    async def drop(self, table: Table) -> None:
        self._check_open()
        await self._database.commit(lambda snapshot: self._drop_changes(snapshot, table.name))

    async def _drop_changes(self, snapshot: Snapshot, name: str) -> Changes:  # noqa: ARG002 - the table stays
        return Changes(state={index_key(name): None})

    async def maintain(self) -> Mapping[str, Detail]:
        self._check_open()
        await self._database.flush()
        done = {name: await self._maintain(name) for name in all_indexes(await self._database.snapshot())}
        return {f"{name}_index": result for name, result in done.items() if result}

    async def health(self) -> Health:
        self._check_open()
        snapshot = await self._database.snapshot()
        details: dict[str, Detail] = {"location": self._database.store.uri}
        for name, index in all_indexes(snapshot).items():
            if self._ann.is_current(snapshot, name, index.metric):
                details[f"{name}_index"] = self._ann.settings.kind
                details[f"{name}_index_rows"] = snapshot.state[ann_key(name)]["rows"]
        return Health(ok=True, engine=f"LanceDB {lancedb.__version__}", details=details)

    async def aclose(self) -> None:
        self._closed = True
        if self._background is not None:
            self._background.cancel()  # work on a table continues, and ends before the database is closed
            await asyncio.wait([self._background])

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the vector index is closed. Open the database again.")

    def _count_changes(self, changes: int) -> None:
        """Start maintenance after enough changes."""
        self._changes += changes
        if self._changes >= _CHECK_CHANGES:
            self._changes = 0
            self._start_maintenance()

    def _start_maintenance(self) -> None:
        if self._background is None or self._background.done():
            self._background = asyncio.create_task(self._maintain_all())

    async def _maintain_all(self) -> None:
        try:
            for name in all_indexes(await self._database.snapshot()):
                await self._maintain(name)
        except ClosedError:
            pass
        except PatternError as error:
            _LOGGER.warning("a vector index could not be built, so searches are slower: %s", error)

    async def _maintain(self, name: str) -> str:
        index = find_index(await self._database.snapshot(), name)
        return "" if index is None else await self._ann.maintain(name, index.column, index.metric)


def last_changes(changes: Iterable[VectorChange], dimensions: int) -> list[VectorChange]:
    """Return the last change of each record, with its vector checked."""
    last = {change.id: change for change in changes}
    return [
        change if change.vector is None else attrs.evolve(change, vector=as_vector(change.vector, dimensions))
        for change in last.values()
    ]


def _storable(texts: Iterable[str]) -> list[str]:
    """Return the distinct texts that can be stored."""
    return [text for text in dict.fromkeys(texts) if is_unicode(text)]
