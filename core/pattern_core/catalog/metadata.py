"""What a database says of itself: its schema's version, and which generations of vectors it has.

Vectors are made by one model and kept as a generation: in tables of their own, with a number that is never used again.
One generation is active: it is searched, and every write keeps it up. To change the model, another one is built beside
it, and then takes its place (`pattern_core.maintenance.reembed`). Whenever that changes, so does the revision of the
one record of ``system_metadata``; and every commit that writes vectors demands the revision that it knows (`fence`). So
nobody can add to a generation that is no longer active. (What is done to a generation that is no longer in use, or its
builder says of itself, concerns nobody who writes, and changes no revision but its own.)
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import attrs

from pattern_core.abc import Check, IndexSpec, Insert, Patch, Put, Row, Signature, Storage
from pattern_core.errors import MigrationError, StorageError
from pattern_core.schema import EMBEDDED, TABLES
from pattern_core.support.clock import utc_now

from .tables import GENERATIONS, vectors_of

__all__ = [
    "FIRST_WITH_GENERATIONS",
    "Generation",
    "Metadata",
    "fence",
    "put_generation",
    "read_metadata",
    "read_revision",
    "specs_of",
    "stamp",
]

FIRST_WITH_GENERATIONS: Final = 3
"""The schema version from which on vectors have tables of their own."""

_COLUMNS: Final = (
    "number",
    "state",
    "has_chunks",
    "index",
    "index_since",
    "held_until",
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
        held_until: Until when others are to wait with their writes, so that its builder can finish.
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
    held_until: datetime | None = None
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
    def in_use(self) -> Generation:
        """The generation that is searched; raises `StorageError` before there is one."""
        if self.active is None:
            raise StorageError(
                "the database is not set up yet, so it has no vectors. Open it with pattern_core.open(…)."
            )
        return self.active

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


async def read_revision(storage: Storage) -> int:
    """Read just the revision of what a database says of itself; 0 where it was never set up. It costs one look."""
    (row,) = await storage.get(_TABLE, [_ID])
    return 0 if row is None else int(row["revision"])


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
        "held_until": generation.held_until,
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


def specs_of(known: Metadata, metric: str, generation: Generation | None = None) -> list[IndexSpec]:
    """Return the indexes of a generation of vectors.

    Args:
        known: What the database says of itself.
        metric: How vectors are compared.
        generation: The generation; None for the one that is searched.

    Returns:
        For each table of vectors, what its index is for.

    Raises:
        StorageError: The database was never set up.
    """
    chosen = generation or known.in_use
    tables = (vectors_of(table, chosen.number) for table in EMBEDDED)
    database = f"{known.identity} {known.in_use.index_since}".rstrip()
    return [IndexSpec(table, chosen.signature.dimensions, metric, database) for table in tables]
