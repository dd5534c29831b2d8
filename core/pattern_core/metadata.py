"""What a database says of itself: its schema's version, and which generations of vectors it has.

Vectors are made by one model and kept as a generation: in tables of their own, with a number that is never used again.
One generation is active: it is searched, and every write keeps it up. To change the model, another one is built beside
it, and then takes its place (`pattern_core.maintenance.reembed`). Whenever that changes, so does the revision of the
one record of ``system_metadata``; and every commit that writes vectors demands the revision that it knows (`fence`). So
nobody can add to a generation that is no longer active.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import attrs

from .abc import Check, Insert, Patch, Put, Row, Signature, Storage
from .clock import utc_now
from .errors import MigrationError
from .schema import GENERATIONS, TABLES

__all__ = ["FIRST_WITH_GENERATIONS", "Generation", "Metadata", "fence", "put_generation", "read_metadata", "stamp"]

FIRST_WITH_GENERATIONS: Final = 3
"""The schema version from which on vectors have tables of their own."""

_COLUMNS: Final = (
    "number",
    "state",
    "has_chunks",
    "index",
    "index_since",
    "worker",
    "worker_seen_at",
    "revision",
    "created_at",
)
_TABLE: Final = TABLES["system_metadata"]
_ID: Final = "main"


@attrs.frozen(kw_only=True)
class Generation:
    """Vectors of all records, made by one model.

    Attributes:
        number: Its number, from 1.
        signature: What makes its vectors.
        state: ``active``, ``building``, ``retired`` (was active, and is kept), or ``dropped`` (is being removed).
        has_chunks: Whether a record may have several vectors; as long as none has, nobody need look.
        index: The place of the external index that is told of all changes; empty where there is none.
        index_since: What tells the time since that is so from all others.
        worker: Who builds it, if somebody does.
        worker_seen_at: When that one last said that it was at it.
        revision: The revision of its record; 0 where there is none yet.
        created_at: When it was begun.
    """

    number: int
    signature: Signature
    state: str
    has_chunks: bool = False
    index: str = ""
    index_since: str = ""
    worker: str | None = None
    worker_seen_at: datetime | None = None
    revision: int = 0
    created_at: datetime = attrs.field(factory=utc_now)


@attrs.frozen(kw_only=True)
class Metadata:
    """What a database says of itself.

    Attributes:
        schema_version: The version of its schema; 0 before the first migration.
        signature: What made the vectors that are searched; None before the first migration.
        revision: The revision of the record; 0 where there is none.
        identity: What tells this database from all others; empty before the first migration.
        generations: Its generations of vectors, the oldest first.
    """

    schema_version: int = 0
    signature: Signature | None = None
    revision: int = 0
    identity: str = ""
    generations: tuple[Generation, ...] = ()

    @property
    def active(self) -> Generation | None:
        """The generation that is searched; None before there are any."""
        return self._in("active")

    @property
    def building(self) -> Generation | None:
        """The generation that is in the making, if one is."""
        return self._in("building")

    def _in(self, state: str) -> Generation | None:
        return next((each for each in self.generations if each.state == state), None)


async def read_metadata(storage: Storage) -> Metadata:
    """Read what a database says of itself.

    Args:
        storage: The database.

    Returns:
        The metadata; that of version 0 where nothing has been set up.

    Raises:
        MigrationError: It was written by a newer version, and cannot be read.
    """
    tables = await storage.tables()
    if _TABLE.name not in tables:
        return Metadata()
    # The one record first: where something changes in between, its revision is the old one, and the fence holds.
    (row,) = await storage.get(_TABLE, [_ID])
    if row is None:
        return Metadata()
    found = []
    if row["schema_version"] >= FIRST_WITH_GENERATIONS and GENERATIONS.name in tables:
        found = await storage.find(GENERATIONS)
    return Metadata(
        schema_version=row["schema_version"],
        signature=_signature(row["embedding_signature"]),
        revision=row["revision"],
        identity=row["created_at"].isoformat(),
        generations=tuple(sorted(map(_generation, found), key=lambda each: each.number)),
    )


def _signature(text: str) -> Signature:
    try:
        return Signature.from_json(text)
    except (TypeError, ValueError) as error:
        raise MigrationError(
            f"the database's embedding signature cannot be read ({error}); a newer version has probably written it. "
            f"Update: pip install --upgrade pattern-core"
        ) from error


def _generation(row: Row) -> Generation:
    return Generation(**{name: row[name] for name in _COLUMNS}, signature=_signature(row["signature"]))


def fence(known: Metadata) -> Check:
    """Return the check that nothing has changed in what is known of the generations."""
    return Check(_TABLE, _ID, known.revision)


def put_generation(generation: Generation) -> Put | Patch:
    """Return the write that records a generation; a known one has to be as it was read."""
    row: Row = {
        "revision": generation.revision + 1,
        "updated_at": utc_now(),
        "number": generation.number,
        "signature": generation.signature.to_json(),
        "state": generation.state,
        "has_chunks": generation.has_chunks,
        "index": generation.index,
        "index_since": generation.index_since,
        "worker": generation.worker,
        "worker_seen_at": generation.worker_seen_at,
    }
    id = str(generation.number)
    if generation.revision:
        return Patch(GENERATIONS, id, row, generation.revision)
    return Put(GENERATIONS, {"id": id, "created_at": generation.created_at, **row})


def stamp(known: Metadata, version: int, signature: Signature) -> Insert | Patch:
    """Return the write that records a schema version, and what makes the vectors that are searched.

    It fails where somebody else has written it since: with `ConflictError`, or `AlreadyExistsError` the first time.

    Args:
        known: The metadata as it was read.
        version: The schema's version.
        signature: What makes the vectors.
    """
    now = utc_now()
    row: Row = {
        "revision": known.revision + 1,
        "updated_at": now,
        "embedding_model": signature.model,
        "embedding_dimensions": signature.dimensions,
        "embedding_signature": signature.to_json(),
        "schema_version": version,
    }
    if known.revision:
        return Patch(_TABLE, _ID, row, known.revision)
    return Insert(_TABLE, {"id": _ID, "created_at": now, **row})
