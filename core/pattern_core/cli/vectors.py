"""``pattern vectors`` and ``pattern maintain``: the upkeep of what can be made again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .base import Settings, Verb, VerbGroup
from .database import use_database
from .output import Column, note, print_fields, print_json, print_table
from .progress import progress

if TYPE_CHECKING:
    from pattern_core.database import Database
    from pattern_core.maintenance.indexes import IndexReport, IndexStatus
    from pattern_core.schema import Table

__all__ = ["maintain", "vectors"]


@click.group(
    cls=VerbGroup,
    examples="""
        pattern vectors status
        pattern vectors verify
        pattern vectors rebuild memory_blocks
    """,
)
def vectors() -> None:
    """The vector indexes: whether they agree with the records, and making them anew.

    An index holds nothing of its own: it can always be made again from the records.
    """


def _tables() -> list[Table]:
    from pattern_core.schema import TABLES

    return [table for table in TABLES.values() if table.vector is not None]


def _chosen(names: tuple[str, ...]) -> list[Table]:
    from pattern_core.errors import nearest

    tables = {table.name: table for table in _tables()}
    for name in names:
        if name not in tables:
            raise click.UsageError(f"There is no table {name!r} with vectors. {nearest(name, tables)}")
    return [table for name, table in tables.items() if name in names or not names]


@vectors.command("status", examples="pattern vectors status\npattern vectors status --json")
@click.pass_context
def status(context: click.Context) -> None:
    """Show how many vectors each index holds, and how many changes it has yet to learn of.

    The exit code is 1 where an index does not agree with the records.
    """
    from pattern_core.maintenance.indexes import index_status

    settings: Settings = context.obj

    async def work(db: Database) -> tuple[list[IndexStatus], Any]:
        found = [await index_status(db.storage, db.vectors, table) for table in _tables()]
        return found, await db.vectors.health()

    found, health = use_database(settings, work)
    if settings.json:
        print_json(
            {
                "engine": health.engine,
                "details": dict(health.details),
                "items": [{"ok": each.ok, **_fields(each)} for each in found],
            }
        )
    else:
        columns = [Column("table"), *(Column(title, number=True) for title in ("records", "indexed", "pending"))]
        rows = [
            [
                each.table,
                f"{each.records:,}",
                "none" if each.indexed is None else f"{each.indexed:,}",
                f"{each.pending:,}",
            ]
            for each in found
        ]
        print_table(columns, rows)
        details = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in health.details.items())
        note(f"{health.engine}{': ' if details else ''}{details}")
    context.exit(int(not all(each.ok for each in found)))


@vectors.command("verify", examples="pattern vectors verify\npattern vectors verify memory_blocks")
@click.argument("table", nargs=-1)
@click.pass_context
def verify(context: click.Context, table: tuple[str, ...]) -> None:
    """Look for every record by its own vector; of each TABLE, or of all.

    The exit code is 1 where an index does not agree with the records.
    """
    from pattern_core.maintenance.indexes import index_specs, index_status, verify_index

    settings: Settings = context.obj
    chosen = _chosen(table)

    async def work(db: Database) -> list[IndexReport]:
        specs = [spec for spec in await index_specs(db.storage, db.config.metric) if spec.table in chosen]
        reports = []
        for spec in specs:
            total = (await index_status(db.storage, db.vectors, spec.table)).records
            with progress(settings, f"Comparing {spec.table.name}", total) as advance:
                reports.append(await verify_index(db.storage, db.vectors, spec, advance))
        return reports

    reports = use_database(settings, work)
    if settings.json:
        print_json({"items": [{"ok": each.ok, **_fields(each)} for each in reports]})
    else:
        columns = [Column("table"), *(Column(title, number=True) for title in ("checked", "wrong", "surplus"))]
        rows = [[each.table, f"{each.checked:,}", f"{each.wrong:,}", f"{each.surplus:,}"] for each in reports]
        print_table(columns, rows)
        for each in reports:
            if not each.ok:
                examples = f" Wrong are, among others: {', '.join(each.examples)}." if each.examples else ""
                note(f"Make it anew: pattern vectors rebuild {each.table}.{examples}")
    context.exit(int(not all(each.ok for each in reports)))


@vectors.command("rebuild", examples="pattern vectors rebuild\npattern vectors rebuild memory_blocks")
@click.argument("table", nargs=-1)
@click.pass_obj
def rebuild(settings: Settings, table: tuple[str, ...]) -> None:
    """Make indexes anew from the records; of each TABLE, or all.

    No text is embedded again. Other processes that use the database cannot search a table until its index is ready.
    """
    from pattern_core.maintenance.indexes import index_specs, rebuild_index

    chosen = _chosen(table)

    async def work(db: Database) -> dict[str, int]:
        counts = {}
        for spec in await index_specs(db.storage, db.config.metric):
            if spec.table in chosen:
                await rebuild_index(db.vectors, spec)
                counts[spec.table.name] = await db.vectors.count(spec.table)
        return counts

    counts = use_database(settings, work)
    if settings.json:
        print_json({"vectors": counts})
    else:
        print_fields({name.replace("_", " "): f"{count:,} vectors" for name, count in counts.items()})


@click.command("maintain", cls=Verb, examples="pattern maintain\npattern maintain --json")
@click.pass_obj
def maintain(settings: Settings) -> None:
    """Do now the upkeep that storage and vector search do in time by themselves: compact, clean up.

    Not every engine needs any.
    """

    async def work(db: Database) -> dict[str, dict[str, Any]]:
        return {part: dict(done) for part, done in (await db.maintain()).items()}

    done = use_database(settings, work)
    if settings.json:
        print_json(done)
        return
    print_fields(
        {
            part: ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items()) or "nothing to do"
            for part, figures in done.items()
        }
    )


def _fields(value: Any) -> dict[str, Any]:
    import attrs

    return attrs.asdict(value)
