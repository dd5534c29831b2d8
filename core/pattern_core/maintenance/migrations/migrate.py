"""Migrations of a database's schema from one version to another.

A migration makes a backup, creates tables, moves data, changes columns, verifies, and records the new version. It can be
killed at any point and repeated: until the version is recorded, the old version stands, and every step runs once more.
A migration down records the version before it removes anything, so that nothing is ever missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from pattern_core.abc import Delete, Signature, Storage, Write
from pattern_core.catalog.commit_log import FIRST_WITH_LOG, logged
from pattern_core.catalog.metadata import Generation, Metadata, read_metadata, record_generation, record_schema_version
from pattern_core.catalog.tables import GENERATIONS, find_table, generation_number, vector_table
from pattern_core.errors import AlreadyExistsError, ConflictError, MigrationError
from pattern_core.filters import Field
from pattern_core.maintenance.backup import back_up
from pattern_core.plugins.install_hint import upgrade_command
from pattern_core.schema import EMBEDDED, AlterTable, CreateTable, DropTable

from .lease import with_lease
from .versions import LATEST, MIGRATIONS, Migration, tables_at

__all__ = ["LATEST", "MIGRATIONS", "Migration", "MigrationPlan", "migrate_down", "migrate_up", "plan_migration"]


@attrs.frozen
class MigrationPlan:
    """The migrations between a database's schema version and another one.

    Attributes:
        current: The schema version of the database.
        target: The schema version to reach.
        pending: The migrations to apply, in order.
    """

    current: int
    target: int
    pending: tuple[Migration, ...]


async def plan_migration(storage: Storage, target: int = LATEST) -> MigrationPlan:
    """Plan a migration. Nothing is written.

    Args:
        storage: The storage.
        target: The schema version to reach.

    Returns:
        The plan.

    Raises:
        MigrationError: The target is no version, or the database is newer than this library.
    """
    current = (await read_metadata(storage)).schema_version
    if not 0 <= target <= LATEST:
        raise MigrationError(f"there is no schema version {target}. Choose one from 0 (empty) to {LATEST}.")
    if current > LATEST:
        raise MigrationError(
            f"the database has schema version {current}, and this pattern-core supports versions up to {LATEST}. Update "
            f"it: {upgrade_command()}"
        )
    if target >= current:
        return MigrationPlan(current, target, tuple(each for each in MIGRATIONS if current < each.version <= target))
    return MigrationPlan(
        current, target, tuple(each for each in reversed(MIGRATIONS) if target < each.version <= current)
    )


async def migrate_up(
    storage: Storage, signature: Signature, *, backups: Path | None = None, shared: bool = False
) -> MigrationPlan:
    """Migrate a database to the latest schema version. If it is up to date, nothing is written.

    Args:
        storage: The storage.
        signature: The signature of its vectors; recorded the first time.
        backups: The folder for a backup of existing data; None makes no backup.
        shared: Whether several processes may have the database open. Then one of them migrates, and the others wait.

    Returns:
        The migrations that were applied.

    Raises:
        MigrationError: The database is newer than this library, or does not verify; or another process is migrating it
            and did not finish in time.
    """

    async def work() -> MigrationPlan:
        return await _migrate(
            storage, signature, backups, await plan_migration(storage)
        )  # planned again, since another process may have been faster

    async def done() -> MigrationPlan | None:
        steps = await plan_migration(storage)
        return None if steps.pending else steps

    steps = await plan_migration(storage)
    if not steps.pending or not shared:
        return await _migrate(storage, signature, backups, steps)
    return await with_lease(storage, work, done=done)


async def _migrate(storage: Storage, signature: Signature, backups: Path | None, steps: MigrationPlan) -> MigrationPlan:
    if steps.current and steps.pending and backups is not None:
        await back_up(storage, backups / f"before-version-{steps.pending[0].version}")
    if steps.pending and not steps.current:
        await _set_up(storage, signature)
        return steps
    for migration in steps.pending:
        metadata = await read_metadata(storage)
        if metadata.schema_version < migration.version:  # else another process has applied it
            await _up(storage, migration, metadata)
    return steps


async def _set_up(storage: Storage, signature: Signature) -> None:
    """Create all tables of the latest version: a new database has no data to move."""
    await _refuse_records(storage)
    metadata = Metadata(signature=signature)
    first = await _first_generation(storage, signature)
    for migration in MIGRATIONS:
        await _create(storage, migration, first)
    await _record_version(storage, metadata, LATEST, also=[record_generation(first)])
    await _sweep(storage)


async def _up(storage: Storage, migration: Migration, metadata: Metadata) -> None:
    assert metadata.signature is not None  # noqa: S101 - recorded with the first version
    first = await _first_generation(storage, metadata.signature) if migration.with_vectors else None
    generation = first or metadata.active or Generation(number=0, signature=metadata.signature, state="active")
    await _create(storage, migration, generation)
    await migration.upgrade_data(storage, metadata, generation)
    if first is not None:
        await _verify_vectors(storage, metadata, first)
    for before, after in migration.alters:
        await storage.apply_schema(AlterTable(before, after, metadata.signature.dimensions))
    if metadata.active is not None:  # before the version is recorded, since later runs would not sweep
        await _sweep(storage)
    await _record_version(
        storage, metadata, migration.version, also=[] if first is None else await _only(storage, first)
    )


async def _first_generation(storage: Storage, signature: Signature) -> Generation:
    """Return a generation with an unused number, since an interrupted attempt may have left tables."""
    taken = [number for name in await storage.tables() if (number := generation_number(name))]
    return Generation(number=max(taken, default=0) + 1, signature=signature, state="active")


async def _only(storage: Storage, first: Generation) -> list[Write]:
    """Return the writes that make a generation the only one; an interrupted migration down may have left others."""
    left = [row["id"] for row in await storage.find(GENERATIONS) if row["number"] != first.number]
    return [record_generation(first), *(Delete(GENERATIONS, id) for id in left)]


async def _sweep(storage: Storage) -> None:
    """Drop the vector tables of interrupted attempts."""
    present = await storage.tables()
    # Read after the tables, since a generation is recorded before it has tables.
    metadata = {each.number for each in (await read_metadata(storage)).generations}
    for name in sorted(present):
        table = find_table(name)
        if table is not None and generation_number(name) not in {0, *metadata}:
            await storage.apply_schema(DropTable(table))


async def _create(storage: Storage, migration: Migration, generation: Generation) -> None:
    vectors = [vector_table(table, generation.number) for table in EMBEDDED] if migration.with_vectors else []
    created = [*migration.creates, *vectors]
    for table in created:
        await storage.apply_schema(CreateTable(table, generation.signature.dimensions))
    missing = {table.name for table in created} - await storage.tables()
    if missing:
        raise MigrationError(f"migration {migration.version} did not create {', '.join(sorted(missing))}")


async def _verify_vectors(storage: Storage, metadata: Metadata, first: Generation) -> None:
    """Raise `MigrationError` unless all vectors were copied."""
    for table in EMBEDDED:
        before, vectors = tables_at(metadata.schema_version)[table.name], vector_table(table, first.number)
        there = await storage.count(before, ~Field("embedding").is_null())
        if (arrived := await storage.count(vectors)) < there:
            message = f"only {arrived:,} of {there:,} vectors of {table.name} were copied. Open the database again."
            raise MigrationError(message)


async def _refuse_records(storage: Storage) -> None:
    """Raise `MigrationError` if there are records, since an interrupted restore must not pass for a whole database."""
    present = await storage.tables()
    for name, table in tables_at(LATEST).items():
        if name in present and (count := await storage.count(table)):
            raise MigrationError(
                f"the database holds {count:,} {name}, but was never set up: a restore was probably interrupted. Restore "
                f"again into an empty database."
            )


async def _record_version(storage: Storage, metadata: Metadata, version: int, *, also: Sequence[Write] = ()) -> None:
    assert metadata.signature is not None  # noqa: S101 - every caller has one
    writes: list[Write] = [record_schema_version(metadata, version, metadata.signature), *also]
    try:
        await storage.commit(logged(writes, storage.writer) if version >= FIRST_WITH_LOG else writes)
    except (AlreadyExistsError, ConflictError):
        if (await read_metadata(storage)).schema_version < version:
            raise


async def migrate_down(
    storage: Storage, target: int, *, backups: Path | None = None, shared: bool = False
) -> MigrationPlan:
    """Migrate a database down to an earlier schema version. Data that only later versions can hold is lost.

    Args:
        storage: The storage.
        target: The schema version to reach; 0 removes everything (a shared database keeps its table of leases).
        backups: The folder for a backup; None makes no backup.
        shared: Whether several processes may have the database open; see `migrate_up`.

    Returns:
        The migrations that were reverted.

    Raises:
        MigrationError: The target is not an earlier version; or another process is migrating the database and did not
            finish in time.
    """

    async def work() -> MigrationPlan:
        return await _migrate_down(storage, target, backups)

    return await with_lease(storage, work) if shared else await work()


async def _migrate_down(storage: Storage, target: int, backups: Path | None) -> MigrationPlan:
    steps = await plan_migration(storage, target)
    if target >= steps.current:
        raise MigrationError(
            f"the database has schema version {steps.current}. Choose an earlier one to migrate down to."
        )
    if backups is not None:
        await back_up(storage, backups / f"before-down-to-{target}")
    for migration in steps.pending:
        metadata = await read_metadata(storage)
        if metadata.active is not None:
            await migration.downgrade_data(storage, metadata, metadata.active)
        if metadata.signature is not None and migration.version > 1:
            await storage.commit([record_schema_version(metadata, migration.version - 1, metadata.signature)])
        for generation in metadata.generations if migration.with_vectors else ():
            for table in EMBEDDED:
                await storage.apply_schema(DropTable(vector_table(table, generation.number)))
        # In reverse, so that the metadata goes last: until then, the database tells its version.
        for table in reversed(migration.creates):
            await storage.apply_schema(DropTable(table))
    return steps
