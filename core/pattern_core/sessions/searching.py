"""The search for records: ask the index, check the records, and ask again until there are enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from pattern_core.abc import Matches, Row, Storage, VectorStore
from pattern_core.catalog.metadata import Generation
from pattern_core.catalog.tables import vector_table
from pattern_core.embedding.chunks import chunk_id, chunk_ids, hash_text, record_id_of
from pattern_core.filters import Field, Filter, matches
from pattern_core.models import Embedding
from pattern_core.schema import Table

from .session import Query, RowHit

__all__ = ["read_embeddings", "search_rows"]

FIRST_SEARCH: Final = 4
"""A filtered search first asks the index for this many times the limit, then asks the storage which ids match."""
WIDEN: Final = 4
"""By this factor the search widens if several vectors belonged to one record."""


async def search_rows(
    storage: Storage,
    vectors: VectorStore,
    generation: Generation,
    table: Table,
    query: Query,
    *,
    partitions: Sequence[str],
    limit: int,
    where: Filter | None,
) -> list[RowHit]:
    """Find the closest records of some partitions that satisfy a filter.

    The index only proposes. A record counts by the closest of its vectors, and the record itself decides whether it is
    in scope.

    Args:
        storage: The storage.
        vectors: The vector search.
        generation: The active generation.
        table: The table of records.
        query: The embedded query.
        partitions: The partitions to search.
        limit: The most hits to return.
        where: A filter; None for all.

    Returns:
        The hits, closest first, ties by id. Fewer than the limit only if there are no more.
    """
    index = vector_table(table, generation.number)
    # One more than wanted tells whether others are as close as the last.
    wanted = limit + 1 if where is None else limit * FIRST_SEARCH
    ids: list[str] | None = None
    while True:
        found = await vectors.search(index, query.vector, partitions=partitions, limit=wanted, ids=ids)
        hits = await _fetch(storage, table, index, found, partitions, where)
        if len(found.ids) < wanted or (len(hits) >= limit and hits[limit - 1].score > found.scores[-1]):
            return hits[:limit]
        if where is not None and ids is None and len(hits) < limit:
            # The filter removed too many: ask the storage which records match, and rank only those.
            ids = await _matching_ids(storage, table, index, generation, partitions, where)
            wanted = limit + 1
        else:  # some vectors belong to one record, to deleted records, or are equally close
            wanted *= WIDEN


async def read_embeddings(
    storage: Storage, generation: Generation, table: Table, ids: Sequence[str]
) -> dict[str, Embedding]:
    """Read the vectors of records.

    Args:
        storage: The storage.
        generation: The active generation.
        table: The table of records.
        ids: The records.

    Returns:
        The embedding of each record that has one.
    """
    vectors = vector_table(table, generation.number)
    heads = await storage.get(vectors, [chunk_id(id, number) for id in ids for number in (0, 1)])
    found: dict[str, list[Row]] = {}
    for row in await storage.get(vectors, chunk_ids(ids, heads), vectors=True):
        if row is not None:
            found.setdefault(record_id_of(row["id"]), []).append(row)
    return {id: _embedding(rows, generation.signature.model) for id, rows in found.items()}


async def _matching_ids(
    storage: Storage, table: Table, index: Table, generation: Generation, partitions: Sequence[str], where: Filter
) -> list[str]:
    """Return the ids of the vectors whose records satisfy a filter."""
    scope = Field(str(table.partition)).in_(partitions)
    records = await _ids(storage, table, scope & where)
    matching = [chunk_id(id, 0) for id in records]
    if generation.has_chunks:
        chunks = await _ids(storage, index, Field("partition").in_(partitions) & (Field("part") > 0))
        known = set(records)
        matching += [each for each in chunks if record_id_of(each) in known]
    return matching


async def _ids(storage: Storage, table: Table, where: Filter) -> list[str]:
    ids: list[str] = []
    async for batch in storage.scan(table, where, columns=["id"]):
        ids += batch.column("id").to_pylist()
    return ids


async def _fetch(
    storage: Storage, table: Table, index: Table, found: Matches, partitions: Sequence[str], where: Filter | None
) -> list[RowHit]:
    """Read the records of matches, leave out those that are out of scope, and return the rest, closest first."""
    best: dict[str, tuple[str, float]] = {}
    for id, score in zip(found.ids, found.scores, strict=True):
        best.setdefault(record_id_of(id), (id, score))
    rows = await storage.get(table, list(best)) if best else []
    scope = set(partitions)
    visible = [
        (row, *best[row["id"]])
        for row in rows
        if row is not None and row[str(table.partition)] in scope and matches(where, row)
    ]
    visible.sort(key=lambda each: (-each[2], each[0]["id"]))  # ids of vectors need not sort as those of records
    chunks = [id for _, id, _ in visible if id != chunk_id(record_id_of(id), 0)]
    spans = {row["id"]: row for row in await storage.get(index, chunks) if row} if chunks else {}
    return [RowHit(row, score, found.exact, _passage(table, row, spans.get(id))) for row, id, score in visible]


def _embedding(rows: Sequence[Row], model: str) -> Embedding:
    spans = tuple(None if row["ends_at"] is None else (row["begins_at"], row["ends_at"]) for row in rows)
    return Embedding(np.stack([row["embedding"] for row in rows]), spans, model=model, signature=rows[0]["signature"])


def _passage(table: Table, row: Row, chunk: Row | None) -> str | None:
    if chunk is None or chunk["text_hash"] != hash_text(text := table.text(row)):
        return None
    return text[chunk["begins_at"] : chunk["ends_at"]]
