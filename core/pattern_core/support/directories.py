"""Where a user's own files are, on each system."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

__all__ = ["user_cache", "user_config"]

_NAME: Final = "pattern"


def user_config() -> Path:
    """Return the folder of the user's own configuration, whether there is one or not."""
    return _folder("APPDATA", "Roaming", "Application Support", "XDG_CONFIG_HOME", ".config")


def user_cache() -> Path:
    """Return the folder of what is kept for the user and may be deleted at any time."""
    return _folder("LOCALAPPDATA", "Local", "Caches", "XDG_CACHE_HOME", ".cache")


def _folder(windows: str, app_data: str, library: str, variable: str, hidden: str) -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get(windows) or Path.home() / "AppData" / app_data) / _NAME
    if sys.platform == "darwin":
        return Path.home() / "Library" / library / _NAME
    return Path(os.environ.get(variable) or Path.home() / hidden) / _NAME
