"""``pattern user``: the people that agents work for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pattern_core.cli.commands import VerbGroup
from pattern_core.cli.database import use_database
from pattern_core.cli.filtering import where_option
from pattern_core.cli.lookup import find_user, reworded
from pattern_core.cli.options import (
    cascade_option,
    confirm,
    entries_option,
    given_changes,
    id_option,
    metadata_option,
    page_options,
    yes_option,
)
from pattern_core.cli.output import Column, print_done, print_page, print_record, print_removed, shown_time
from pattern_core.cli.values import merge_entries
from pattern_core.errors import AlreadyExistsError, shorten

if TYPE_CHECKING:
    from pattern_core.cli.commands import Settings
    from pattern_core.cli.values import Entries
    from pattern_core.database import Repositories
    from pattern_core.filters import Filter
    from pattern_core.models import User

__all__ = ["user"]


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
    """Users: the people that agents work for.

    USER is a user's id, or a name that only one user has (the entry "name" of the metadata).
    """


_setting_option = entries_option("--setting", what="a setting")
_another_option = click.option(
    "--another", is_flag=True, help="Allow a name that another user has. Both then have to be named by id."
)


@user.command("add", examples="pattern user add Ada --setting language=en")
@click.argument("name", required=False)
@_another_option
@_setting_option
@metadata_option
@id_option
@click.pass_obj
def add(
    settings: Settings,
    name: str | None,
    another: bool,  # noqa: FBT001 - an option of the command line
    setting: Entries,
    metadata: Entries,
    id: str | None,
) -> None:
    """Add a user. A NAME that another user has is rejected, because it would then name two users."""
    entries = merge_entries({"name": name}, metadata)

    async def work(repositories: Repositories) -> User:
        if not another:
            await _check_name(repositories, entries.get("name"))
        return await repositories.users.create(id=id, settings=merge_entries({}, setting), metadata=entries)

    created = use_database(settings, lambda db: db.run(work))
    named = " ".join(filter(None, ["the user", str(created.metadata.get("name") or "")]))
    print_done(settings, f"Added {named} ({created.id}).", created)


@user.command("list", examples="pattern user list --json\npattern user list --where metadata.city=London")
@where_option("users")
@page_options
@click.pass_obj
def list_(settings: Settings, where: Filter | None, limit: int, cursor: str | None) -> None:
    """List the users, oldest first."""
    page = use_database(settings, lambda db: db.users.list(where, limit=limit, cursor=cursor))
    columns = [Column("name", share=1 / 3), Column("id"), Column("created")]
    print_page(
        settings, page, columns, lambda each: [str(each.metadata.get("name", "")), each.id, shown_time(each.created_at)]
    )


@user.command("show", examples="pattern user show Ada")
@click.argument("user")
@click.pass_obj
def show(settings: Settings, user: str) -> None:
    """Show all fields of a user."""
    print_record(settings, use_database(settings, lambda db: find_user(db, user)))


@user.command("edit", examples="pattern user edit Ada --setting language=de --metadata city=null")
@click.argument("user")
@_setting_option
@metadata_option
@_another_option
@click.pass_obj
def edit(
    settings: Settings,
    user: str,
    setting: Entries,
    metadata: Entries,
    another: bool,  # noqa: FBT001 - an option of the command line
) -> None:
    """Change settings and metadata of a user.

    They change entry by entry; KEY=null removes one.
    """
    given_changes(settings=setting or None, metadata=metadata or None)

    async def change(repositories: Repositories) -> User:
        found = await find_user(repositories, user)
        entries = merge_entries(found.metadata, metadata)
        if entries.get("name") != found.metadata.get("name") and not another:
            await _check_name(repositories, entries.get("name"))
        return await repositories.users.update(found, settings=merge_entries(found.settings, setting), metadata=entries)

    changed = use_database(settings, lambda db: db.run(change))
    print_done(settings, f"Changed the user {changed.id}.", changed)


async def _check_name(repositories: Repositories, name: object) -> None:
    """Raise `AlreadyExistsError` if a user has the name."""
    from pattern_core.filters import Field

    if not isinstance(name, str | int | float) or name == "":
        return
    if others := await repositories.users.list(Field("metadata")["name"] == name, limit=10):
        ids = ", ".join(each.id for each in others)
        message = (
            f"There is already a user with the name {shorten(name)}: {ids}. Use that one, choose another name, or allow a "
            f"second one with --another."
        )
        raise reworded(AlreadyExistsError("users", {"name": name}), message)


@user.command("rm", examples="pattern user rm Ada --cascade --yes")
@click.argument("user")
@cascade_option("everything that belongs to the user")
@yes_option
@click.pass_obj
def rm(settings: Settings, user: str, cascade: bool, yes: bool) -> None:  # noqa: FBT001 - options of the command line
    """Delete a user."""
    found = use_database(settings, lambda db: find_user(db, user))
    if not yes:
        confirm(f"Delete the user {user} ({found.id}){' with all agents, memories and tasks' if cascade else ''}?")
    print_removed(settings, use_database(settings, lambda db: db.users.delete(found, cascade=cascade)))
