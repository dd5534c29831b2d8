"""``pattern vectors`` and ``pattern maintain``: vector indexes, and maintenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from pattern_core.cli.commands import Settings, Verb, VerbGroup
from pattern_core.cli.database import use_database
from pattern_core.cli.output import Column, note, print_fields, print_json, print_table
from pattern_core.cli.progress import progress
from pattern_core.errors import table_in_words

if TYPE_CHECKING:
    from pattern_core.abc import IndexSpec
    from pattern_core.database import Database
    from pattern_core.maintenance.indexes import IndexReport, IndexStatus

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
    """The vector indexes: compare them with the records, and rebuild them.

    An index can always be rebuilt from the records. No text is embedded again.
    """


def _chosen(names: tuple[str, ...]) -> list[str]:
    """Return the given names of embedded tables, or all."""
    from pattern_core.errors import nearest
    from pattern_core.schema import EMBEDDED

    tables = [table.name for table in EMBEDDED]
    for name in names:
        if name not in tables:
            raise click.UsageError(f"There is no table {name!r} with vectors. {nearest(name, tables)}")
    return [name for name in tables if name in names or not names]


async def _specs(db: Database, names: list[str]) -> dict[str, IndexSpec]:
    """Return the specs of the indexes, by the names of the tables of records."""
    from pattern_core.maintenance.indexes import read_index_specs
    from pattern_core.schema import EMBEDDED

    specs = await read_index_specs(db.storage, db.config.metric)
    return {table.name: spec for table, spec in zip(EMBEDDED, specs, strict=True) if table.name in names}


@vectors.command("status", examples="pattern vectors status\npattern vectors status --json")
@click.pass_context
def status(context: click.Context) -> None:
    """Show whether the indexes agree with the records.

    For each index: how many vectors there are, how many it holds, and how many updates are pending. The exit code is 1 if an index does not agree with the records.
    """
    from pattern_core.maintenance.indexes import index_status

    settings: Settings = context.obj

    async def work(db: Database) -> tuple[dict[str, IndexStatus], Any]:
        specs = await _specs(db, _chosen(()))
        found = {name: await index_status(db.storage, db.vectors, spec.table) for name, spec in specs.items()}
        return found, await db.vectors.health()

    found, health = use_database(settings, work)
    if settings.json:
        print_json(
            {
                "engine": health.engine,
                "details": dict(health.details),
                "items": _items(found),
            }
        )
    else:
        columns = [Column("table"), *(Column(title, number=True) for title in ("vectors", "indexed", "pending"))]
        rows = [
            [
                name,
                f"{each.vectors:,}",
                "none" if each.indexed is None else f"{each.indexed:,}",
                f"{each.pending:,}",
            ]
            for name, each in found.items()
        ]
        print_table(columns, rows)
        details = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in health.details.items())
        note(f"{health.engine}{': ' if details else ''}{details}")
    context.exit(int(not all(each.ok for each in found.values())))


@vectors.command("verify", examples="pattern vectors verify\npattern vectors verify memory_blocks")
@click.argument("table", nargs=-1)
@click.pass_context
def verify(context: click.Context, table: tuple[str, ...]) -> None:
    """Search for every record by its own vector.

    TABLE is a table of records with vectors; without one, all are verified. The exit code is 1 if an index does not agree with the records.
    """
    from pattern_core.maintenance.indexes import index_status, verify_index

    settings: Settings = context.obj
    chosen = _chosen(table)

    async def work(db: Database) -> dict[str, IndexReport]:
        reports = {}
        for name, spec in (await _specs(db, chosen)).items():
            total = (await index_status(db.storage, db.vectors, spec.table)).vectors
            with progress(settings, f"Comparing {name}", total) as advance:
                reports[name] = await verify_index(db.storage, db.vectors, spec, advance)
        return reports

    reports = use_database(settings, work)
    if settings.json:
        print_json({"items": _items(reports)})
    else:
        columns = [Column("table"), *(Column(title, number=True) for title in ("checked", "wrong", "surplus"))]
        rows = [[name, f"{each.checked:,}", f"{each.wrong:,}", f"{each.surplus:,}"] for name, each in reports.items()]
        print_table(columns, rows)
        for name, each in reports.items():
            if not each.ok:
                examples = f" Wrong records: {', '.join(each.examples)} …" if each.examples else ""
                note(f"Rebuild the index: pattern vectors rebuild {name}.{examples}")
    context.exit(int(not all(each.ok for each in reports.values())))


@vectors.command("rebuild", examples="pattern vectors rebuild\npattern vectors rebuild memory_blocks")
@click.argument("table", nargs=-1)
@click.pass_obj
def rebuild(settings: Settings, table: tuple[str, ...]) -> None:
    """Rebuild indexes from the records.

    TABLE is a table of records with vectors; without one, all indexes are rebuilt. No text is embedded again. Other processes cannot search a table until its index is ready.
    """
    from pattern_core.maintenance.indexes import rebuild_index

    chosen = _chosen(table)

    async def work(db: Database) -> dict[str, int]:
        counts = {}
        for name, spec in (await _specs(db, chosen)).items():
            await rebuild_index(db.vectors, spec)
            counts[name] = await db.vectors.count(spec.table)
        return counts

    counts = use_database(settings, work)
    if settings.json:
        print_json({"vectors": counts})
    else:
        print_fields({table_in_words(name): f"{count:,} vectors" for name, count in counts.items()})


@click.command("maintain", cls=Verb, examples="pattern maintain\npattern maintain --json")
@click.pass_obj
def maintain(settings: Settings) -> None:
    """Run the pending maintenance of storage and vector search now: compact, clean up.

    They also do it by themselves, later. Not every engine needs it.
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


def _items(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    import attrs

    return [{"ok": each.ok, **attrs.asdict(each), "table": name} for name, each in found.items()]
