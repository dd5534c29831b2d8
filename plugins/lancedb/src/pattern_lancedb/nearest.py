"""The closest vectors of a Lance table and of the log on top of it, compared exactly or by the engine's index."""

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
from .tables import Snapshot

__all__ = ["DISTANCES", "Effort", "Question", "find_approximately", "find_exactly"]

DISTANCES: Final = {"cosine": "cosine", "euclidean": "l2"}
"""What Lance calls the metrics that it knows."""
_BATCH_ELEMENTS: Final = 1 << 20
"""How many numbers are compared at a time."""
_ALL_PROBES: Final = 1 << 20
"""More parts than an index ever has."""


@attrs.frozen(kw_only=True)
class Question:
    """What to look for, and where.

    Attributes:
        table: The table's name.
        partition: The column of its partitions.
        column: The column of its vectors.
        metric: ``cosine``, ``euclidean`` or ``manhattan``.
        query: The query, float32 ``[dimensions]``.
        partitions: The partitions to look in.
        limit: How many to find, at least 1.
        ids: The only records to consider; None for all.
    """

    table: str
    partition: str
    column: str
    metric: str
    query: Vector
    partitions: Sequence[str]
    limit: int
    ids: Sequence[str] | None = None

    @property
    def where(self) -> Expr:
        """The condition on the rows to consider."""
        inside = any_of(self.partition, self.partitions)
        return inside if self.ids is None else inside & any_of("id", self.ids)


@attrs.frozen(kw_only=True)
class Effort:
    """How hard the engine's index is made to look.

    Attributes:
        probes: How many parts of the index to search; None for all.
        refine: How many times as many candidates as wanted to ask for, and to compare by their true vectors.
        ef: How many candidates a graph is searched with, at least.
    """

    probes: int | None
    refine: int
    ef: int


class _Closest:
    """The closest rows of those that were added."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._query = prepare(question.query, question.metric)
        self._found: dict[str, float] = {}

    def add(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Add rows of any ids that are not there yet."""
        question = self._question
        rows = rows.filter(rows[question.column].is_valid())
        ids, column = rows["id"], rows[question.column]
        if isinstance(rows, pa.Table):
            ids, column = ids.combine_chunks(), column.combine_chunks()
        vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, len(self._query))
        places, scores = closest(self._query, prepare(vectors, question.metric), question.metric, question.limit)
        self._found.update(zip(ids.take(pa.array(places)).to_pylist(), scores.tolist(), strict=True))

    def forget(self) -> None:
        """Forget all but as many rows as wanted."""
        self._found = {id: -distance for distance, id in self._best()}

    def settled(self, rows: int) -> bool:
        """Return whether there are enough, and the last of them is closer than some other of the rows that were added."""
        limit, scores = self._question.limit, sorted(self._found.values(), reverse=True)
        return len(scores) >= limit and (len(scores) < rows or scores[limit - 1] > scores[-1])

    def add_log(self, snapshot: Snapshot) -> None:
        """Add what the log says."""
        question = self._question
        rows = snapshot.tail(question.table).rows
        if rows is None:
            return
        chosen = pc.is_in(rows[question.partition], pa.array(question.partitions, pa.string()))
        if question.ids is not None:
            chosen = pc.and_(chosen, pc.is_in(rows["id"], pa.array(question.ids, pa.string())))
        self.add(rows.filter(chosen))

    def _best(self) -> list[tuple[float, str]]:
        return heapq.nsmallest(self._question.limit, ((-score, id) for id, score in self._found.items()))

    def matches(self, *, exact: bool) -> Matches:
        best = self._best()
        return Matches(tuple(id for _, id in best), tuple(0.0 - distance for distance, _ in best), exact)


async def find_exactly(snapshot: Snapshot, question: Question) -> Matches:
    """Compare every row that may be considered."""
    table = await snapshot.table(question.table)
    covered = _covered(snapshot, question)
    found = _Closest(question)
    await asyncio.to_thread(found.add_log, snapshot)
    rows = max(1, _BATCH_ELEMENTS // len(question.query))
    stream = table.query().where(question.where).select(["id", question.column])
    async for batch in await stream.to_batches(max_batch_length=rows):
        await asyncio.to_thread(found.add, _without(batch, covered))
        found.forget()
    return found.matches(exact=True)


async def find_approximately(snapshot: Snapshot, question: Question, *, above: int, effort: Effort) -> Matches | None:
    """Let the engine's index choose which rows to compare.

    Args:
        snapshot: The database.
        question: What to look for.
        above: In how many rows it is as well to compare all of them.
        effort: How hard to look.

    Returns:
        As many matches as wanted; None where comparing every row that may be considered is the better way.
    """
    table = await snapshot.table(question.table)
    few = max(above, question.limit * effort.refine)
    # Not `count_rows`, which takes its condition as a text only.
    some = await table.query().where(question.where).select(["id"]).limit(few + 1).to_arrow()
    if len(some) <= few:
        return None
    covered = _covered(snapshot, question)
    candidates = question.limit * effort.refine
    while candidates <= few:
        query = table.query().nearest_to(question.query).column(question.column).where(question.where)
        query = query.distance_type(DISTANCES[question.metric]).ef(max(effort.ef, candidates))
        query = query.nprobes(_ALL_PROBES if effort.probes is None else effort.probes)
        hits = await query.select(["id", question.column, "_distance"]).limit(candidates).to_arrow()
        found = _Closest(question)
        standing = _without(hits, covered)
        found.add(standing)
        if found.settled(pc.count_distinct(standing["id"]).as_py()):
            await asyncio.to_thread(found.add_log, snapshot)
            return found.matches(exact=False)
        if len(hits) < candidates:  # the index has no more to give
            return None
        candidates *= 4  # many of them have changed since, or are equally close
    return None


def _covered(snapshot: Snapshot, question: Question) -> pa.Array:
    """Return the ids of which the log knows better than the Lance table."""
    return pa.array(list(snapshot.tail(question.table).ids), pa.string())


def _without(rows: pa.RecordBatch | pa.Table, ids: pa.Array) -> pa.RecordBatch | pa.Table:
    return rows.filter(pc.invert(pc.is_in(rows["id"], ids))) if len(ids) else rows
