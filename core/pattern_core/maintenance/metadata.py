"""The one record that says what a database is: its schema's version, and what made its vectors."""

from __future__ import annotations

import attrs

from pattern_core.abc import Insert, Patch, Row, Signature, Storage
from pattern_core.clock import utc_now
from pattern_core.errors import MigrationError
from pattern_core.schema import TABLES

__all__ = ["Metadata", "read_metadata", "stamp"]

_TABLE = TABLES["system_metadata"]
_ID = "main"


@attrs.frozen
class Metadata:
    """What a database says of itself.

    Attributes:
        schema_version: The version of its schema; 0 before the first migration.
        signature: What made its vectors; None before the first migration.
        revision: The revision of the record; 0 where there is none.
        identity: What tells this database from all others; empty before the first migration.
    """

    schema_version: int = 0
    signature: Signature | None = None
    revision: int = 0
    identity: str = ""


async def read_metadata(storage: Storage) -> Metadata:
    """Read what a database says of itself.

    Args:
        storage: The database.

    Returns:
        The metadata; that of version 0 where nothing has been set up.
    """
    if _TABLE.name not in await storage.tables():
        return Metadata()
    (row,) = await storage.get(_TABLE, [_ID])
    if row is None:
        return Metadata()
    try:
        signature = Signature.from_json(row["embedding_signature"])
    except (TypeError, ValueError) as error:
        raise MigrationError(
            f"the database's embedding signature cannot be read ({error}); a newer version has probably written it. "
            f"Update: pip install --upgrade pattern-core"
        ) from error
    return Metadata(row["schema_version"], signature, row["revision"], row["created_at"].isoformat())


async def stamp(storage: Storage, known: Metadata, version: int, signature: Signature) -> Metadata:
    """Record a schema version and a signature.

    Args:
        storage: The database.
        known: The metadata as it was read.
        version: The schema's version.
        signature: What makes the vectors.

    Returns:
        The metadata as it is now.

    Raises:
        ConflictError: Another process has stamped the database since.
        AlreadyExistsError: As above, the first time.
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
        await storage.commit([Patch(_TABLE, _ID, row, known.revision)])
    else:
        await storage.commit([Insert(_TABLE, {"id": _ID, "created_at": now, **row})])
    return Metadata(version, signature, known.revision + 1, known.identity or now.isoformat())
