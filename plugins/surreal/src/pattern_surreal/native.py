"""Vector search in SurrealDB: by brute force over a partition, or by its HNSW index, whose answers are checked.

Vectors are stored as bytes. The engine compares only arrays, so `SurrealStorage` also writes an array column, in the
same commits. That makes writes several times slower.

Brute force costs as much as reading the partition. The engine's index covers the whole table: a search over-fetches
until enough neighbors are of the partition, and reads all of them. So the index pays off only for a large partition.
Brute force is used for a small one, while the index is being built, and if its answer fails a check.
"""

# ruff: noqa: S608 - the names in the statements come from the schema, and every value is bound

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from pattern_core.abc import Detail, Health, IndexSpec, Matches, Vector, VectorChange, VectorStore
from pattern_core.errors import ClosedError, PatternError, StorageError
from pattern_core.schema import Table
from pattern_core.toolkit import ExactIndex, as_vector

from .array_backfill import backfill
from .array_column import (
    array_column,
    drop_array_column,
    read_state,
    state_of,
    to_array,
)
from .brute_force import BruteForce
from .dialect import Parameters, name
from .index_builder import IndexBuilder
from .knn import MAX_NEAREST, Near, Query, agree, by_index, compare, form, lacking
from .over_fetch import Partition
from .recall import Recall
from .storage import SurrealStorage

__all__ = ["NativeIndex"]

_PATIENCE_S: Final = 2.0
"""How long a search waits for the engine's index, in seconds, before it falls back to brute force."""
_PARTITIONS: Final = 10_000
"""About how many partitions have statistics."""


