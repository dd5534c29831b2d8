"""Vector search inside SurrealDB: all vectors of a partition compared, or its HNSW, which is never trusted alone.

The vectors stay what they are, bytes in the vector's column. The engine compares arrays only, so next to it stands a
column that `SurrealStorage` writes in the same commits, made from the vector. It makes writing several times slower.

Comparing costs what reading the partition costs. The engine's index is over the whole table: it is asked for more
neighbours than are wanted, until enough of them are of the partition, and read are all of them. So it pays only where
the partition is big; where it does not, where it is not ready, and where its answer is not what it should be, vectors
are compared.
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

from .column import make_column
from .comparing import Comparison
from .derived import (
    drop_derived,
    native_column,
    read_state,
    state_of,
    to_array,
)
from .dialect import Parameters, name
from .knn import MAX_NEAREST, Near, Query, agree, by_index, compare, form, lacking
from .reach import Partition
from .recall import Recall
from .storage import SurrealStorage
from .tending import Tending

__all__ = ["NativeIndex"]

_PATIENCE_S: Final = 2.0
"""How long the engine's index is waited for in a search, in seconds, before vectors are compared instead."""
_PARTITIONS: Final = 10_000
"""About how many partitions something is remembered of."""


class NativeIndex(VectorStore):
    """Vector search by SurrealDB itself, over the storage's own tables.

    Args:
        storage: Where the vectors are. It is not closed with the index.
        efc: How many candidates the engine's index weighs when it adds a vector.
        m: How many neighbours it links a vector to.
        ef: How many candidates it weighs in a search, at least.
        exact_rows: Up to how many vectors a partition is compared as a whole; 0 always asks the engine's index, None
            never does, and makes none.
        check_every: One in so many answers of the index is compared with the exact one.
        least_recall: The share of the true neighbours that it has to find on average; else it is used no more.
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
        self._comparison = Comparison(storage)
        self._efc = efc
        self._m = m
        self._ef = ef
        self._exact_rows = exact_rows
        self._check_every = check_every
        self._least_recall = least_recall
        self._specs: dict[str, IndexSpec] = {}
        self._indexes: dict[str, Tending] = {}
        self._recalls: dict[str, Recall] = {}
        self._partitions: dict[tuple[str, tuple[str, ...]], Partition] = {}
        self._answers = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def create(self, index: IndexSpec) -> None:
        self._check_open()
        table = index.table
        wanted = form(index, self._efc, self._m)
        await self._let_go(table.name)
        state = await make_column(self._storage, index)
        self._specs[table.name] = index
        if self._exact_rows is not None:
            self._indexes[table.name] = Tending(self._storage, index, wanted, self._ef)
            self._recalls[table.name] = Recall(self._least_recall)
            if self._exact_rows == 0 or state.index:
                self._indexes[table.name].start()

    async def exists(self, table: Table) -> bool:
        self._check_open()
        [result] = await self._storage.query(read_state(table.name))
        return state_of(result) is not None

    async def apply(self, table: Table, changes: Sequence[VectorChange]) -> None:  # noqa: ARG002 - see below
        self._spec(table)  # the commit itself has changed the column

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
        if (exact := await self._comparison.nearest(query, ids)) is not None:
            return _matches(spec, exact, exact=True)
        return await self._streamed(spec, given, names, limit, ids)

    async def _by_index(self, query: Query) -> list[Near] | None:
        """Ask the engine's index; None where it is not asked, or has no answer to be used."""
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
                index.unsettle()
                return None
            if lacking(rows):
                index.distrust("the engine answers without distances")
                return None
            if len(rows) < asked:  # it has no more: comparing the partition is less work
                if len(rows) < await self.count(query.spec.table):
                    self._note_recall(query.spec.table, [], [Near(0.0, "")])
                return None
            found = [Near(row["distance"], row["id"]) for row in rows if row["partition"] in query.partitions]
            partition.learn(asked, len(found))
            if len(found) >= query.limit:
                return await self._measured(query, heapq.nsmallest(query.limit, found))
            asked = partition.more(asked, len(found), query.limit)
        return None

    async def _measured(self, query: Query, found: list[Near]) -> list[Near] | None:
        """Return what was found with true distances, in order; None where the index has measured something else.

        SurrealDB 3.0.2 takes an index of another database for this one, if their numbers are the same; its metric, too
        (surrealdb/surrealdb#7077).
        """
        parameters = Parameters()
        text = compare(query, parameters, [each.id for each in found])
        [rows] = await self._storage.query(text, parameters.values)
        true = {row["id"]: float(row["distance"]) for row in rows}
        if any(each.id in true and not agree(each.distance, true[each.id]) for each in found):
            self._indexes[query.spec.table.name].distrust(
                f"the engine gives distances that are not {query.spec.metric}"
            )
            return None
        return sorted(Near(true[each.id], each.id) for each in found) if len(true) == len(found) else None

    async def _ask(self, query: Query, asked: int) -> list[Mapping[str, Any]]:
        parameters = Parameters()
        [rows] = await self._storage.query(by_index(query, parameters, asked, self._ef), parameters.values)
        return list(rows)

    def _partition(self, query: Query) -> Partition:
        """Return what is known of the partitions of a query; their records are counted from time to time."""
        key = (query.spec.table.name, query.partitions)
        if key not in self._partitions and len(self._partitions) >= _PARTITIONS:
            self._partitions.clear()
        partition = self._partitions.setdefault(key, Partition())
        if self._exact_rows and partition.is_to_be_counted():
            self._later(lambda: self._count_partition(query, partition))
        return partition

    async def _count_partition(self, query: Query, partition: Partition) -> None:
        partition.size = await self._comparison.count(query)

    async def _streamed(
        self, spec: IndexSpec, vector: Vector, names: Sequence[str], limit: int, ids: Sequence[str] | None
    ) -> Matches:
        """Read the vectors themselves and compare them here: what is right whatever the engine holds besides."""
        async with ExactIndex(self._storage) as index:
            await index.create(spec)
            return await index.search(spec.table, vector, partitions=names, limit=limit, ids=ids)

    def _sample(self, query: Query, found: list[Near]) -> None:
        """Compare one in some answers of the engine's index with the exact one, later."""
        self._answers += 1
        if self._answers % self._check_every == 1 % self._check_every and not self._tasks:
            self._later(lambda: self._check(query, found))

    async def _check(self, query: Query, found: list[Near]) -> None:
        truth = await self._comparison.nearest(query)
        if truth is not None:
            self._note_recall(query.spec.table, found, truth)

    def _note_recall(self, table: Table, found: Sequence[Near], truth: Sequence[Near]) -> None:
        recall, index = self._recalls.get(table.name), self._indexes.get(table.name)
        if recall is None or index is None:
            return
        recall.add(found, truth)
        if recall.is_low and index.status != "distrusted":
            index.distrust(f"it finds {recall.share:.0%} of the nearest vectors")

    def _later(self, work: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            with contextlib.suppress(PatternError):  # it is done again with a later search
                await work()

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def count(self, table: Table) -> int:
        self._spec(table)
        [found] = await self._storage.query(
            f"SELECT count() FROM {name(table.name)} WHERE {name(native_column(table))} != NONE GROUP ALL"
        )
        return int(found[0]["count"]) if found else 0

    async def drop(self, table: Table) -> None:
        self._check_open()
        await self._let_go(table.name)
        await drop_derived(self._storage, table.name, fence=table)

    async def _let_go(self, table: str) -> None:
        self._specs.pop(table, None)
        self._recalls.pop(table, None)
        if (index := self._indexes.pop(table, None)) is not None:
            await index.aclose()
        self._partitions = {key: each for key, each in self._partitions.items() if key[0] != table}

    async def maintain(self) -> Mapping[str, Detail]:
        """Wait for what is done in the background."""
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
            await self._let_go(table)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the vector index is closed; open the database again")

    def _spec(self, table: Table) -> IndexSpec:
        self._check_open()
        try:
            return self._specs[table.name]
        except KeyError:
            raise StorageError(f"{table.name} has no vector index; create it first") from None


def _matches(spec: IndexSpec, found: list[Near], *, exact: bool) -> Matches:
    if spec.metric == "cosine":
        scores = tuple(min(1.0, max(-1.0, 1.0 - each.distance)) for each in found)
    else:
        scores = tuple(0.0 - each.distance for each in found)
    return Matches(tuple(each.id for each in found), scores, exact=exact)
