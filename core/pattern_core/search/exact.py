"""The built-in vector search: exact, in memory, in NumPy, divided by partition.

The vectors stay in the storage. The first search in a partition loads its vectors into one block of memory, and
`ExactIndex.apply` keeps the block up to date.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from pattern_core.abc import Change, Health, IndexSpec, Matches, Storage, Vector, VectorChange, VectorStore
from pattern_core.errors import ClosedError, ConfigError, StorageError, nearest, shorten
from pattern_core.filters import Field
from pattern_core.hookspecs import VectorSpec, hookimpl
from pattern_core.schema import Table
from pattern_core.support.validators import as_vector

from .metrics import METRICS, Rows, closest, prepare

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ExactIndex", "ExactOptions", "pattern_vectors"]

_INLINE_ELEMENTS: Final = 1 << 21
"""A search of up to this many numbers, about a millisecond, runs on the event loop; a larger one in a thread."""


class _Block:
    """The vectors of one partition in one array. Not safe to change while a thread reads it."""

    def __init__(self, dimensions: int) -> None:
        self.ids: list[str] = []
        self._rows: dict[str, int] = {}
        self._memory = np.empty((0, dimensions), dtype=np.float32)

    @property
    def nbytes(self) -> int:
        return self._memory.nbytes

    def extend(self, ids: Sequence[str], vectors: Rows) -> None:
        """Append vectors of records that the block does not hold."""
        start, end = len(self.ids), len(self.ids) + len(ids)
        if end > len(self._memory):
            memory = np.empty((max(end, 2 * len(self._memory), 8), self._memory.shape[1]), dtype=np.float32)
            memory[:start] = self._memory[:start]
            self._memory = memory
        self._memory[start:end] = vectors
        self.ids.extend(ids)
        self._rows.update(zip(ids, range(start, end), strict=True))

    def put(self, id: str, vector: Vector) -> None:
        row = self._rows.get(id)
        if row is None:
            self.extend([id], vector[np.newaxis])
        else:
            self._memory[row] = vector

    def remove(self, id: str) -> None:
        row = self._rows.pop(id)
        last = self.ids.pop()
        if last != id:
            self.ids[row] = last
            self._rows[last] = row
            self._memory[row] = self._memory[len(self.ids)]

    def search(self, query: Vector, metric: str, limit: int, only: frozenset[str] | None) -> list[tuple[float, str]]:
        """Return the closest records as (distance, id) pairs, including ties with the last."""
        chosen: NDArray[np.intp] | None = None
        rows = self._memory[: len(self.ids)]
        if only is not None:
            chosen = np.array(sorted(self._rows[each] for each in only & self._rows.keys()), dtype=np.intp)
            rows = rows[chosen]
        near, scores = closest(query, rows, metric, limit)
        places = near if chosen is None else chosen[near]
        return [(-score, self.ids[place]) for score, place in zip(scores.tolist(), places.tolist(), strict=True)]


@attrs.define(eq=False)
class _Load:
    """A running scan, and the changes applied since it began."""

    done: asyncio.Event = attrs.field(factory=asyncio.Event)
    changes: list[VectorChange] = attrs.field(factory=list)


class _TableIndex:
    """The loaded partitions of one table.

    Everything changes on the event loop. Only a large search runs in a thread; it holds `_lock`, so that no row changes
    meanwhile.
    """

    def __init__(self, spec: IndexSpec, partition: str, column: str) -> None:
        self.spec = spec
        self.column = column
        self.blocks: dict[str, _Block] = {}
        self._generation = 0
        self._partition = partition
        self._homes: dict[str, str] = {}  # the loaded partition of each record
        self._loads: dict[str, _Load] = {}
        self._lock = asyncio.Lock()

    async def apply(self, changes: Sequence[VectorChange]) -> None:
        changes = [self._check(change) for change in changes]
        async with self._lock:
            for load in set(self._loads.values()):
                load.changes.extend(changes)
            for change in changes:
                self._set(change)

    async def forget(self) -> None:
        """Drop everything that is loaded or being loaded, since it may be outdated."""
        async with self._lock:
            self._generation += 1
            self.blocks.clear()
            self._homes.clear()

    async def reload(self, storage: Storage, changes: Iterable[Change]) -> None:
        """Read changed records again, if their partitions are loaded or being loaded."""
        relevant = {
            each.id: each.partition
            for each in changes
            if each.id in self._homes or each.partition in self.blocks or each.partition in self._loads
        }
        if not relevant:
            return
        rows = await storage.get(self.spec.table, list(relevant), vectors=True)
        await self.apply(
            [
                VectorChange(id, partition or "", None)
                if row is None
                else VectorChange(id, row[self._partition], row[self.column])
                for (id, partition), row in zip(relevant.items(), rows, strict=True)
            ]
        )

    def _check(self, change: VectorChange) -> VectorChange:
        if change.vector is None:
            return change
        return attrs.evolve(change, vector=self._prepare(as_vector(change.vector, self.spec.dimensions)))

    def _set(self, change: VectorChange) -> None:
        home = self._homes.get(change.id)
        stays = change.vector is not None and change.partition in self.blocks
        if home is not None and not (stays and home == change.partition):
            self.blocks[home].remove(change.id)
            del self._homes[change.id]
        if change.vector is not None and stays:
            self.blocks[change.partition].put(change.id, change.vector)
            self._homes[change.id] = change.partition

    def _prepare(self, vectors: Rows) -> Rows:
        return prepare(vectors, self.spec.metric)

    async def search(
        self, storage: Storage, vector: Vector, partitions: Iterable[str], limit: int, ids: Sequence[str] | None
    ) -> Matches:
        query = self._prepare(as_vector(vector, self.spec.dimensions))
        names = list(dict.fromkeys(partitions))
        only = None if ids is None else frozenset(ids)
        if limit < 1 or not names or (only is not None and not only):
            return Matches((), (), exact=True)
        await self._load(storage, names)
        blocks = [self.blocks[name] for name in names]

        def run() -> list[tuple[float, str]]:
            found = [pair for block in blocks for pair in block.search(query, self.spec.metric, limit, only)]
            return heapq.nsmallest(limit, found)

        rows = sum(len(block.ids) if only is None else min(len(only), len(block.ids)) for block in blocks)
        if rows * self.spec.dimensions <= _INLINE_ELEMENTS:
            found = run()
        else:
            async with self._lock:
                found = await asyncio.to_thread(run)
        return Matches(tuple(each for _, each in found), tuple(0.0 - distance for distance, _ in found), exact=True)

    async def _load(self, storage: Storage, names: Sequence[str]) -> None:
        """Load missing partitions in one scan; wait for those that other searches are loading."""
        while missing := [name for name in names if name not in self.blocks]:
            mine = [name for name in missing if name not in self._loads]
            if not mine:
                await self._loads[missing[0]].done.wait()
                continue
            load = _Load()
            self._loads.update(dict.fromkeys(mine, load))
            try:
                generation = self._generation
                blocks = await self._scan(storage, mine)
                async with self._lock:
                    if generation == self._generation:
                        self._install(blocks, load)
            finally:  # after a cancelled search, the next one loads the partitions
                for name in mine:
                    del self._loads[name]
                load.done.set()

    async def _scan(self, storage: Storage, names: Sequence[str]) -> dict[str, _Block]:
        blocks = {name: _Block(self.spec.dimensions) for name in names}
        where = Field(self._partition).in_(names)
        columns = ["id", self._partition, self.column]
        async for batch in storage.scan(self.spec.table, where, columns=columns):
            ids, homes, vectors = self._read(batch)
            for name in dict.fromkeys(homes):
                rows = [row for row, home in enumerate(homes) if home == name]
                blocks[name].extend([ids[row] for row in rows], vectors[rows])
        return blocks

    def _read(self, batch: pa.RecordBatch) -> tuple[list[str], list[str], Rows]:
        """Return the ids, partitions and vectors of an Arrow batch, without records that have no vector."""
        batch = batch.filter(batch.column(self.column).is_valid())
        ids: list[str] = batch.column("id").to_pylist()
        lists = batch.column(self.column)
        sizes = np.diff(lists.offsets.to_numpy())
        self._refuse(ids, sizes != self.spec.dimensions)
        vectors: Rows = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, self.spec.dimensions)
        self._refuse(ids, np.logical_not(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)))
        return ids, batch.column(self._partition).to_pylist(), self._prepare(vectors)

    def _refuse(self, ids: Sequence[str], wrong: NDArray[np.bool_]) -> None:
        if wrong.any():
            message = (
                f"{self.spec.table.name} record {shorten(ids[int(wrong.argmax())])} holds a vector that cannot be "
                f"compared. Expected {self.spec.dimensions} finite numbers, not all zero. Re-embed the database: "
                f"`pattern reembed run --again`."
            )
            raise StorageError(message)

    def _install(self, blocks: dict[str, _Block], load: _Load) -> None:
        for name, block in blocks.items():
            for each in block.ids:
                home = self._homes.get(each)
                if home is not None:  # the record has moved here, and `apply` will follow
                    self.blocks[home].remove(each)
                self._homes[each] = name
            self.blocks[name] = block
        for change in load.changes:  # at least as new as what the scan read
            self._set(change)


class ExactIndex(VectorStore):
    """Exact vector search in memory, with one block for each partition that was searched.

    Args:
        storage: The storage of the vectors. It is not closed with the index.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._tables: dict[str, _TableIndex] = {}
        self._closed = False

    async def create(self, index: IndexSpec) -> None:
        self._check_open()
        table = index.table
        if index.metric not in METRICS:
            message = f"unknown metric {index.metric!r}. {nearest(index.metric, METRICS)}"
            raise ConfigError(message, key="vectors.metric")
        if table.vector is None or table.partition is None:
            raise StorageError(f"{table.name} has no vectors to search. Declare a vector column and a partition.")
        found = self._tables.get(table.name)
        if found is None or found.spec != index:
            self._tables[table.name] = _TableIndex(index, table.partition, table.vector.name)

    async def exists(self, table: Table) -> bool:
        self._check_open()
        return table.name in self._tables

    async def apply(self, table: Table, changes: Sequence[VectorChange]) -> None:
        await self._index(table).apply(changes)

    async def refresh(self, changes: Sequence[Change] | None) -> None:
        self._check_open()
        for name, index in self._tables.items():
            if changes is None:
                await index.forget()
            else:
                await index.reload(self._storage, [each for each in changes if each.table == name])

    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, ids: Sequence[str] | None = None
    ) -> Matches:
        return await self._index(table).search(self._storage, vector, partitions, limit, ids)

    async def count(self, table: Table) -> int:
        return await self._storage.count(table, ~Field(self._index(table).column).is_null())

    async def drop(self, table: Table) -> None:
        self._check_open()
        self._tables.pop(table.name, None)

    async def health(self) -> Health:
        self._check_open()
        blocks = [block for index in self._tables.values() for block in index.blocks.values()]
        details = {
            "loaded_partitions": len(blocks),
            "loaded_vectors": sum(len(block.ids) for block in blocks),
            "loaded_bytes": sum(block.nbytes for block in blocks),
        }
        return Health(ok=True, engine=f"NumPy {np.__version__}", details=details)

    async def aclose(self) -> None:
        self._closed = True
        self._tables.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the vector index is closed. Open the database again.")

    def _index(self, table: Table) -> _TableIndex:
        self._check_open()
        try:
            return self._tables[table.name]
        except KeyError:
            message = f"{table.name} has no vector index. Create it with create(IndexSpec(table, dimensions, metric))."
            raise StorageError(message) from None


@attrs.frozen
class ExactOptions:
    """The exact index has no options."""


async def _open(options: Any, storage: Storage) -> ExactIndex:  # noqa: ARG001 - there are no options to use
    return ExactIndex(storage)


@hookimpl
def pattern_vectors() -> VectorSpec:
    """Describe the exact index."""
    return VectorSpec(options=ExactOptions, open=_open, metrics=METRICS, summary="exact search in memory (NumPy)")
