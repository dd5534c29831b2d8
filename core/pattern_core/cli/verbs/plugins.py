"""``pattern plugins``: the installed plugins, and how to install others."""

from __future__ import annotations

import contextlib
from typing import Any

import click

from pattern_core.cli.commands import Settings, Verb
from pattern_core.cli.output import Column, note, print_json, print_table

__all__ = ["plugins"]


@click.command("plugins", cls=Verb, examples="pattern plugins\npattern plugins --json")
@click.pass_obj
def plugins(settings: Settings) -> None:
    """List the installed plugins, which of them the configuration uses, and how to install the others.

    A plugin that fails to load is listed with the reason.
    """
    from pattern_core.plugins.discovery import EXTRAS, installed_plugins
    from pattern_core.plugins.install_hint import install_command

    found = installed_plugins()
    used = _used(settings)
    missing = {name: install_command(extra) for name, extra in EXTRAS.items()}
    for each in found:
        missing.pop(each.name, None)
    if settings.json:
        items: list[dict[str, Any]] = [
            {
                "name": each.name,
                "roles": [role.label for role in each.roles],
                "distribution": each.distribution,
                "version": each.version,
                "summary": each.summary,
                "loaded": each.error is None,
                "error": each.error,
                "used": each.name in used,
            }
            for each in found
        ]
        print_json({"items": items, "available": [{"name": name, "install": how} for name, how in missing.items()]})
        return
    columns = [
        Column("name"),
        Column("role", share=1, lines=2),
        Column("distribution"),
        Column("version"),
        Column("state"),
    ]
    rows = []
    for each in found:
        roles = ", ".join(role.label for role in each.roles)
        state = "fails" if each.error else "in use" if each.name in used else "loaded"
        rows.append([each.name, roles, each.distribution, each.version, state])
    print_table(columns, rows)
    for name, how in missing.items():
        note(f"Not installed: {name}. {how}")
    for each in found:
        if each.error:
            note(each.error)


def _used(settings: Settings) -> set[str | None]:
    """Return the names of the plugins that the configuration uses; none if it cannot be read."""
    from pattern_core.config import load_config
    from pattern_core.errors import PatternError
    from pattern_core.hookspecs import StorageSpec
    from pattern_core.plugins.discovery import load_plugin, plugin_name

    names: set[str | None] = set()
    with contextlib.suppress(PatternError):  # the list is still useful
        config = load_config(settings.config)
        names |= {config.database.provider, config.vectors.provider, config.embeddings.provider}
        if config.vectors.provider is None:
            names.add(load_plugin(config.database.provider or "", StorageSpec).vectors)
    return {plugin_name(name) for name in names if name}
