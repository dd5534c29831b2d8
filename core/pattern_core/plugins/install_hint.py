"""Commands that install a plugin or a newer core, from where the installed core came."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

__all__ = ["REQUIRED", "install_command", "upgrade_command"]

NAME: Final = "pattern-core"
REQUIRED: Final = {"surreal-embedded": ("surreal",), "surreal-remote": ("surreal",)}
"""The plugin folders of this repository that need others, and which."""


def install_command(extra: str) -> str:
    """Return the command that installs a plugin of this repository.

    A clone or a repository holds the plugins in its folder ``plugins``. A folder of wheels is searched for the plugin.

    Args:
        extra: The extra of pattern-core that brings the plugin; also the name of its folder.

    Returns:
        A command for a shell.
    """
    origin = _read_origin()
    folders = (*REQUIRED.get(extra, ()), extra)
    if repository := _repository(origin):
        return f"pip install {' '.join(_quote(f'{repository}#subdirectory=plugins/{each}') for each in folders)}"
    source = _source(origin)
    if source is not None:
        plugins = [source / "plugins" / each for each in folders]
        if all((each / "pyproject.toml").is_file() for each in plugins):
            return f"pip install {' '.join(_quote(str(each)) for each in plugins)}"
        if list(source.parent.glob(f"pattern_core_{extra.replace('-', '_')}-*")):
            return f'pip install --find-links {_quote(str(source.parent))} "{NAME}[{extra}]"'
    return f'pip install "{NAME}[{extra}]"'


def upgrade_command() -> str:
    """Return the command that installs a newer pattern-core."""
    origin = _read_origin()
    if repository := _repository(origin, with_revision=False):
        return f"pip install --upgrade {_quote(repository)}"
    source = _source(origin)
    if source is not None and (source / ".git").exists():
        folder = _quote(str(source))
        editable = "--editable " if origin.get("dir_info", {}).get("editable") else ""
        return f"git -C {folder} pull && pip install --upgrade {editable}{folder}"
    return f"pip install --upgrade {NAME}"


def _read_origin() -> dict[str, Any]:
    """Return the record of a direct installation (PEP 610); empty for one from a package index."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        origin = json.loads(distribution(NAME).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return {}
    return origin if isinstance(origin, dict) and isinstance(origin.get("url"), str) else {}


def _repository(origin: dict[str, Any], *, with_revision: bool = True) -> str:
    """Return the address of the version control repository, in pip's form; empty if there is none."""
    about = origin.get("vcs_info")
    if not isinstance(about, dict):
        return ""
    revision = about.get("requested_revision") if with_revision else None
    return f"{about.get('vcs', 'git')}+{origin['url']}{f'@{revision}' if revision else ''}"


def _source(origin: dict[str, Any]) -> Path | None:
    """Return the local folder, or the archive, that the core was installed from; None for anything else."""
    address = urlsplit(origin.get("url", ""))
    if address.scheme != "file":
        return None
    from urllib.request import url2pathname  # imports HTTP clients, so only when it is needed

    host = f"//{address.netloc}" if address.netloc not in ("", "localhost") else ""
    return Path(url2pathname(f"{host}{address.path}"))


def _quote(text: str) -> str:
    """Return an argument in quotes, for the shell of this system."""
    if os.name != "nt" and any(each in text for each in '"$`\\!'):
        return shlex.quote(text)
    return f'"{text}"'
