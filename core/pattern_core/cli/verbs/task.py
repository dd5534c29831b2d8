"""``pattern task``: the tasks of users."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pattern_core.cli.commands import VerbGroup
from pattern_core.cli.database import use_database
from pattern_core.cli.filtering import all_of, where_option
from pattern_core.cli.lookup import find_task, find_user
from pattern_core.cli.options import (
    ENERGIES,
    PRIORITIES,
    all_option,
    cascade_option,
    confirm,
    given_changes,
    id_option,
    metadata_option,
    page_options,
    search_options,
    yes_option,
)
from pattern_core.cli.output import (
    Column,
    note,
    print_done,
    print_hits,
    print_json,
    print_page,
    print_record,
    print_removed,
    print_table,
    shown_time,
)
from pattern_core.cli.progress import loading
from pattern_core.cli.values import merge_entries, parse_time

if TYPE_CHECKING:
    from pattern_core.cli.commands import Settings
    from pattern_core.cli.values import Entries
    from pattern_core.database import Database
    from pattern_core.filters import Filter
    from pattern_core.models import Hit, Page, Task

__all__ = ["task"]

F = TypeVar("F", bound=Callable[..., Any])

_COLUMNS = [
    Column("title", share=1),
    Column("status"),
    Column("priority"),
    Column("due"),
    Column("id", wide=True),
]


@click.group(
    cls=VerbGroup,
    examples="""
        pattern task add "Sow the beans" --due 2026-05-01 --energy low
        pattern task next
        pattern task complete "Sow the beans"
    """,
)
def task() -> None:
    """Tasks of users.

    TASK is an id, or a title that only one task has. An open one comes before closed ones. Without --user, the only user
    is meant.
    """


_user_option = click.option("--user", help="The user: id or name. [default: the only one]")


def _detail_options(verb: F) -> F:
    """Add the options that set the details of a task."""
    minutes = click.IntRange(min=0)
    for option in (
        click.option("--tag", multiple=True, help="A tag; may be given several times."),
        click.option("--due", help="The due time in ISO form: 2026-05-01, or 2026-05-01T18:00."),
        click.option("--minutes", type=minutes, help="The estimated duration, in minutes."),
        click.option("--energy", type=click.Choice(ENERGIES), help="The energy that it takes."),
        click.option("--complexity", type=click.FloatRange(min=0), help="The complexity, on your own scale from 0 up."),
        click.option("--priority", type=click.Choice(PRIORITIES), help="The priority."),
        click.option("--description", help="The description."),
    ):
        verb = option(verb)
    return verb


def _details(**given: Any) -> dict[str, Any]:
    """Return the fields of a task that options set."""
    due, tags = given.pop("due"), given.pop("tag")
    fields = {
        "priority": given["priority"],
        "energy_required": given["energy"],
        "estimated_minutes": given["minutes"],
        "description": given["description"],
        "complexity_score": given["complexity"],
        "due_at": None if due is None else parse_time(due, end_of_day=True),
        "tags": list(tags) or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _row(each: Task) -> list[str]:
    return [each.title, str(each.status), str(each.priority), shown_time(each.due_at), each.id]


@task.command("add", examples='pattern task add "Sow the beans" --due 2026-05-01 --energy low --tag garden')
@click.argument("title")
@_user_option
@click.option("--parent", help="The parent task: id or title.")
@_detail_options
@metadata_option
@id_option
@click.pass_obj
def add(
    settings: Settings,
    /,
    title: str,
    user: str | None,
    parent: str | None,
    metadata: Entries,
    id: str | None,
    **more: Any,
) -> None:
    """Add a task with a TITLE."""
    details = _details(**more)

    async def work(db: Database) -> Task:
        above = None if parent is None else await find_task(db, parent)
        owner = above.user_id if above is not None and user is None else (await find_user(db, user)).id
        with loading(settings):
            await db.embeddings.signature()
        return await db.tasks.create(
            user_id=owner,
            title=title,
            parent_id=None if above is None else above.id,
            metadata=merge_entries({}, metadata),
            id=id,
            **details,
        )

    created = use_database(settings, work)
    print_done(settings, f"Added the task {created.title} ({created.id}).", created)


@task.command("list", examples="pattern task list --where priority=high\npattern task list --tag garden --all")
@_user_option
@click.option("--tag", help="Only tasks with this tag.")
@click.option("--parent", help="Only subtasks of this task: id or title.")
@click.option("--energy", type=click.Choice(ENERGIES), help="Only tasks that take this energy.")
@click.option("--due", help="Only tasks due by this time, earliest first: 2026-05-01, or 2026-05-01T18:00.")
@click.option("--overdue", is_flag=True, help="Only overdue tasks, earliest first.")
@where_option("tasks")
@all_option("completed and cancelled tasks")
@page_options
@click.pass_obj
def list_(
    settings: Settings,
    user: str | None,
    tag: str | None,
    parent: str | None,
    energy: str | None,
    due: str | None,
    overdue: bool,  # noqa: FBT001 - an option of the command line
    where: Filter | None,
    include_all: bool,  # noqa: FBT001 - as above
    limit: int,
    cursor: str | None,
) -> None:
    """List the open tasks of a user, oldest first."""
    from pattern_core.filters import Field
    from pattern_core.support.clock import utc_now

    until = None if due is None else parse_time(due, end_of_day=True)

    async def read(db: Database) -> tuple[Page[Task], int]:
        above = None if parent is None else await find_task(db, parent)
        wanted = all_of(
            [
                where,
                Field("user_id") == (await find_user(db, user)).id,
                None if tag is None else Field("tags").contains(tag),
                None if above is None else Field("parent_id") == above.id,
                None if energy is None else Field("energy_required") == energy,
                None if until is None else Field("due_at") <= until,
                Field("due_at") < utc_now() if overdue else None,
            ]
        )
        shown = wanted if include_all else all_of([wanted, Field("status").in_(["pending", "in_progress"])])
        order = "due_at" if overdue or until is not None else "created_at"
        page = await db.tasks.list(shown, order=order, limit=limit, cursor=cursor)
        return page, 0 if page or include_all else await db.tasks.count(wanted)

    page, others = use_database(settings, read)
    print_page(settings, page, _COLUMNS, _row, hidden=f"{others:,} closed" if others else "")


@task.command("next", examples="pattern task next --energy low")
@_user_option
@click.option("--energy", type=click.Choice(ENERGIES), help="Only tasks that take this energy.")
@click.option("--limit", type=click.IntRange(min=1), default=5, show_default=True, help="The most tasks to show.")
@click.pass_obj
def next_(settings: Settings, user: str | None, energy: str | None, limit: int) -> None:
    """Show what to do next.

    Only pending tasks without open subtasks: the highest priority first, then the earliest due, then the oldest.
    """

    async def read(db: Database) -> list[Task]:
        return await db.tasks.next_actionable((await find_user(db, user)).id, limit, energy=energy)

    found = use_database(settings, read)
    if settings.json:
        print_json({"items": found})
    else:
        print_table(_COLUMNS, [_row(each) for each in found])
        if not found:
            note("There is nothing to do.")


@task.command("search", examples='pattern task search "vegetables" --limit 3')
@click.argument("text")
@_user_option
@where_option("tasks")
@search_options
@click.pass_obj
def search(
    settings: Settings, text: str, user: str | None, where: Filter | None, limit: int, min_score: float | None
) -> None:
    """Find tasks of a user by meaning, best first.

    Completed and cancelled tasks are included; `--where status=pending` leaves them out.
    """

    async def work(db: Database) -> tuple[list[Hit[Task]], float]:
        owner = await find_user(db, user)
        start = time.perf_counter()
        hits = await db.tasks.search(text, user_id=owner.id, limit=limit, where=where, min_score=min_score)
        return hits, (time.perf_counter() - start) * 1000

    print_hits(
        settings,
        use_database(settings, work, load_model=True),
        "task",
        [Column("status")],
        lambda found: [str(found.status), "\n".join(filter(None, [found.title, found.description]))],
        nothing="Nothing found.",
    )


@task.command("show", examples='pattern task show "Sow the beans"')
@click.argument("task")
@click.pass_obj
def show(settings: Settings, task: str) -> None:
    """Show all fields of a task."""
    print_record(settings, use_database(settings, lambda db: find_task(db, task)))


@task.command("edit", examples='pattern task edit "Sow the beans" --priority high --due 2026-05-03')
@click.argument("task")
@click.option("--title", help="The new title.")
@click.option("--parent", help="The new parent task: id or title.")
@_detail_options
@metadata_option
@click.pass_obj
def edit(
    settings: Settings, /, task: str, title: str | None, parent: str | None, metadata: Entries, **more: Any
) -> None:
    """Change a task. A new title or description is embedded; --tag replaces all tags."""
    changes = given_changes(title=title, parent_id=parent, metadata=metadata or None, **_details(**more))

    async def change(db: Database) -> Task:
        found = await find_task(db, task)
        if parent is not None:
            changes["parent_id"] = (await find_task(db, parent)).id
        entries = {"metadata": merge_entries(found.metadata, metadata)} if metadata else {}
        if {"title", "description"} & changes.keys():
            with loading(settings):
                await db.embeddings.signature()
        return await db.tasks.update(found, **{**changes, **entries})

    changed = use_database(settings, change)
    print_done(settings, f"Changed the task {changed.title} ({changed.id}).", changed)


@task.command("start", examples='pattern task start "Sow the beans"')
@click.argument("task")
@click.pass_obj
def start(settings: Settings, task: str) -> None:
    """Set a task to in progress."""
    _set_status(settings, task, lambda db, id_: db.tasks.start(id_), "Started")


@task.command("complete", examples='pattern task complete "Sow the beans" --minutes 20')
@click.argument("task")
@click.option("--minutes", type=click.IntRange(min=0), help="The actual duration, in minutes.")
@click.pass_obj
def complete(settings: Settings, task: str, minutes: int | None) -> None:
    """Complete a task."""
    _set_status(settings, task, lambda db, id_: db.tasks.complete(id_, actual_minutes=minutes), "Completed")


@task.command("cancel", examples='pattern task cancel "Sow the beans"')
@click.argument("task")
@click.pass_obj
def cancel(settings: Settings, task: str) -> None:
    """Cancel a task."""
    _set_status(settings, task, lambda db, id_: db.tasks.cancel(id_), "Canceled")


@task.command("reopen", examples='pattern task reopen "Sow the beans"')
@click.argument("task")
@click.pass_obj
def reopen(settings: Settings, task: str) -> None:
    """Set a task back to pending."""
    _set_status(settings, task, lambda db, id_: db.tasks.update(id_, status="pending"), "Reopened")


def _set_status(settings: Settings, wanted: str, work: Callable[[Database, str], Any], done: str) -> None:
    async def change(db: Database) -> Task:
        changed: Task = await work(db, (await find_task(db, wanted)).id)
        return changed

    changed = use_database(settings, change)
    print_done(settings, f"{done} the task {changed.title} ({changed.id}).", changed)


@task.command("rm", examples='pattern task rm "Sow the beans" --cascade --yes')
@click.argument("task")
@cascade_option("its subtasks")
@yes_option
@click.pass_obj
def rm(settings: Settings, task: str, cascade: bool, yes: bool) -> None:  # noqa: FBT001 - options of the command line
    """Delete a task; `cancel` keeps it."""
    found = use_database(settings, lambda db: find_task(db, task))
    if not yes:
        confirm(f"Delete the task {found.title} ({found.id}){' with all subtasks' if cascade else ''}?")
    print_removed(settings, use_database(settings, lambda db: db.tasks.delete(found, cascade=cascade)))
