"""``pattern user``: the people whom agents work for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .arguments import confirm, entries_option, find_user, merged, page_options, some, yes_option
from .base import Settings, VerbGroup
from .database import use_database
from .output import Column, note, print_done, print_page, print_record, print_removed, shown_time

if TYPE_CHECKING:
    from pattern_core.database import Database
    from pattern_core.models import User

__all__ = ["user"]

Entries = tuple[tuple[str, Any], ...]


@click.group(
    cls=VerbGroup,
    examples="""
        pattern user add Ada --setting language=en
        pattern user list
        pattern user edit Ada --metadata city=London
        pattern user rm Ada --cascade
    """,
)
def user() -> None:
    """Users: the people whom agents work for.

    USER is a user's id, or a name that only one user has (the entry "name" of the metadata).
    """


_setting_option = entries_option("--setting", what="a setting")
_metadata_option = entries_option("--metadata", what="an entry of the metadata")


@user.command("add", examples="pattern user add Ada --setting language=en")
@click.argument("name", required=False)
@click.option("--id", help="The id; made where it is not given.")
@_setting_option
@_metadata_option
@click.pass_obj
def add(settings: Settings, name: str | None, id: str | None, setting: Entries, metadata: Entries) -> None:
    """Add a user, with a NAME to find it by."""
    from pattern_core.filters import Field

    about = merged({"name": name}, metadata)

    async def work(db: Database) -> tuple[User, list[str]]:
        others = []
        if called := about.get("name"):
            others = [each.id for each in await db.users.list(Field("metadata")["name"] == called, limit=10)]
        return await db.users.create(id=id, settings=merged({}, setting), metadata=about), others

    made, others = use_database(settings, work)
    if others:
        note(f"Another user has this name ({', '.join(others)}): from now on their ids tell them apart.")
    print_done(settings, f"Added the user {made.metadata.get('name', '')} ({made.id}).", made)


@user.command("list", examples="pattern user list --json")
@page_options
@click.pass_obj
def list_(settings: Settings, limit: int, cursor: str | None) -> None:
    """List the users, oldest first."""
    page = use_database(settings, lambda db: db.users.list(limit=limit, cursor=cursor))
    columns = [Column("name", share=1 / 3), Column("id"), Column("created")]
    print_page(
        settings, page, columns, lambda each: [str(each.metadata.get("name", "")), each.id, shown_time(each.created_at)]
    )


@user.command("show", examples="pattern user show Ada")
@click.argument("user")
@click.pass_obj
def show(settings: Settings, user: str) -> None:
    """Show everything about a user."""
    print_record(settings, use_database(settings, lambda db: find_user(db, user)))


@user.command("edit", examples="pattern user edit Ada --setting language=de --metadata city=null")
@click.argument("user")
@_setting_option
@_metadata_option
@click.pass_obj
def edit(settings: Settings, user: str, setting: Entries, metadata: Entries) -> None:
    """Change settings and metadata of a user. The others stay; KEY=null removes one."""
    some(settings=setting or None, metadata=metadata or None)

    async def change(db: Database) -> User:
        found = await find_user(db, user)
        return await db.users.update(
            found, settings=merged(found.settings, setting), metadata=merged(found.metadata, metadata)
        )

    changed = use_database(settings, change)
    print_done(settings, f"Changed the user {changed.id}.", changed)


@user.command("rm", examples="pattern user rm Ada --cascade --yes")
@click.argument("user")
@click.option("--cascade", is_flag=True, help="Delete everything that belongs to the user, too.")
@yes_option
@click.pass_obj
def rm(settings: Settings, user: str, cascade: bool, yes: bool) -> None:  # noqa: FBT001 - options of the command line
    """Delete a user."""
    found = use_database(settings, lambda db: find_user(db, user))
    if not yes:
        confirm(f"Delete the user {user} ({found.id}){' with all agents, memories and tasks' if cascade else ''}?")
    print_removed(settings, use_database(settings, lambda db: db.users.delete(found, cascade=cascade)))
