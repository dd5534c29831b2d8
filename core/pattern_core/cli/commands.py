"""Commands: the options that every verb takes, examples in the help, and groups that import a verb on demand."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

import click

__all__ = ["HELP_NAMES", "LazyGroup", "Settings", "Verb", "VerbGroup", "shared_options"]

HELP_NAMES: Final = {"help_option_names": ["-h", "--help"]}


class Settings:
    """The values of the options that every verb takes.

    Attributes:
        config: The path of the configuration; None searches for it.
        json: Whether to print JSON.
    """

    def __init__(self) -> None:
        self.config: str | None = None
        self.json = False


def _set_setting(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value and parameter.name:
        setattr(context.ensure_object(Settings), parameter.name, value)


def shared_options() -> list[click.Parameter]:
    """Return the options that every verb takes, before or after its name."""
    return [
        click.Option(
            ["--config"],
            metavar="PATH",
            expose_value=False,
            callback=_set_setting,
            help="The configuration. [default: $PATTERN_CONFIG, pattern.toml here or above, or the user's own]",
        ),
        click.Option(
            ["--json"], is_flag=True, expose_value=False, callback=_set_setting, help="Print one JSON document."
        ),
        click.Option(
            ["--traceback"], is_flag=True, expose_value=False, help="Show where in the program an error occurs."
        ),
    ]


class Verb(click.Command):
    """A command with the options that every verb takes.

    Args:
        *args: As for `click.Command`.
        examples: Command lines to show in the help, one per line.
        **kwargs: As for `click.Command`.
    """

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        kwargs["params"] = [*(kwargs.get("params") or ()), *shared_options()]
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_examples(self.examples, formatter)
        super().format_epilog(ctx, formatter)


class VerbGroup(click.Group):
    """A group of verbs.

    Args:
        *args: As for `click.Group`.
        examples: Command lines to show in the help, one per line.
        **kwargs: As for `click.Group`.
    """

    command_class = Verb

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_examples(self.examples, formatter)
        super().format_epilog(ctx, formatter)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)  # in the order of definition

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if not args[0].startswith("-") and args[0] not in known:
            from pattern_core.errors import nearest

            ctx.fail(f"There is no verb {args[0]!r}. {nearest(args[0], known)}")
        return super().resolve_command(ctx, args)


class LazyGroup(VerbGroup):
    """A group that imports a verb when it is used, and whose help imports none.

    Args:
        *args: As for `click.Group`.
        sections: The headings of the help, each with its verbs and their short help.
        modules: For each verb its module, and the name of the command in it.
        **kwargs: As for `click.Group`.
    """

    def __init__(
        self,
        *args: Any,
        sections: Mapping[str, Mapping[str, str]],
        modules: Mapping[str, tuple[str, str]],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections
        self.modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        if cmd_name not in self.modules:
            return None
        module, name = self.modules[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        for heading, verbs in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl(list(verbs.items()))


def _write_examples(examples: str, formatter: click.HelpFormatter) -> None:
    if examples:
        with formatter.section("Examples"):
            for line in examples.strip().splitlines():
                formatter.write(f"{'':{formatter.current_indent}}{line.strip()}\n")
