"""Bring a database's schema from one version to another.

Every migration is a list of idempotent steps up and a list down. Migrating is: back up what there is, apply the steps,
verify, stamp the version. It can be killed anywhere and begun again: until the stamp is written, the old version
stands, and the steps are repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from pattern_core.abc import Signature, Storage, Write
from pattern_core.errors import AlreadyExistsError, ConflictError, MigrationError
from pattern_core.filters import Field
from pattern_core.metadata import Metadata, put_generation, read_metadata, stamp
from pattern_core.schema import EMBEDDED, AlterTable, CreateTable, DropTable, Table, vectors_of

from .backup import back_up
from .versions import LATEST, MIGRATIONS, Migration, new_generation, tables_at

__all__ = ["LATEST", "MIGRATIONS", "Migration", "Plan", "migrate_down", "migrate_up", "plan"]


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
    if steps.pending and not steps.current:
        await _set_up(storage, signature)
        return steps
    for migration in steps.pending:
        known = await read_metadata(storage)
        if known.schema_version < migration.version:  # else another process was here first
            await _up(storage, migration, known)
    return steps


async def _set_up(storage: Storage, signature: Signature) -> None:
    """Make all tables as they are now: a new database has nothing to carry."""
    await _refuse_records(storage)
    known = Metadata(signature=signature)
    for migration in MIGRATIONS:
        await _create(storage, migration, known)
    await _stamp(storage, known, LATEST, also=[put_generation(new_generation(known))])


async def _up(storage: Storage, migration: Migration, known: Metadata) -> None:
    await _create(storage, migration, known)
    await migration.carry(storage, known)
    if migration.with_vectors:
        await _verify_vectors(storage, known)
    for before, after in migration.alters:
        await storage.apply_schema(AlterTable(before, after, _dimensions(known)))
    also = [put_generation(new_generation(known))] if migration.with_vectors else []
    await _stamp(storage, known, migration.version, also=also)


async def _create(storage: Storage, migration: Migration, known: Metadata) -> None:
    created = [*migration.creates, *(_first_vectors() if migration.with_vectors else ())]
    for table in created:
        await storage.apply_schema(CreateTable(table, _dimensions(known)))
    missing = {table.name for table in created} - await storage.tables()
    if missing:
        raise MigrationError(f"migration {migration.version} did not create {', '.join(sorted(missing))}")


async def _verify_vectors(storage: Storage, known: Metadata) -> None:
    """Refuse to go on where fewer vectors have arrived than there are."""
    for table, vectors in zip(EMBEDDED, _first_vectors(), strict=True):
        before = tables_at(known.schema_version)[table.name]
        there = await storage.count(before, ~Field("embedding").is_null())
        if (arrived := await storage.count(vectors)) < there:
            message = (
                f"of {there:,} vectors of {table.name}, {arrived:,} have arrived in {vectors.name}. Open it again."
            )
            raise MigrationError(message)


def _first_vectors() -> list[Table]:
    return [vectors_of(table, 1) for table in EMBEDDED]


def _dimensions(known: Metadata) -> int:
    return known.signature.dimensions if known.signature else 0


async def _refuse_records(storage: Storage) -> None:
    """Refuse to set up what holds records already: a restore that was cut off must not pass for a whole database."""
    present = await storage.tables()
    for name, table in tables_at(LATEST).items():
        if name in present and (count := await storage.count(table)):
            raise MigrationError(
                f"the database holds {count:,} {name} and was never set up: a restore was probably cut off. Empty it, or "
                f"choose a new one, and restore again."
            )


async def _stamp(storage: Storage, known: Metadata, version: int, *, also: Sequence[Write] = ()) -> None:
    assert known.signature is not None  # noqa: S101 - the caller has seen to it
    try:
        await storage.commit([stamp(known, version, known.signature), *also])
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
        known = await read_metadata(storage)
        for before, after in migration.alters:
            await storage.apply_schema(AlterTable(after, before, _dimensions(known)))
        await migration.carry_back(storage, known)
        if migration.with_vectors:
            for generation in known.generations:
                for table in EMBEDDED:
                    await storage.apply_schema(DropTable(vectors_of(table, generation.number)))
        # The metadata goes last (it was created first): until then the version stands, and the step can be repeated.
        for table in reversed(migration.creates):
            await storage.apply_schema(DropTable(table))
        if known.signature is not None and migration.version > 1:
            await storage.commit([stamp(known, migration.version - 1, known.signature)])
    return steps
