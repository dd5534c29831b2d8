"""``pattern migrate``: the schema version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pattern_core.cli.commands import Settings, VerbGroup
from pattern_core.cli.database import use_database, use_storage
from pattern_core.cli.options import confirm, yes_option
from pattern_core.cli.output import Column, note, print_done, print_json, print_table

if TYPE_CHECKING:
    from pattern_core.abc import Storage
    from pattern_core.config import Config
    from pattern_core.database import Database
    from pattern_core.maintenance.migrations.migrate import MigrationPlan

__all__ = ["migrate"]


@click.group(
    cls=VerbGroup,
    examples="""
        pattern migrate status
        pattern migrate plan --to 0
        pattern migrate up
    """,
)
def migrate() -> None:
    """Change the schema version of the database.

    Every use of a database migrates it to the latest version. These verbs show that, do it separately, or go back.
    """


@migrate.command("status", examples="pattern migrate status")
@click.pass_obj
def status(settings: Settings) -> None:
    """Show the schema version of the database, and the latest one."""
    found = _plan(settings, None)
    message = f"Schema version {found.current} of {found.target}: {len(found.pending)} to apply."
    data = {"current": found.current, "latest": found.target, "pending": len(found.pending)}
    print_done(settings, message, data)


@migrate.command("plan", examples="pattern migrate plan\npattern migrate plan --to 0")
@click.option("--to", "target", type=click.IntRange(min=0), help="The version to reach. [default: the latest]")
@click.pass_obj
def plan(settings: Settings, target: int | None) -> None:
    """Show the migrations that would be applied. Nothing is changed."""
    found = _plan(settings, target)
    if settings.json:
        print_json(_data(found))
        return
    if not found.pending:
        note(f"Nothing to do: the database has schema version {found.current}.")
        return
    direction = "up" if found.target > found.current else "down"
    columns = [Column("version", number=True), Column("direction"), Column("summary", share=1, lines=3)]
    print_table(columns, [[str(each.version), direction, each.summary] for each in found.pending])


@migrate.command("up", examples="pattern migrate up")
@click.pass_obj
def up(settings: Settings) -> None:
    """Migrate to the latest version."""

    async def opened(_: Database) -> None:
        """Do nothing: opening has migrated."""

    found = _plan(settings, None)
    use_database(settings, opened)
    message = f"The database has schema version {found.target}; {len(found.pending)} migrations were applied."
    print_done(settings, message, _data(found))


@migrate.command("down", examples="pattern migrate down --to 0 --yes")
@click.option("--to", "target", type=click.IntRange(min=0), required=True, help="The version; 0 removes everything.")
@yes_option
@click.pass_obj
def down(settings: Settings, target: int, yes: bool) -> None:  # noqa: FBT001 - an option of the command line
    """Migrate down to an earlier version.

    Data that only later versions can hold are lost. A backup is written first, into the folder pattern-backups beside the
    configuration. The next use of the database migrates it up again.
    """
    from pattern_core.assembly.wiring import is_shared
    from pattern_core.maintenance.migrations.migrate import migrate_down

    async def work(storage: Storage, config: Config) -> MigrationPlan:
        backups = config.base / "pattern-backups"
        return await migrate_down(storage, target, backups=backups, shared=is_shared(config))

    planned = _plan(settings, target)
    if not yes and target < planned.current:
        confirm(f"Migrate from version {planned.current} down to {target}, and lose what only later versions hold?")
    done = use_storage(settings, work)
    message = f"The database has schema version {done.target}. A backup is in the folder pattern-backups."
    print_done(settings, message, _data(done))


def _plan(settings: Settings, target: int | None) -> MigrationPlan:
    from pattern_core.maintenance.migrations.migrate import LATEST, plan_migration

    async def work(storage: Storage, _: Config) -> MigrationPlan:
        return await plan_migration(storage, LATEST if target is None else target)

    return use_storage(settings, work)


def _data(found: MigrationPlan) -> dict[str, object]:
    migrations = [{"version": each.version, "summary": each.summary} for each in found.pending]
    return {"current": found.current, "target": found.target, "migrations": migrations}
