"""The program ``pattern``: a database of memories on the command line.

The modules here are shared by the verbs, which are in ``verbs``. This module imports only what ``pattern --help`` shows; a
verb's module is imported when the verb is used. Imports anything below.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from .commands import HELP_NAMES, LazyGroup, Settings, shared_options

__all__ = ["app", "main"]

INTERRUPTED: Final = 130
"""The exit code after Ctrl-C, as in shells."""

SECTIONS: Final = {
    "Set up and maintain": {
        "init": "Write a configuration, pattern.toml.",
        "status": "Show what the database holds.",
        "doctor": "Check everything, and say what to do.",
        "plugins": "List the plugins, installed or not.",
        "maintain": "Run the pending maintenance.",
        "vectors": "The vector indexes: status, verify, rebuild.",
        "reembed": "Change the embedding model: plan, run, status, drop …",
        "migrate": "Change the schema version: status, plan, up, down.",
        "backup": "Write all records to files.",
        "restore": "Read a backup into an empty database.",
    },
    "Remember and find": {
        "user": "Users: the people that agents work for.",
        "agent": "Agents, each with its own memories.",
        "memory": "Memories: add, import, list, show, edit, rm.",
        "search": "Find an agent's memories by meaning.",
        "changes": "What has changed, whoever changed it.",
    },
    "Talk and plan": {
        "conversation": "Conversations between users and agents.",
        "message": "Messages of conversations: add, list, search …",
        "tool-call": "The record of tool calls: add, list, show.",
        "task": "Tasks of users: add, list, next, complete, search …",
    },
    "Extend": {
        "plugin": "Your own plugins: new.",
    },
}
MODULES: Final = {
    "init": ("pattern_core.cli.verbs.init", "init"),
    "status": ("pattern_core.cli.verbs.status", "status"),
    "doctor": ("pattern_core.cli.verbs.doctor", "doctor"),
    "plugins": ("pattern_core.cli.verbs.plugins", "plugins"),
    "maintain": ("pattern_core.cli.verbs.vectors", "maintain"),
    "vectors": ("pattern_core.cli.verbs.vectors", "vectors"),
    "reembed": ("pattern_core.cli.verbs.reembed", "reembed"),
    "migrate": ("pattern_core.cli.verbs.migrate", "migrate"),
    "backup": ("pattern_core.cli.verbs.backup", "backup"),
    "restore": ("pattern_core.cli.verbs.backup", "restore"),
    "user": ("pattern_core.cli.verbs.user", "user"),
    "agent": ("pattern_core.cli.verbs.agent", "agent"),
    "memory": ("pattern_core.cli.verbs.memory", "memory"),
    "search": ("pattern_core.cli.verbs.search", "search"),
    "changes": ("pattern_core.cli.verbs.changes", "changes"),
    "conversation": ("pattern_core.cli.verbs.conversation", "conversation"),
    "message": ("pattern_core.cli.verbs.message", "message"),
    "tool-call": ("pattern_core.cli.verbs.tool_call", "tool_call"),
    "task": ("pattern_core.cli.verbs.task", "task"),
    "plugin": ("pattern_core.cli.verbs.plugin", "plugin"),
}


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click's signature
    if wanted:
        from pattern_core import __version__

        click.echo(f"pattern {__version__}")
        context.exit()


@click.group(
    cls=LazyGroup,
    sections=SECTIONS,
    modules=MODULES,
    params=shared_options(),
    context_settings=HELP_NAMES,
    examples="""
        pattern init
        pattern agent add Archive
        pattern memory add Archive coffee "Ada drinks one espresso before ten and tea after lunch."
        pattern search Archive "what does she drink in the morning?"
    """,
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def app() -> None:
    """Durable, searchable memory for AI agents.

    Every verb takes --json, and --help with examples.
    """


def main(args: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        args: The command line without the program's name; None takes that of this process.

    Returns:
        The exit code: 0, 1 for an error, 2 for a wrong command line or configuration, 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # so that a character that the terminal cannot show is no error
            stream.reconfigure(errors="backslashreplace")
    try:
        result: Any = app.main(args, prog_name="pattern", standalone_mode=False, obj=Settings())
    except (KeyboardInterrupt, click.Abort):
        click.echo("\nInterrupted.", err=True)
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - an unexpected error is raised again
        from .error_report import report

        return report(error, sys.argv[1:] if args is None else args)
    return result if isinstance(result, int) else 0
