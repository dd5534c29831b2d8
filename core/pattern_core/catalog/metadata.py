"""Database metadata: the schema version, the embedding signature and the generations of vectors.

The vectors that one model makes are a generation: tables of their own, with a number that is never used again. One
generation is active: searches use it, and every write updates it. To change the model, another generation is built
beside it and then becomes active (`pattern_core.maintenance.reembedding`).

The one record of ``system_metadata`` gets a new revision at each of these changes. Every commit that writes vectors
checks the revision that its session knows (`generation_guard`), so nobody can write to a generation that is no longer
active. Changes that do not concern writers, such as the progress of a build, leave that revision alone.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import attrs

from pattern_core.abc import Check, IndexSpec, Insert, Patch, Put, Row, Signature, Storage
from pattern_core.errors import MigrationError, StorageError
from pattern_core.plugins.install_hint import upgrade_command
from pattern_core.schema import EMBEDDED, TABLES
from pattern_core.support.clock import utc_now

from .tables import GENERATIONS, vector_table

__all__ = [
    "FIRST_WITH_GENERATIONS",
    "SCHEMA_VERSION",
    "Generation",
    "Metadata",
    "generation_guard",
    "index_specs",
    "read_metadata",
    "read_revision",
    "record_generation",
    "record_schema_version",
    "touch_metadata",
]

SCHEMA_VERSION: Final = 5
"""The schema version that this library reads and writes."""
FIRST_WITH_GENERATIONS: Final = 3
"""The first schema version with vectors in tables of their own."""

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
    """The vectors of all records, made by one model.

    Attributes:
        number: Its number, from 1.
        signature: The signature of the model.
        state: ``active``, ``building``, ``retired`` (was active, and is kept) or ``dropped`` (is being removed).
        has_chunks: Whether a record may have several vectors. While none has, reads skip the chunks.
        index: The location of the external index that receives all changes; empty if there is none.
        index_since: A unique text for the period in which that index receives all changes.
        held_until: Until when other writers wait, so that a build can finish; None if they do not.
        worker: The process that builds the generation; None if none does.
        worker_seen_at: When that process last reported.
        revision: The revision of its record; 0 before it is written.
        created_at: When the build began.
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
    """The metadata of a database.

    Attributes:
        schema_version: The schema version; 0 before the first migration.
        signature: The signature of the active generation; None before the first migration.
        revision: The revision of the record; 0 before it is written.
        identity: A text that no other database has; empty before the first migration.
        generations: The generations of vectors, oldest first.
    """

    schema_version: int = 0
    signature: Signature | None = None
    revision: int = 0
    identity: str = ""
    generations: tuple[Generation, ...] = ()

    @property
    def active(self) -> Generation | None:
        """The active generation; None before there are any."""
        return self._in("active")

    @property
    def in_use(self) -> Generation:
        """The active generation; raises `StorageError` before there is one."""
        if self.active is None:
            raise StorageError("the database is not set up yet. Open it with pattern_core.open(…).")
        return self.active

    @property
    def building(self) -> Generation | None:
        """The generation that is being built; None if there is none."""
        return self._in("building")

    def _in(self, state: str) -> Generation | None:
        return next((each for each in self.generations if each.state == state), None)


async def read_metadata(storage: Storage) -> Metadata:
    """Read the metadata of a database.

    Args:
        storage: The storage.

    Returns:
        The metadata; that of version 0 if the database is not set up.

    Raises:
        MigrationError: A newer version of this library wrote the metadata, and this one cannot read it.
    """
    tables = await storage.tables()
    if _TABLE.name not in tables:
        return Metadata()
    # This record first: if something changes in between, its revision is outdated, and the guard fails.
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
    """Read only the revision of the metadata, with a single lookup; 0 if the database is not set up."""
    (row,) = await storage.get(_TABLE, [_ID])
    return 0 if row is None else int(row["revision"])


def generation_guard(metadata: Metadata) -> Check:
    """Return the check that the generations have not changed since the metadata was read."""
    return Check(_TABLE, _ID, metadata.revision)


def record_generation(generation: Generation) -> Put | Patch:
    """Return the write that records a generation. A recorded one must be as it was read."""
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


def record_schema_version(metadata: Metadata, version: int, signature: Signature) -> Insert | Patch:
    """Return the write that records a schema version and the signature of the active generation.

    It fails if another process has written the metadata
    since it was read: with `ConflictError`, or with `AlreadyExistsError` the first time.

    Args:
        metadata: The metadata as it was read.
        version: The schema version.
        signature: The signature of the active generation.

    Returns:
        The write.
    """
    now = utc_now()
    row: Row = {
        "revision": metadata.revision + 1,
        "updated_at": now,
        "embedding_model": signature.model,
        "embedding_dimensions": signature.dimensions,
        "embedding_signature": signature.to_json(),
        "schema_version": version,
    }
    if metadata.revision:
        return Patch(_TABLE, _ID, row, metadata.revision)
    return Insert(_TABLE, {"id": _ID, "created_at": now, **row})


def touch_metadata(metadata: Metadata) -> Insert | Patch:
    """Return the write that gives the metadata a new revision, so that all sessions read it again before they write."""
    return record_schema_version(metadata, metadata.schema_version, metadata.in_use.signature)


def index_specs(metadata: Metadata, metric: str, generation: Generation | None = None) -> list[IndexSpec]:
    """Return the specs of the indexes of a generation.

    Args:
        metadata: The database metadata.
        metric: The metric of the vector search.
        generation: The generation; None for the active one.

    Returns:
        One spec for each table of vectors.

    Raises:
        StorageError: The database is not set up.
    """
    chosen = generation or metadata.in_use
    tables = (vector_table(table, chosen.number) for table in EMBEDDED)
    database = f"{metadata.identity} {metadata.in_use.index_since}".rstrip()
    return [IndexSpec(table, chosen.signature.dimensions, metric, database) for table in tables]


def _signature(text: str) -> Signature:
    try:
        return Signature.from_json(text)
    except (TypeError, ValueError) as error:
        raise MigrationError(
            f"the database's embedding signature cannot be read ({error}); a newer version has probably written it. "
            f"Update pattern-core: {upgrade_command()}"
        ) from error


def _generation(row: Row) -> Generation:
    return Generation(**{name: row[name] for name in _COLUMNS}, signature=_signature(row["signature"]))
