"""Bring a database's schema from one version to another.

Migrating is: back up what there is, make tables, carry data over, change columns, verify, stamp the version. It can be
killed anywhere and begun again: until the stamp is written, the old version stands, and everything is done once more, to
the same end. On the way down the stamp comes before what was added goes, so that nothing is ever missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from pattern_core.abc import Delete, Signature, Storage, Write
from pattern_core.catalog.metadata import Generation, Metadata, put_generation, read_metadata, stamp
from pattern_core.catalog.tables import GENERATIONS, generation_of, table_named, vectors_of
from pattern_core.errors import AlreadyExistsError, ConflictError, MigrationError
from pattern_core.filters import Field
from pattern_core.schema import EMBEDDED, AlterTable, CreateTable, DropTable

from .backup import back_up
from .lease import under_lease
from .versions import LATEST, MIGRATIONS, Migration, tables_at

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


async def migrate_up(
    storage: Storage, signature: Signature, *, backups: Path | None = None, shared: bool = False
) -> Plan:
    """Bring a database to the latest schema version. Where it is there already, nothing is written.

    Args:
        storage: The database.
        signature: What makes its vectors; recorded the first time.
        backups: The folder that a backup goes into where there is data to lose; None makes none.
        shared: Whether several processes may have the database open. Then one of them migrates, and the others wait.

    Returns:
        What was done.

    Raises:
        MigrationError: The database is newer than this library, or does not verify; or another process migrated it all
            the while.
    """

    async def work() -> Plan:
        return await _migrate(storage, signature, backups, await plan(storage))  # again: others may have been faster

    async def done() -> Plan | None:
        steps = await plan(storage)
        return None if steps.pending else steps

    steps = await plan(storage)
    if not steps.pending or not shared:
        return await _migrate(storage, signature, backups, steps)
    return await under_lease(storage, work, done=done)


async def _migrate(storage: Storage, signature: Signature, backups: Path | None, steps: Plan) -> Plan:
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
    first = await _first_generation(storage, signature)
    for migration in MIGRATIONS:
        await _create(storage, migration, first)
    await _stamp(storage, known, LATEST, also=[put_generation(first)])
    await _sweep(storage)


async def _up(storage: Storage, migration: Migration, known: Metadata) -> None:
    assert known.signature is not None  # noqa: S101 - a database has one from its first version on
    first = await _first_generation(storage, known.signature) if migration.with_vectors else None
    generation = first or known.active or Generation(number=0, signature=known.signature, state="active")
    await _create(storage, migration, generation)
    await migration.carry(storage, known, generation)
    if first is not None:
        await _verify_vectors(storage, known, first)
    for before, after in migration.alters:
        await storage.apply_schema(AlterTable(before, after, known.signature.dimensions))
    if known.active is not None:  # before the stamp, behind which nobody would come back to it
        await _sweep(storage)
    await _stamp(storage, known, migration.version, also=[] if first is None else await _only(storage, first))


async def _first_generation(storage: Storage, signature: Signature) -> Generation:
    """Return a generation under a number that no tables have: others may be left from an attempt that was cut off."""
    taken = [number for name in await storage.tables() if (number := generation_of(name))]
    return Generation(number=max(taken, default=0) + 1, signature=signature, state="active")


async def _only(storage: Storage, first: Generation) -> list[Write]:
    """Return the writes that make a generation the only one: a way down that was cut off leaves others."""
    left = [row["id"] for row in await storage.find(GENERATIONS) if row["number"] != first.number]
    return [put_generation(first), *(Delete(GENERATIONS, id) for id in left)]


async def _sweep(storage: Storage) -> None:
    """Remove the vectors of attempts that were cut off."""
    present = await storage.tables()
    # After the tables: a generation is recorded before it has any.
    known = {each.number for each in (await read_metadata(storage)).generations}
    for name in sorted(present):
        table = table_named(name)
        if table is not None and generation_of(name) not in {0, *known}:
            await storage.apply_schema(DropTable(table))


async def _create(storage: Storage, migration: Migration, generation: Generation) -> None:
    vectors = [vectors_of(table, generation.number) for table in EMBEDDED] if migration.with_vectors else []
    created = [*migration.creates, *vectors]
    for table in created:
        await storage.apply_schema(CreateTable(table, generation.signature.dimensions))
    missing = {table.name for table in created} - await storage.tables()
    if missing:
        raise MigrationError(f"migration {migration.version} did not create {', '.join(sorted(missing))}")


async def _verify_vectors(storage: Storage, known: Metadata, first: Generation) -> None:
    """Refuse to go on where fewer vectors have arrived than there are."""
    for table in EMBEDDED:
        before, vectors = tables_at(known.schema_version)[table.name], vectors_of(table, first.number)
        there = await storage.count(before, ~Field("embedding").is_null())
        if (arrived := await storage.count(vectors)) < there:
            message = (
                f"of {there:,} vectors of {table.name}, {arrived:,} have arrived in {vectors.name}. Open it again."
            )
            raise MigrationError(message)


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


async def migrate_down(storage: Storage, target: int, *, backups: Path | None = None, shared: bool = False) -> Plan:
    """Take a database back to an earlier schema version. What only later versions can hold is lost.

    Args:
        storage: The database.
        target: The version; 0 removes everything but the record of who did so, where several processes may.
        backups: The folder that a backup goes into first; None makes none.
        shared: Whether several processes may have the database open; see `migrate_up`.

    Returns:
        What was done.

    Raises:
        MigrationError: The target is no earlier version, or another process changed the database all the while.
    """

    async def work() -> Plan:
        return await _migrate_down(storage, target, backups)

    return await under_lease(storage, work) if shared else await work()


async def _migrate_down(storage: Storage, target: int, backups: Path | None) -> Plan:
    steps = await plan(storage, target)
    if target >= steps.current:
        raise MigrationError(f"the database has schema version {steps.current}; give an earlier one to go down to")
    if backups is not None:
        await back_up(storage, backups / f"before-down-to-{target}")
    for migration in steps.pending:
        known = await read_metadata(storage)
        if known.active is not None:
            await migration.carry_back(storage, known, known.active)
        if known.signature is not None and migration.version > 1:
            await storage.commit([stamp(known, migration.version - 1, known.signature)])
        for generation in known.generations if migration.with_vectors else ():
            for table in EMBEDDED:
                await storage.apply_schema(DropTable(vectors_of(table, generation.number)))
        # The metadata goes last (it was created first): until then the database is known for what it is.
        for table in reversed(migration.creates):
            await storage.apply_schema(DropTable(table))
    return steps
