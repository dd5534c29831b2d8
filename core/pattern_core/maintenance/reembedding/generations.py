"""Removal of generations: half-built ones, and those of previous models."""

from __future__ import annotations

import contextlib
from typing import Final

import attrs

from pattern_core.abc import Delete, Signature
from pattern_core.catalog.metadata import (
    Generation,
    Metadata,
    generation_guard,
    read_metadata,
    record_generation,
    touch_metadata,
)
from pattern_core.catalog.tables import EMBEDDING_QUEUE, OUTBOX, vector_table
from pattern_core.errors import ConflictError
from pattern_core.filters import Field
from pattern_core.schema import EMBEDDED, DropTable, Table
from pattern_core.sessions.direct import DirectSession

__all__ = ["abandon", "clean_up", "drop_retired", "reusable"]

_BATCH: Final = 500
_ATTEMPTS: Final = 100


async def abandon(session: DirectSession) -> Generation | None:
    """Abandon a half-built generation, and remove its vectors. Searches are not affected.

    Args:
        session: The open database.

    Returns:
        The generation; None if none is being built.

    Raises:
        ConflictError: The process that builds it kept writing.
    """
    for attempt in range(_ATTEMPTS):
        metadata = await read_metadata(session.storage)
        building = metadata.building
        if building is None:
            return None
        dropped = attrs.evolve(building, state="dropped", held_until=None, worker=None, worker_seen_at=None)
        try:
            # Touched, so that writers stop queueing records for it.
            await session.commit([touch_metadata(metadata), record_generation(dropped)])
        except ConflictError:  # the process that builds it writes, too
            if attempt + 1 == _ATTEMPTS:
                raise
            continue
        await session.model.reload()
        await clean_up(session)
        return building
    return None


async def drop_retired(session: DirectSession) -> list[Generation]:
    """Remove the vectors of previous models. Going back to one of them then means embedding everything again.

    Args:
        session: The open database.

    Returns:
        The removed generations.
    """
    metadata = await read_metadata(session.storage)
    retired = [each for each in metadata.generations if each.state == "retired"]
    if retired:
        await session.commit([record_generation(attrs.evolve(each, state="dropped")) for each in retired])
    await clean_up(session)
    return retired


async def clean_up(session: DirectSession) -> None:
    """Remove the tables, index entries and queue of dropped generations; an interrupted clean-up continues next time.

    Args:
        session: The open database.
    """
    metadata = await read_metadata(session.storage)
    present = await session.storage.tables()
    for generation in metadata.generations:
        for table in EMBEDDED if generation.state == "dropped" else ():
            vectors = vector_table(table, generation.number)
            if vectors.name in present:
                await session.vectors.drop(vectors)
                await session.storage.apply_schema(DropTable(vectors))
                await _clear_outbox(session, vectors)
    if metadata.building is None:
        await _clear_queue(session, metadata)


def reusable(metadata: Metadata, signature: Signature) -> Generation | None:
    """Return the retired generation of a model; None if there is none."""
    retired = [each for each in metadata.generations if each.state == "retired" and each.signature == signature]
    return retired[-1] if retired else None


async def _clear_outbox(session: DirectSession, vectors: Table) -> None:
    """Remove pending index updates of a dropped table."""
    while entries := await session.storage.find(OUTBOX, Field("record_table") == vectors.name, limit=_BATCH):
        await session.commit([Delete(OUTBOX, row["id"]) for row in entries])


async def _clear_queue(session: DirectSession, metadata: Metadata) -> None:
    """Empty the queue of a generation that is no longer built."""
    with contextlib.suppress(ConflictError):  # another run has just begun, and the queue belongs to it
        while entries := await session.storage.find(EMBEDDING_QUEUE, limit=_BATCH):
            deletions = [Delete(EMBEDDING_QUEUE, row["id"]) for row in entries]
            await session.commit([generation_guard(metadata), *deletions])
