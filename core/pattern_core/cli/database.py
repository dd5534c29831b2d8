"""Access of a verb to the database: it opens, works and closes in an event loop of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from .progress import loading

if TYPE_CHECKING:
    from pattern_core.abc import Storage
    from pattern_core.config import Config
    from pattern_core.database import Database

    from .commands import Settings

__all__ = ["use_database", "use_storage"]

T = TypeVar("T")


def use_database(settings: Settings, work: Callable[[Database], Awaitable[T]], *, load_model: bool = False) -> T:
    """Open the database, run work, and close it, also after Ctrl-C.

    Args:
        settings: The shared options.
        work: The work, which gets the database.
        load_model: Whether to load the embedding model at once; False loads it when it is needed.

    Returns:
        The result of the work.
    """
    import asyncio

    from pattern_core.database import open as open_database

    async def run() -> T:
        with loading(settings) if load_model else contextlib.nullcontext():
            database = await open_database(settings.config, load_model=load_model)
        async with database:
            return await work(database)

    return asyncio.run(run())


def use_storage(settings: Settings, work: Callable[[Storage, Config], Awaitable[T]]) -> T:
    """Open only the storage, without migrating it, run work, and close it.

    Args:
        settings: The shared options.
        work: The work, which gets the storage and the configuration.

    Returns:
        The result of the work.
    """
    import asyncio

    from pattern_core.assembly.opening import open_storage
    from pattern_core.config import load_config

    async def run() -> T:
        config = load_config(settings.config)
        async with open_storage(config) as storage:
            return await work(storage, config)

    return asyncio.run(run())