class NativeIndex(VectorStore):
    """Vector search by SurrealDB, over the tables of the storage.

    Args:
        storage: The storage. It is not closed with the index.
        efc: How many candidates the engine's index considers when it adds a vector.
        m: How many neighbors it links a vector to.
        ef: The fewest candidates that it considers in a search.
        exact_rows: The largest partition that is searched by brute force; 0 always uses the engine's index, None never
            builds one.
        check_every: One of so many answers of the index is compared with the exact one.
        least_recall: The average recall below which the index is no longer used.
    """

    def __init__(
        self,
        storage: SurrealStorage,
        *,
        efc: int,
        m: int,
        ef: int,
        exact_rows: int | None = 0,
        check_every: int = 100,
        least_recall: float = 0.9,
    ) -> None:
        self._storage = storage
        self._brute_force = BruteForce(storage)
        self._efc = efc
        self._m = m
        self._ef = ef
        self._exact_rows = exact_rows
        self._check_every = check_every
        self._least_recall = least_recall
        self._specs: dict[str, IndexSpec] = {}
        self._indexes: dict[str, IndexBuilder] = {}
        self._recalls: dict[str, Recall] = {}
        self._partitions: dict[tuple[str, tuple[str, ...]], Partition] = {}
        self._answers = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def create(self, index: IndexSpec) -> None:
        self._check_open()
        table = index.table
        if self._specs.get(table.name) == index and await self.exists(table):
            return  # a session that waits for a switch calls this while another task applies changes
        wanted = form(index, self._efc, self._m)
        await self._forget(table.name)
        state = await backfill(self._storage, index)
        self._specs[table.name] = index
        if self._exact_rows is not None:
            self._indexes[table.name] = IndexBuilder(self._storage, index, wanted, self._ef)
            self._recalls[table.name] = Recall(self._least_recall)
            if self._exact_rows == 0 or state.index:
                self._indexes[table.name].start()

    async def exists(self, table: Table) -> bool:
        self._check_open()
        [result] = await self._storage.query(read_state(table.name))
        return state_of(result) is not None

    async def apply(self, table: Table, changes: Sequence[VectorChange]) -> None:  # noqa: ARG002 - see below
        self._spec(table)  # the commit has written the array column

    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, ids: Sequence[str] | None = None
    ) -> Matches:
        spec = self._spec(table)
        given = as_vector(vector, spec.dimensions)
        names = tuple(sorted(set(partitions)))
        if limit < 1 or not names or (ids is not None and not ids):
            return Matches((), (), exact=True)
        query = Query(spec, to_array(given), names, limit)
        if ids is None and (found := await self._by_index(query)) is not None:
            self._sample(query, found)
            return _matches(spec, found, exact=False)
        if (exact := await self._brute_force.nearest(query, ids)) is not None:
            return _matches(spec, exact, exact=True)
        return await self._streamed(spec, given, names, limit, ids)

    async def _by_index(self, query: Query) -> list[Near] | None:
        """Search with the engine's index; None if it is not used, or its answer fails a check."""
        index = self._indexes.get(query.spec.table.name)
        if index is None:
            return None
        partition = self._partition(query)
        if self._exact_rows and (partition.size is None or partition.size <= self._exact_rows):
            return None
        index.start()
        if index.status != "ready":
            return None
        most = min(MAX_NEAREST, MAX_NEAREST if partition.size is None else max(partition.size // 2, 2 * query.limit))
        asked = partition.first(query.limit)
        if asked > most:
            partition.forget()
        while asked <= most:
            try:
                rows = await asyncio.wait_for(self._ask(query, asked), _PATIENCE_S)
            except TimeoutError:
                index.warm_up()
                return None
            if lacking(rows):
                index.distrust("the engine answers without distances")
                return None
            if len(rows) < asked:  # it has no more: brute force is cheaper
                if len(rows) < await self.count(query.spec.table):
                    self._note_recall(query.spec.table, [], [Near(0.0, "")])
                return None
            found = [Near(row["distance"], row["id"]) for row in rows if row["partition"] in query.partitions]
            partition.adapt(asked, len(found))
            if len(found) >= query.limit:
                return await self._measured(query, heapq.nsmallest(query.limit, found))
            asked = partition.more(asked, len(found), query.limit)
        return None

    async def _measured(self, query: Query, found: list[Near]) -> list[Near] | None:
        """Return the matches with their true distances, in order; None if the index returned other distances.

        SurrealDB 3.0.2 confuses indexes of two databases with the same internal number, and their metrics
        (surrealdb/surrealdb#7077).
        """
        parameters = Parameters()
        text = compare(query, parameters, [each.id for each in found])
        [rows] = await self._storage.query(text, parameters.values)
        true = {row["id"]: float(row["distance"]) for row in rows}
        if any(each.id in true and not agree(each.distance, true[each.id]) for each in found):
            self._indexes[query.spec.table.name].distrust(
                f"the engine returns distances that are not {query.spec.metric}"
            )
            return None
        return sorted(Near(true[each.id], each.id) for each in found) if len(true) == len(found) else None

    async def _ask(self, query: Query, asked: int) -> list[Mapping[str, Any]]:
        parameters = Parameters()
        [rows] = await self._storage.query(by_index(query, parameters, asked, self._ef), parameters.values)
        return list(rows)

    def _partition(self, query: Query) -> Partition:
        """Return the statistics of the partitions of a query; their records are counted from time to time."""
        key = (query.spec.table.name, query.partitions)
        if key not in self._partitions and len(self._partitions) >= _PARTITIONS:
            self._partitions.clear()
        partition = self._partitions.setdefault(key, Partition())
        if self._exact_rows and partition.is_to_be_counted():
            self._later(lambda: self._count_partition(query, partition))
        return partition

    async def _count_partition(self, query: Query, partition: Partition) -> None:
        partition.size = await self._brute_force.count(query)

    async def _streamed(
        self, spec: IndexSpec, vector: Vector, names: Sequence[str], limit: int, ids: Sequence[str] | None
    ) -> Matches:
        """Read the vectors and compare them in this process, which is right whatever state the array column is in."""
        async with ExactIndex(self._storage) as index:
            await index.create(spec)
            return await index.search(spec.table, vector, partitions=names, limit=limit, ids=ids)

    def _sample(self, query: Query, found: list[Near]) -> None:
        """Schedule a comparison with the exact answer, for a sample of the answers."""
        self._answers += 1
        if self._answers % self._check_every == 1 % self._check_every and not self._tasks:
            self._later(lambda: self._check(query, found))

    async def _check(self, query: Query, found: list[Near]) -> None:
        truth = await self._brute_force.nearest(query)
        if truth is not None:
            self._note_recall(query.spec.table, found, truth)

    def _note_recall(self, table: Table, found: Sequence[Near], truth: Sequence[Near]) -> None:
        recall, index = self._recalls.get(table.name), self._indexes.get(table.name)
        if recall is None or index is None:
            return
        recall.add(found, truth)
        if recall.is_low and index.status != "distrusted":
            index.distrust(f"its recall is {recall.share:.0%}")

    def _later(self, work: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            with contextlib.suppress(PatternError):  # a later search repeats it
                await work()

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def count(self, table: Table) -> int:
        self._spec(table)
        [found] = await self._storage.query(
            f"SELECT count() FROM {name(table.name)} WHERE {name(array_column(table))} != NONE GROUP ALL"
        )
        return int(found[0]["count"]) if found else 0

    async def drop(self, table: Table) -> None:
        self._check_open()
        await self._forget(table.name)
        await drop_array_column(self._storage, table.name, wait_for=table)

    async def _forget(self, table: str) -> None:
        self._specs.pop(table, None)
        self._recalls.pop(table, None)
        if (index := self._indexes.pop(table, None)) is not None:
            await index.aclose()
        self._partitions = {key: each for key, each in self._partitions.items() if key[0] != table}

    async def maintain(self) -> Mapping[str, Detail]:
        """Wait for the work in the background."""
        self._check_open()
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        for index in list(self._indexes.values()):
            await index.wait()
        return {f"index of {table}": each.status for table, each in self._indexes.items()}

    async def health(self) -> Health:
        self._check_open()
        health = await self._storage.health()
        details: dict[str, Detail] = {"indexes": len(self._specs), "efc": self._efc, "m": self._m, "ef": self._ef}
        for table, index in self._indexes.items():
            details[f"index of {table}"] = f"not used: {index.reason}" if index.reason else index.status
            if (share := self._recalls[table].share) is not None:
                details[f"recall of {table}"] = round(share, 3)
        return Health(ok=health.ok, engine=f"{health.engine}, HNSW", details=details)

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for table in list(self._specs):
            await self._forget(table)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the vector index is closed. Open the database again.")

    def _spec(self, table: Table) -> IndexSpec:
        self._check_open()
        try:
            return self._specs[table.name]
        except KeyError:
            raise StorageError(f"{table.name} has no vector index. Create it first.") from None


def _matches(spec: IndexSpec, found: list[Near], *, exact: bool) -> Matches:
    if spec.metric == "cosine":
        scores = tuple(min(1.0, max(-1.0, 1.0 - each.distance)) for each in found)
    else:
        scores = tuple(0.0 - each.distance for each in found)
    return Matches(tuple(each.id for each in found), scores, exact=exact)
