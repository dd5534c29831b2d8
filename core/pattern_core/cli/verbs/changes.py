"""``pattern changes``: what has changed in the database."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import click

from pattern_core.cli.commands import Settings, Verb
from pattern_core.cli.database import use_database
from pattern_core.cli.output import Column, as_data, note, one_line, print_json, print_table, shown_time

if TYPE_CHECKING:
    from pattern_core.database import Database
    from pattern_core.models import RecordChange

__all__ = ["changes"]

_COLUMNS = [Column("time"), Column("change"), Column("table"), Column("id"), Column("position", wide=True)]


@click.command(
    "changes",
    cls=Verb,
    examples="""
        pattern changes
        pattern changes --since 17.3f0a9c51d2be4a70 --json
        pattern changes --follow --json
    """,
)
@click.option("--since", help="Begin after this position. [default: the first commit; with --follow, the newest]")
@click.option(
    "--follow", is_flag=True, help="Wait for further changes, until Ctrl-C. With --json, one document a line."
)
@click.option("--records", is_flag=True, help="Also read the records that have changed; with --json.")
@click.pass_obj
def changes(
    settings: Settings,
    since: str | None,
    follow: bool,  # noqa: FBT001 - an option of the command line
    records: bool,  # noqa: FBT001 - as above
) -> None:
    """Show which records have changed, whoever changed them, oldest first.

    Each change has a position, for --since. The changes of a transaction have the same one.
    """

    async def work(db: Database) -> tuple[list[RecordChange], str]:
        position = since or await db.position()
        found = db.changes(since=since, follow=follow, records=records)
        if follow:
            await _print_each(settings, found)
            return [], position
        items = [each async for each in found]
        return items, items[-1].position if items else position

    items, position = use_database(settings, work)
    if settings.json:
        print_json({"items": items, "position": position})
    else:
        print_table(_COLUMNS, [_row(each) for each in items])
        note(f"To see later changes: --since {position}")


async def _print_each(settings: Settings, found: AsyncIterator[RecordChange]) -> None:
    """Print changes as they come, until the iteration is cancelled."""
    async for each in found:
        text = (
            json.dumps(each, default=as_data, ensure_ascii=True) if settings.json else one_line("\t".join(_row(each)))
        )
        click.echo(text)


def _row(each: RecordChange) -> list[str]:
    return [shown_time(each.committed_at), f"{each.kind} {each.revision}", each.table, each.id, each.position]
