"""Options that several verbs take, and the question before a deletion."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import click

from .values import json_or_text

__all__ = [
    "ENERGIES",
    "PRIORITIES",
    "ROLES",
    "all_option",
    "cascade_option",
    "confirm",
    "entries_option",
    "given_changes",
    "id_option",
    "metadata_option",
    "page_options",
    "search_options",
    "yes_option",
]

F = TypeVar("F", bound=Callable[..., Any])

# The values of enums of `pattern_core.models`, whose import would slow down --help.
ENERGIES: Final = ("low", "medium", "high")
PRIORITIES: Final = ("low", "medium", "high", "urgent")
ROLES: Final = ("system", "user", "assistant", "tool")


def entries_option(*names: str, what: str) -> Callable[[F], F]:
    """Add an option that sets an entry of a JSON object: ``source=diary``, ``level=3``; ``KEY=null`` removes one.

    Args:
        *names: The option's names.
        what: The kind of the entry, in words.
    """

    def read(context: click.Context, parameter: click.Parameter, values: Iterable[str]) -> tuple[tuple[str, Any], ...]:
        entries = []
        for each in values:
            key, separator, text = each.partition("=")
            if not key or not separator:
                raise click.BadParameter(f"{each!r} is not KEY=VALUE", context, parameter)
            entries.append((key, json_or_text(text)))
        return tuple(entries)

    return click.option(
        *names, metavar="KEY=VALUE", multiple=True, callback=read, help=f"Set {what}; may be given several times."
    )


metadata_option = entries_option("--metadata", what="an entry of the metadata")
id_option = click.option("--id", help="The id. [default: a new one]")


def all_option(state: str, *names: str) -> Callable[[F], F]:
    """Add ``--all``, which includes records of another state, such as deactivated ones.

    Args:
        state: The records, in words.
        *names: Further names of the option.
    """
    return click.option("--all", *names, "include_all", is_flag=True, help=f"Include {state}.")


def page_options(verb: F) -> F:
    """Add ``--limit`` and ``--cursor``."""
    verb = click.option("--cursor", help="Continue after the page before, with the cursor that it printed.")(verb)
    return _limit_option(50)(verb)


def search_options(verb: F) -> F:
    """Add ``--limit`` and ``--min-score``."""
    verb = click.option("--min-score", type=float, help="Only hits with at least this score.")(verb)
    return _limit_option(10)(verb)


def _limit_option(default: int) -> Callable[[F], F]:
    most = click.IntRange(min=1)
    return click.option("--limit", type=most, default=default, show_default=True, help="The most records to show.")


def cascade_option(what: str) -> Callable[[F], F]:
    """Add ``--cascade``."""
    return click.option("--cascade", is_flag=True, help=f"Also delete {what}.")


def yes_option(verb: F) -> F:
    """Add ``--yes``."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(verb)


def given_changes(**changes: Any) -> dict[str, Any]:
    """Return the changes that were given, without those that are None; raise `click.UsageError` if none was given."""
    given = {name: value for name, value in changes.items() if value is not None}
    if not given:
        raise click.UsageError("Nothing to change. Name a change with one of the options; --help lists them.")
    return given


def confirm(question: str) -> None:
    """Ask before something is lost.

    Args:
        question: The question.

    Raises:
        UsageError: There is no terminal to ask on.
        Exit: The answer is no.
    """
    if not sys.stdin.isatty():
        raise click.UsageError("This needs a confirmation, and there is no terminal to ask on. Add --yes to confirm.")
    if not click.confirm(question, err=True):
        click.echo("Nothing was changed.", err=True)
        click.get_current_context().exit(1)
