"""``pattern plugin``: a folder for a new plugin."""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from string import Template
from typing import Final

import click

from pattern_core.cli.commands import Settings, VerbGroup
from pattern_core.cli.output import print_done

__all__ = ["plugin"]

TEMPLATES: Final = Path(__file__).parents[1] / "templates"
NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST_NAME: Final = 40
CONFIGURED: Final = {
    "storage": {"section": "database", "key": "type"},
    "vectors": {"section": "vectors", "key": "provider"},
    "embeddings": {"section": "embeddings", "key": "provider"},
}
"""The configuration key that names a plugin of each role."""


@click.group("plugin", cls=VerbGroup, examples="pattern plugin new redis --role storage")
def plugin() -> None:
    """Your own plugins."""


@plugin.command(
    "new",
    examples="""
        pattern plugin new redis --role storage
        pattern plugin new hnsw --role vectors --folder ~/src/pattern-hnsw
    """,
)
@click.argument("name")
@click.option("--role", type=click.Choice(list(CONFIGURED)), required=True, help="Its role.")
@click.option("--folder", help="The folder to create. [default: pattern-NAME]")
@click.pass_obj
def new(settings: Settings, name: str, role: str, folder: str | None) -> None:
    """Create a folder with a new plugin. Its tests run at once, and show what is left to write.

    NAME is the name for the configuration: lower-case letters, digits and hyphens.
    """
    package = f"pattern_{name.replace('-', '_')}"
    _check(name, package)
    target = Path(folder or f"pattern-{name}").expanduser()
    words = {
        "name": name,
        "role": role,
        "distribution": f"pattern-{name}",
        "package": package,
        "title": "".join(part.capitalize() for part in name.split("-")),
        "core": _requirement(),
        **CONFIGURED[role],
    }
    try:
        _write(target, dict(_render(role, words)))
    except OSError as error:
        raise click.UsageError(f"{target} cannot be created: {error.strerror}. --folder names another one.") from None
    message = (
        f"Wrote {target}. Its tests are the rules of pattern-core, and fail until the plugin is complete:\n"
        f'pip install -e "{target}[test]"\n'
        f"pytest -x {target}"
    )
    print_done(settings, message, {"folder": str(target.resolve()), "name": name, "role": role, "package": package})


def _check(name: str, package: str) -> None:
    from pattern_core.hookspecs import ENTRY_POINT_GROUP
    from pattern_core.plugins.discovery import ALIASES, EXTRAS

    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        message = (
            f"{name!r} is not a valid plugin name. Use lower-case letters, digits and single hyphens, a letter first, at most "
            f"{LONGEST_NAME} characters."
        )
        raise click.UsageError(message)
    if name.partition("-")[0] == "core":
        raise click.UsageError(f"pattern-{name} would seem to be a part of pattern-core. Choose another name.")
    installed = {entry.name: entry.dist.name if entry.dist else "" for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name in {*installed, *ALIASES, *EXTRAS}:
        owner = installed.get(name) or "pattern-core"
        raise click.UsageError(
            f"The plugin name {name!r} belongs to {owner}, and two plugins cannot have one name. Choose another."
        )
    if importlib.util.find_spec(package) is not None:
        raise click.UsageError(f"A package {package} is installed. Choose another name.")


def _requirement() -> str:
    """Return the range of versions of pattern-core with the contracts of this one."""
    from pattern_core import __version__

    major, minor = (int(part) for part in __version__.split(".")[:2])
    following = f"{major + 1}" if major else f"0.{minor + 1}"
    return f"pattern-core>={major}.{minor},<{following}"


def _render(role: str, words: dict[str, str]) -> Iterator[tuple[Path, str]]:
    """Yield the path and the text of each file of a new plugin."""
    for tree in (TEMPLATES / "all", TEMPLATES / role):
        for template in sorted(tree.rglob("*.template")):
            parts = template.relative_to(tree).with_suffix("").parts
            path = Path(*(words["package"] if part == "package" else part for part in parts))
            yield path, Template(template.read_text(encoding="utf-8")).substitute(words)


def _write(target: Path, files: dict[Path, str]) -> None:
    """Create a folder with files, completely or not at all."""
    if target.exists() or target.is_symlink():
        raise click.UsageError(f"{target} exists. --folder names another one.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pattern-plugin-", dir=target.parent) as scratch:
        made = Path(scratch) / "made"
        for path, text in files.items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_text(text, encoding="utf-8")
        made.rename(target)
