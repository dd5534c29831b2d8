"""The k nearest vectors of a Lance table and its memtable: exact by brute force, approximate by the engine's index."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Sequence
from typing import Final

import attrs
import pyarrow as pa
import pyarrow.compute as pc
from lancedb.expr import Expr

from pattern_core.abc import Matches, Vector
from pattern_core.toolkit import closest, prepare

from .dialect import any_of
from .snapshot import Snapshot

__all__ = ["DISTANCES", "KnnQuery", "SearchEffort", "search_approximate", "search_exact"]

DISTANCES: Final = {"cosine": "cosine", "euclidean": "l2"}
"""The engine's names of the metrics that it supports."""
_BATCH_ELEMENTS: Final = 1 << 20
"""How many numbers are compared at once."""
_ALL_PROBES: Final = 1 << 20
"""More partitions than any index has."""
_GROWTH: Final = 4
"""The factor by which a search that found too little asks for more."""


@attrs.frozen(kw_only=True)
class KnnQuery:
    """A search for the nearest vectors.

    Attributes:
        table: The name of the table.
        partition: The column of the partitions.
        column: The column of the vectors.
        metric: ``cosine``, ``euclidean`` or ``manhattan``.
        vector: The query vector, float32 ``[dimensions]``.
        partitions: The partitions to search.
        limit: The number of matches, at least 1.
        ids: The candidates; None for all records.
    """

    table: str
    partition: str
    column: str
    metric: str
    vector: Vector
    partitions: Sequence[str]
    limit: int
    ids: Sequence[str] | None = None

    @property
    def where(self) -> Expr:
        """The condition that candidates satisfy."""
        inside = any_of(self.partition, self.partitions)
        return inside if self.ids is None else inside & any_of("id", self.ids)


@attrs.frozen(kw_only=True)
class SearchEffort:
    """The effort of an approximate search.

    Attributes:
        probes: The number of index partitions to search; None for all.
        refine: The over-fetch: candidates per wanted match that are compared by their full vectors.
        ef: The fewest candidates that a search of a graph considers.
    """

    probes: int | None
    refine: int
    ef: int


class _Nearest:
    """The nearest of the rows that were added."""

    def __init__(self, query: KnnQuery) -> None:
        self._query = query
        self._vector = prepare(query.vector, query.metric)
        self._scores: dict[str, float] = {}

    def add(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Add rows with new ids."""
        query = self._query
        rows = rows.filter(rows[query.column].is_valid())
        ids, column = rows["id"], rows[query.column]
        if isinstance(rows, pa.Table):
            ids, column = ids.combine_chunks(), column.combine_chunks()
        vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, len(self._vector))
        positions, scores = closest(self._vector, prepare(vectors, query.metric), query.metric, query.limit)
        self._scores.update(zip(ids.take(pa.array(positions)).to_pylist(), scores.tolist(), strict=True))

    def add_memtable(self, snapshot: Snapshot) -> None:
        """Add the candidates of the memtable."""
        query = self._query
        rows = snapshot.memtable(query.table).rows
        if rows is None:
            return
        chosen = pc.is_in(rows[query.partition], pa.array(query.partitions, pa.string()))
        if query.ids is not None:
            chosen = pc.and_(chosen, pc.is_in(rows["id"], pa.array(query.ids, pa.string())))
        self.add(rows.filter(chosen))

    def prune(self) -> None:
        """Drop all rows beyond the limit."""
        self._scores = {id: -distance for distance, id in self._best()}

    def is_complete(self, rows: int) -> bool:
        """Return whether there are enough rows, and the last of them is closer than another of the added ones.

        Args:
            rows: The number of added rows.
        """
        limit, scores = self._query.limit, sorted(self._scores.values(), reverse=True)
        return len(scores) >= limit and (len(scores) < rows or scores[limit - 1] > scores[-1])

    def matches(self, *, exact: bool) -> Matches:
        best = self._best()
        return Matches(tuple(id for _, id in best), tuple(0.0 - distance for distance, _ in best), exact)

    def _best(self) -> list[tuple[float, str]]:
        return heapq.nsmallest(self._query.limit, ((-score, id) for id, score in self._scores.items()))


async def search_exact(snapshot: Snapshot, query: KnnQuery) -> Matches:
    """Compare all candidates."""
    table = await snapshot.table(query.table)
    hidden = _hidden_ids(snapshot, query)
    nearest = _Nearest(query)
    await asyncio.to_thread(nearest.add_memtable, snapshot)
    rows = max(1, _BATCH_ELEMENTS // len(query.vector))
    stream = table.query().where(query.where).select(["id", query.column])
    async for batch in await stream.to_batches(max_batch_length=rows):
        await asyncio.to_thread(nearest.add, _without(batch, hidden))
        nearest.prune()
    return nearest.matches(exact=True)


async def search_approximate(
    snapshot: Snapshot, query: KnnQuery, *, exact_rows: int, effort: SearchEffort
) -> Matches | None:
    """Compare the candidates that the engine's index proposes.

    Args:
        snapshot: The database.
        query: The query.
        exact_rows: Up to so many candidates, brute force is as good.
        effort: The effort of the search.

    Returns:
        As many matches as wanted; None if the caller should compare all candidates.
    """
    table = await snapshot.table(query.table)
    few = max(exact_rows, query.limit * effort.refine)
    # `count_rows` takes its condition as text only.
    found = await table.query().where(query.where).select(["id"]).limit(few + 1).to_arrow()
    if len(found) <= few:
        return None
    hidden = _hidden_ids(snapshot, query)
    candidates = query.limit * effort.refine
    while candidates <= few:
        request = table.query().nearest_to(query.vector).column(query.column).where(query.where)
        request = request.distance_type(DISTANCES[query.metric]).ef(max(effort.ef, candidates))
        request = request.nprobes(_ALL_PROBES if effort.probes is None else effort.probes)
        hits = await request.select(["id", query.column, "_distance"]).limit(candidates).to_arrow()
        nearest = _Nearest(query)
        visible = _without(hits, hidden)
        nearest.add(visible)
        if nearest.is_complete(pc.count_distinct(visible["id"]).as_py()):
            await asyncio.to_thread(nearest.add_memtable, snapshot)
            return nearest.matches(exact=False)
        if len(hits) < candidates:  # the index has no more
            return None
        candidates *= _GROWTH  # the memtable hides many of them, or many are equally close
    return None


def _hidden_ids(snapshot: Snapshot, query: KnnQuery) -> pa.Array:
    """Return the ids that the memtable writes or deletes."""
    return pa.array(list(snapshot.memtable(query.table).ids), pa.string())


def _without(rows: pa.RecordBatch | pa.Table, ids: pa.Array) -> pa.RecordBatch | pa.Table:
    return rows.filter(pc.invert(pc.is_in(rows["id"], ids))) if len(ids) else rows
