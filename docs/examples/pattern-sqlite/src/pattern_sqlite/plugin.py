"""The plugin ``sqlite``: what pattern-core reads before anything is opened."""

from __future__ import annotations

from pathlib import Path

import attrs

from pattern_core.abc import Storage
from pattern_core.hookspecs import StorageSpec, hookimpl

__all__ = ["SqliteOptions", "pattern_storage"]


@attrs.frozen(kw_only=True)
class SqliteOptions:
    """The options under ``[database]``.

    Attributes:
        path: The database's file.
        busy_timeout: How long a write waits for those of other processes, in seconds, an hour at most.
    """

    path: Path = Path("pattern.sqlite")
    busy_timeout: float = attrs.field(default=30.0, validator=[attrs.validators.ge(0), attrs.validators.le(3600)])


async def _open(options: SqliteOptions) -> Storage:
    from .storage import SqliteStorage  # the engine is imported by those who use it

    return await SqliteStorage.open(options.path, options.busy_timeout)


@hookimpl
def pattern_storage() -> StorageSpec:
    """Describe the storage."""
    return StorageSpec(
        options=SqliteOptions,
        open=_open,
        persistent=True,
        processes=True,
        summary="an SQLite file, which several processes may share",
    )
