"""The hook of the plugin. Importing it imports no engine."""

from pattern_core.abc import Storage
from pattern_core.hookspecs import StorageSpec, hookimpl

from .options import SqliteOptions

__all__ = ["SqliteOptions", "pattern_storage"]


async def _open(options: SqliteOptions) -> Storage:
    from .storage import SqliteStorage

    return await SqliteStorage.open(options)


@hookimpl
def pattern_storage() -> StorageSpec:
    """Describe the storage."""
    return StorageSpec(
        options=SqliteOptions,
        open=_open,
        persistent=True,
        processes=True,
        summary="an SQLite file, which several processes can share",
    )
