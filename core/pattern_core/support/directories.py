"""The user's own folders, on each system."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import platformdirs

from pattern_core.errors import ConfigError

__all__ = ["user_cache", "user_config"]

_NAME: Final = "pattern"


def user_config() -> Path:
    """Return the folder of the user's configuration, whether it exists or not.

    Raises:
        ConfigError: The user has no home folder.
    """
    return _absolute(platformdirs.user_config_path(_NAME, appauthor=False, roaming=True), "XDG_CONFIG_HOME")


def user_cache() -> Path:
    """Return the folder for files that may be deleted at any time, whether it exists or not.

    Raises:
        ConfigError: The user has no home folder.
    """
    return _absolute(platformdirs.user_cache_path(_NAME, appauthor=False), "XDG_CACHE_HOME")


def _absolute(path: Path, variable: str) -> Path:
    if not path.is_absolute():  # platformdirs leaves the "~" of a user without a home folder
        raise ConfigError(f"the user has no home folder. Set HOME, or {variable}, to a folder.")
    return path
