"""Error reports: in words or as JSON, with an exit code."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Sequence
from typing import Any

import click

from pattern_core.errors import ConfigError, PatternError, PluginError, ReferencedError

from .output import as_data, clean, console, counts_in_words, record_in_words

__all__ = ["describe", "report"]


def report(error: Exception, args: Sequence[str]) -> int:
    """Print an error on stderr.

    Args:
        error: The error.
        args: The command line. It may be wrong, and still says whether to print JSON and a traceback.

    Returns:
        The exit code.

    Raises:
        Exception: The error itself, if it is none that users can cause.
    """
    if not isinstance(error, PatternError | OSError | click.ClickException):
        raise error
    if "--traceback" in args or os.environ.get("PATTERN_TRACEBACK"):
        traceback.print_exception(error)
    if "--json" in args:
        data = {"type": type(error).__name__, "message": describe(error), **_attributes(error)}
        click.echo(json.dumps({"error": data}, default=as_data), err=True)
    elif isinstance(error, click.ClickException):
        error.show()
    else:
        terminal = console(stderr=True)
        terminal.print(f"[bold red]Error:[/] {_escape(describe(error))}", soft_wrap=not terminal.is_terminal)
    if isinstance(error, click.ClickException):
        return error.exit_code
    return 2 if isinstance(error, ConfigError | PluginError) else 1  # plugins are named in the configuration


def describe(error: Exception) -> str:
    """Return an error's message, without control characters."""
    if isinstance(error, click.ClickException):
        message = error.format_message()
    elif isinstance(error, ReferencedError):
        message = (
            f"The {record_in_words(error.table)} {error.id} still has {counts_in_words(error.by)}. Delete those first, or add "
            f"--cascade to delete everything that belongs to it."
        )
    elif isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        message = str(error)
    return clean(message)


def _attributes(error: Exception) -> dict[str, Any]:
    """Return the attributes of an error of the library."""
    if not isinstance(error, PatternError):
        return {}
    return {name: value for name, value in vars(error).items() if not name.startswith("_")}


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
