"""The vector writes of edits: rows of the vector tables, and changes of the index, in the commit of the records."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import attrs

from pattern_core.abc import Delete, Insert, Put, Row, Storage, VectorChange, Write
from pattern_core.catalog.metadata import Generation, Metadata, record_generation, touch_metadata
from pattern_core.catalog.tables import EMBEDDING_QUEUE, vector_table
from pattern_core.embedding.chunks import chunk_id, chunk_ids, chunk_rows, record_id_of
from pattern_core.errors import ModelChangedError
from pattern_core.schema import Table
from pattern_core.search.indexer import IndexChange
from pattern_core.support.clock import utc_now

from .edits import Edit

__all__ = ["vector_writes"]


async def vector_writes(
    edits: Sequence[Edit], storage: Storage, metadata: Metadata
) -> tuple[list[Write], list[IndexChange]]:
    """Return the writes that keep the vectors of edited records up to date.

    Args:
        edits: The edits. Those that change no text do not count.
        storage: The storage.
        metadata: The database metadata. The writes are valid only with `generation_guard` of it in the same batch.

    Returns:
        The writes, none if no vector changes; and the changes of the index.

    Raises:
        ModelChangedError: A text was embedded for a generation that is no longer active.
    """
    by_table: dict[str, list[Edit]] = {}
    for edit in edits:
        if edit.table.texts and (edit.embedded is not None or (edit.after is None and edit.before is not None)):
            by_table.setdefault(edit.table.name, []).append(edit)
    writes: list[Write] = []
    changes: list[IndexChange] = []
    for of_table in by_table.values():
        more, changed = await _writes_of_table(of_table, storage, metadata)
        writes += more
        changes += changed
    active = metadata.in_use
    if not active.has_chunks and any(_is_chunked(edit) for of_table in by_table.values() for edit in of_table):
        writes.append(record_generation(attrs.evolve(active, has_chunks=True)))
        writes.append(touch_metadata(metadata))
    return writes, changes


def _is_chunked(edit: Edit) -> bool:
    chunks = edit.embedded.chunks if edit.embedded is not None else None
    return chunks is not None and len(chunks.vectors) > 1


async def _writes_of_table(
    edits: Sequence[Edit], storage: Storage, metadata: Metadata
) -> tuple[list[Write], list[IndexChange]]:
    active = metadata.in_use
    for edit in edits:
        if edit.embedded is not None and edit.embedded.generation != active.number:
            raise ModelChangedError(edit.embedded.generation)
    table = edits[0].table
    vectors = vector_table(table, active.number)
    outdated = await _stored_ids(vectors, active, edits, storage)
    writes: list[Write] = []
    changes: list[IndexChange] = []
    partitions = {}
    for edit in edits:
        row = edit.after or edit.before or {}
        partitions[edit.id] = row[str(table.partition)]
        for each in chunk_rows(table, row, edit.embedded) if edit.embedded else []:
            writes.append(Insert(vectors, each) if edit.before is None else Put(vectors, each))
            changes.append((vectors, VectorChange(each["id"], each["partition"], each["embedding"])))
            outdated.pop(each["id"], None)
        if metadata.building is not None:
            writes.append(Insert(EMBEDDING_QUEUE, _queued(table, edit.id)))
    for id in outdated:
        partition = partitions[record_id_of(id)]
        writes.append(Delete(vectors, id, partition=partition))
        changes.append((vectors, VectorChange(id, partition, None)))
    return writes, changes


async def _stored_ids(vectors: Table, active: Generation, edits: Sequence[Edit], storage: Storage) -> dict[str, None]:
    """Return the ids of the vector rows that some records may have."""
    ids = [edit.id for edit in edits if edit.before is not None]
    if not active.has_chunks:
        return dict.fromkeys(chunk_id(id, 0) for id in ids)
    heads = await storage.get(vectors, [chunk_id(id, number) for id in ids for number in (0, 1)])
    return dict.fromkeys(chunk_ids(ids, heads))


def _queued(table: Table, id: str) -> Row:
    now = utc_now()
    common = {"id": uuid.uuid4().hex, "revision": 1, "created_at": now, "updated_at": now}
    return {**common, "record_table": table.name, "record_id": id}
