"""Bring a database's schema from one version to another.

Every migration is a list of idempotent steps up and a list down. Migrating is: back up what there is, apply the steps,
verify, stamp the version. It can be killed anywhere and begun again: until the stamp is written, the old version
stands, and the steps are repeated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs

from pattern_core.abc import Signature, Storage
from pattern_core.errors import AlreadyExistsError, ConflictError, MigrationError
from pattern_core.schema import OUTBOX, TABLES, CreateTable, DropTable, Table

from .backup import back_up
from .metadata import Metadata, read_metadata, stamp

__all__ = ["LATEST", "MIGRATIONS", "Migration", "Plan", "migrate_down", "migrate_up", "plan"]


@attrs.frozen
class Migration:
    """A step from one schema version to the next.

    Attributes:
        version: The version that it leads to.
        summary: What it does, in a few words.
        creates: The tables that it adds, in order.
    """

    version: int
    summary: str
    creates: tuple[Table, ...] = ()


MIGRATIONS: Final = (
    Migration(
        1,
        "create the tables of users, agents, memories, conversations, messages, tool calls and tasks",
        creates=tuple(TABLES.values()),
    ),
    Migration(2, "create the outbox of external vector indexes", creates=(OUTBOX,)),
)
LATEST: Final = MIGRATIONS[-1].version


@attrs.frozen
class Plan:
    """What lies between a database and a version.

    Attributes:
        current: The database's version.
        target: The version to reach.
        pending: The migrations to apply, in the order of application.
    """

    current: int
    target: int
    pending: tuple[Migration, ...]


async def plan(storage: Storage, target: int = LATEST) -> Plan:
    """Say what migrating would do. Nothing is written.

    Args:
        storage: The database.
        target: The version to reach.

    Returns:
        The plan.

    Raises:
        MigrationError: The target is no version, or the database is newer than this library.
    """
    current = (await read_metadata(storage)).schema_version
    if not 0 <= target <= LATEST:
        raise MigrationError(f"there is no schema version {target}; the versions are 0 (empty) to {LATEST}")
    if current > LATEST:
        raise MigrationError(
            f"the database has schema version {current} and this library knows versions up to {LATEST}. Update it: "
            f"pip install --upgrade pattern-core"
        )
    if target >= current:
        return Plan(current, target, tuple(each for each in MIGRATIONS if current < each.version <= target))
    return Plan(current, target, tuple(each for each in reversed(MIGRATIONS) if target < each.version <= current))


async def migrate_up(storage: Storage, signature: Signature, *, backups: Path | None = None) -> Plan:
    """Bring a database to the latest schema version. Where it is there already, nothing is written.

    Args:
        storage: The database.
        signature: What makes its vectors; recorded the first time.
        backups: The folder that a backup goes into where there is data to lose; None makes none.

    Returns:
        What was done.

    Raises:
        MigrationError: The database is newer than this library, or does not verify.
    """
    steps = await plan(storage)
    if steps.current and steps.pending and backups is not None:
        await back_up(storage, backups / f"before-version-{steps.pending[0].version}")
    for migration in steps.pending:
        known = await read_metadata(storage)
        if known.schema_version >= migration.version:
            continue  # another process was here first
        if not known.schema_version:
            await _refuse_records(storage)
        for table in migration.creates:
            await storage.apply_schema(CreateTable(table, signature.dimensions))
        missing = {table.name for table in migration.creates} - await storage.tables()
        if missing:
            raise MigrationError(f"migration {migration.version} did not create {', '.join(sorted(missing))}")
        await _stamp(storage, known, migration.version, known.signature or signature)
    return steps


async def _refuse_records(storage: Storage) -> None:
    """Refuse to set up what holds records already: a restore that was cut off must not pass for a whole database."""
    present = await storage.tables()
    for name, table in TABLES.items():
        if name in present and (count := await storage.count(table)):
            raise MigrationError(
                f"the database holds {count:,} {name} and was never set up: a restore was probably cut off. Empty it, or "
                f"choose a new one, and restore again."
            )


async def _stamp(storage: Storage, known: Metadata, version: int, signature: Signature) -> None:
    try:
        await stamp(storage, known, version, signature)
    except (AlreadyExistsError, ConflictError):
        if (await read_metadata(storage)).schema_version < version:
            raise


async def migrate_down(storage: Storage, target: int, *, backups: Path | None = None) -> Plan:
    """Take a database back to an earlier schema version. What only later versions can hold is lost.

    Args:
        storage: The database.
        target: The version; 0 removes everything.
        backups: The folder that a backup goes into first; None makes none.

    Returns:
        What was done.

    Raises:
        MigrationError: The target is no earlier version.
    """
    steps = await plan(storage, target)
    if target >= steps.current:
        raise MigrationError(f"the database has schema version {steps.current}; give an earlier one to go down to")
    if backups is not None:
        await back_up(storage, backups / f"before-down-to-{target}")
    for migration in steps.pending:
        # The metadata goes last (it was created first): until then the version stands, and the step can be repeated.
        for table in reversed(migration.creates):
            await storage.apply_schema(DropTable(table))
        known = await read_metadata(storage)
        if known.signature is not None:
            await stamp(storage, known, migration.version - 1, known.signature)
    return steps
