"""The program ``pattern``: a database of memories on the command line.

Only what ``pattern --help`` shows is imported here; a verb's module is imported when the verb is used.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from .base import HELP_NAMES, LazyGroup, Settings, shared_options

__all__ = ["app", "main"]

INTERRUPTED: Final = 130
"""The exit code after Ctrl-C, as shells have it."""

SECTIONS: Final = {
    "Set up and look after": {
        "init": "Write a configuration, pattern.toml.",
        "status": "Show what the database holds.",
        "doctor": "Check everything, and say what to do.",
        "plugins": "List the plugins, installed or not.",
        "maintain": "Do the upkeep that is due.",
        "vectors": "The vector indexes: status, verify, rebuild.",
        "reembed": "Change the embedding model: plan, run, resume, drop.",
        "migrate": "Bring the schema up to date, or back.",
        "backup": "Write all records to files.",
        "restore": "Read a backup into an empty database.",
    },
    "Remember and find": {
        "user": "Users: the people whom agents work for.",
        "agent": "Agents, each with memories of its own.",
        "memory": "Memories: add, import, list, show, edit, rm.",
        "search": "Find an agent's memories by what they mean.",
    },
    "Extend": {
        "plugin": "Plugins of your own: new.",
    },
}
MODULES: Final = {
    "init": ("pattern_core.cli.setup", "init"),
    "status": ("pattern_core.cli.status", "status"),
    "doctor": ("pattern_core.cli.doctor", "doctor"),
    "plugins": ("pattern_core.cli.status", "plugins"),
    "maintain": ("pattern_core.cli.vectors", "maintain"),
    "vectors": ("pattern_core.cli.vectors", "vectors"),
    "reembed": ("pattern_core.cli.reembed", "reembed"),
    "migrate": ("pattern_core.cli.migrate", "migrate"),
    "backup": ("pattern_core.cli.backup", "backup"),
    "restore": ("pattern_core.cli.backup", "restore"),
    "user": ("pattern_core.cli.user", "user"),
    "agent": ("pattern_core.cli.agent", "agent"),
    "memory": ("pattern_core.cli.memory", "memory"),
    "search": ("pattern_core.cli.search", "search"),
    "plugin": ("pattern_core.cli.plugin", "plugin"),
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
        if hasattr(stream, "reconfigure"):  # rather than fail on a character that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        result: Any = app.main(args, prog_name="pattern", standalone_mode=False, obj=Settings())
    except (KeyboardInterrupt, click.Abort):
        click.echo("\nInterrupted.", err=True)
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - what is no error of ours is raised again
        from .failure import report

        return report(error, sys.argv[1:] if args is None else args)
    return result if isinstance(result, int) else 0
