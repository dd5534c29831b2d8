"""Verification of a new generation: sampled vectors must match their texts, and the index must find them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pattern_core.abc import Storage, VectorStore
from pattern_core.embedding.chunks import chunk_id, record_id_of
from pattern_core.embedding.model import EmbeddingModel
from pattern_core.schema import Table
from pattern_core.search.metrics import score

from .sync import Synchronizer

__all__ = ["find_wrong_vectors", "sample"]

SAMPLE: Final = 50
_ALIKE: Final = 0.999
"""The least cosine similarity of two vectors of one text; services round, and batches differ."""


def sample(ids: Sequence[str]) -> Sequence[str]:
    """Return up to 50 ids from everywhere in a list."""
    return ids[:: max(1, len(ids) // SAMPLE)][:SAMPLE]


async def find_wrong_vectors(
    storage: Storage,
    vectors: VectorStore,
    target: EmbeddingModel,
    sync: Synchronizer,
    table: Table,
    vector_table: Table,
    ids: Sequence[str],
) -> list[str]:
    """Return the records whose stored vector differs from a new one, or is not found by the index.

    Records that are being written, and chunked ones, do not count.

    Args:
        storage: The storage.
        vectors: The vector search.
        target: The model of the generation.
        sync: Tells which records are up to date.
        table: The table of records.
        vector_table: The table of their vectors.
        ids: The records to check.

    Returns:
        The ids of the records with a wrong vector.
    """
    rows = dict(zip(ids, await storage.get(table, ids), strict=True))
    heads = await storage.get(vector_table, [chunk_id(id, 0) for id in ids], vectors=True)
    whole = {
        record_id_of(head["id"]): head
        for head in heads
        if head is not None and (row := rows[record_id_of(head["id"])]) and sync.is_done(table, row, head)
    }
    texts = [table.text(rows[id] or {}) for id in whole]
    made = await target.embed_documents(texts, cached=False)
    wrong = []
    for (id, head), each in zip(whole.items(), made, strict=True):
        alike = score(each.vectors[0], head["embedding"], "cosine") >= _ALIKE
        found = await vectors.search(
            vector_table, head["embedding"], partitions=[head["partition"]], limit=1, ids=[head["id"]]
        )
        if not alike or found.ids != (head["id"],):
            wrong.append(id)
    return wrong
