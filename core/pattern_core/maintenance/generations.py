"""Generations of vectors that are no longer wanted: half-made ones, and those of models that were in use before."""

from __future__ import annotations

import contextlib
from typing import Final

import attrs

from pattern_core.abc import Delete, Signature
from pattern_core.catalog.metadata import Generation, Metadata, fence, put_generation, read_metadata, stamp
from pattern_core.catalog.tables import OUTBOX, UNEMBEDDED, vectors_of
from pattern_core.errors import ConflictError
from pattern_core.filters import Field
from pattern_core.schema import EMBEDDED, DropTable, Table
from pattern_core.sessions.direct import Direct

__all__ = ["abandon", "clean_up", "drop_retired", "reusable"]

_BATCH: Final = 500
_ATTEMPTS: Final = 100


async def abandon(session: Direct) -> Generation | None:
    """Give up a generation that is half made, and remove its vectors. Searches are not touched.

    Args:
        session: The open database.

    Returns:
        The generation; None where none was in the making.

    Raises:
        ConflictError: Who makes it wrote all the while.
    """
    for attempt in range(_ATTEMPTS):
        known = await read_metadata(session.storage)
        building = known.building
        if building is None:
            return None
        dropped = attrs.evolve(building, state="dropped", held_until=None, worker=None, worker_seen_at=None)
        try:
            # With the stamp: who writes need not note any more what it lacks.
            again = stamp(known, known.schema_version, known.in_use.signature)
            await session.commit([again, put_generation(dropped)])
        except ConflictError:  # its maker, if there is one, writes, too
            if attempt + 1 == _ATTEMPTS:
                raise
            continue
        await session.reload()
        await clean_up(session)
        return building
    return None


async def drop_retired(session: Direct) -> list[Generation]:
    """Remove the vectors of models that were in use before. There is no way back to them then but embedding again.

    Args:
        session: The open database.

    Returns:
        The generations that were removed.
    """
    known = await read_metadata(session.storage)
    retired = [each for each in known.generations if each.state == "retired"]
    if retired:
        await session.commit([put_generation(attrs.evolve(each, state="dropped")) for each in retired])
    await clean_up(session)
    return retired


async def clean_up(session: Direct) -> None:
    """Remove what dropped generations have left; what is left when this is cut off is removed the next time.

    Args:
        session: The open database.
    """
    known = await read_metadata(session.storage)
    present = await session.storage.tables()
    for generation in known.generations:
        for table in EMBEDDED if generation.state == "dropped" else ():
            vectors = vectors_of(table, generation.number)
            if vectors.name in present:
                await session.vectors.drop(vectors)
                await session.storage.apply_schema(DropTable(vectors))
                await _forget(session, vectors)
    if known.building is None:
        await _empty_queue(session, known)


async def _forget(session: Direct, vectors: Table) -> None:
    """Remove what the outbox says of vectors that are gone."""
    while entries := await session.storage.find(OUTBOX, Field("record_table") == vectors.name, limit=_BATCH):
        await session.commit([Delete(OUTBOX, row["id"]) for row in entries])


async def _empty_queue(session: Direct, known: Metadata) -> None:
    """Forget which records lack vectors in a generation that is not made any more."""
    with contextlib.suppress(ConflictError):  # another one has just been begun, and the queue is its own
        while entries := await session.storage.find(UNEMBEDDED, limit=_BATCH):
            await session.commit([fence(known), *(Delete(UNEMBEDDED, row["id"]) for row in entries)])


def reusable(known: Metadata, signature: Signature) -> Generation | None:
    """Return the vectors that a model has made before and that are still there; None where there are none."""
    retired = [each for each in known.generations if each.state == "retired" and each.signature == signature]
    return retired[-1] if retired else None
