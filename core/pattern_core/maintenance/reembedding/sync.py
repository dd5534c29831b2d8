"""Synchronization of a generation with records: which vector rows to write, so that they agree."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from pattern_core.abc import Delete, Insert, Put, Row, Signature, Storage, VectorChange, Write
from pattern_core.catalog.tables import vector_table
from pattern_core.embedding.chunks import (
    EmbeddedText,
    chunk_id,
    chunk_ids,
    chunk_rows,
    embed_texts,
    hash_text,
    record_id_of,
)
from pattern_core.embedding.model import EmbeddingModel
from pattern_core.errors import TextTooLongError, shorten
from pattern_core.schema import Table
from pattern_core.search.indexer import IndexChange

__all__ = ["SyncPlan", "Synchronizer"]


@attrs.frozen
class SyncPlan:
    """The writes that make a generation agree with some records.

    Attributes:
        writes: The writes.
        changes: The changes of the index.
        embedded: How many records were embedded for it.
        has_chunks: Whether a record has several vectors.
    """

    writes: list[Write]
    changes: list[IndexChange]
    embedded: int
    has_chunks: bool


class Synchronizer:
    """Compares a generation with records, and embeds texts that are new or changed.

    Args:
        storage: The storage.
        target: The model of the generation.
        number: The number of the generation.
        signature: The signature of the model.
    """

    def __init__(self, storage: Storage, target: EmbeddingModel, number: int, signature: Signature) -> None:
        self._storage = storage
        self._target = target
        self._number = number
        self._signature = signature

    async def plan(self, table: Table, ids: Sequence[str]) -> SyncPlan:
        """Plan the writes for some records. Records that are up to date need none.

        Args:
            table: The table of records.
            ids: The records, deleted ones included.

        Returns:
            The plan.

        Raises:
            TextTooLongError: A text is over the model's token limit, and ``overflow`` is ``error``.
            EmbeddingError: The model failed.
        """
        vectors = vector_table(table, self._number)
        rows = await self._storage.get(table, ids)
        heads = await self._storage.get(vectors, [chunk_id(id, number) for id in ids for number in (0, 1)])
        stored = {record_id_of(row["id"]): row for row in heads if row is not None}
        records = {id: row for id, row in zip(ids, rows, strict=True) if row is not None}
        due = [row for id, row in records.items() if not self.is_done(table, row, stored.get(id))]
        embedded = await self._embed(table, due)
        fresh = {row["id"]: chunk_rows(table, row, each) for row, each in zip(due, embedded, strict=True)}
        writes: list[Write] = []
        changes: list[IndexChange] = []
        for id, made in fresh.items():
            writes += [Put(vectors, row) if id in stored else Insert(vectors, row) for row in made]
            changes += [(vectors, VectorChange(row["id"], row["partition"], row["embedding"])) for row in made]
        kept = {row["id"] for made in fresh.values() for row in made}
        outdated = {id for id in ids if id in stored and (id not in records or id in fresh)}
        for id in chunk_ids(outdated, [row for row in heads if row and record_id_of(row["id"]) in outdated]):
            if id not in kept:
                writes.append(Delete(vectors, id))
                changes.append((vectors, VectorChange(id, stored[record_id_of(id)]["partition"], None)))
        return SyncPlan(writes, changes, len(due), any(len(made) > 1 for made in fresh.values()))

    def is_done(self, table: Table, record: Row, head: Row | None) -> bool:
        """Return whether a record has the vectors that embedding it now would give.

        Args:
            table: The table of records.
            record: The record.
            head: Its first vector row; None if it has none.
        """
        text = table.text(record)
        if head is None:
            return not text.strip()
        made_of = (head["text_hash"], head["signature"], head["partition"])
        if made_of != (hash_text(text), self._signature.digest, record[str(table.partition)]):
            return False
        cut = "chunk" if head["part"] else "truncate"
        return head["ends_at"] is None or self._target.policy.overflow == cut

    async def _embed(self, table: Table, records: Sequence[Row]) -> list[EmbeddedText]:
        texts = [table.text(row) for row in records]
        try:
            return await embed_texts(self._target, self._number, texts)
        except TextTooLongError as error:
            given = [row["id"] for row, text in zip(records, texts, strict=True) if text.strip()]
            error.args = (f"{table.name} record {shorten(given[error.position])}: {error}",)
            raise
