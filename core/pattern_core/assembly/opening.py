"""The way in: `open` wires storage, vector search and embedding model into a `Database`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Generator
from types import TracebackType
from typing import Any

from pattern_core.abc import AsyncResource, Storage, VectorStore
from pattern_core.catalog.metadata import Metadata, read_metadata, specs_of
from pattern_core.config import Config, ConfigSource, load_config
from pattern_core.database import Database
from pattern_core.embedding.model import Embeddings
from pattern_core.errors import ReembedError
from pattern_core.maintenance.indexes import note_index
from pattern_core.maintenance.migrate import migrate_up
from pattern_core.schema import EMBEDDED
from pattern_core.sessions.direct import Direct
from pattern_core.support.cancellation import to_the_end

from .wiring import load_embeddings, load_storage, load_wiring

__all__ = ["open", "open_storage", "open_to_reembed"]


class open:  # noqa: N801 - reads as a call: `async with pattern_core.open(…)` and `await pattern_core.open(…)`
    """Open a database.

    Use it as ``async with pattern_core.open("pattern.toml") as db:``, or ``db = await pattern_core.open(…)`` and
    close it with ``await db.aclose()``. A new database is set up, and an older one is migrated.

    Args:
        source: The path of a TOML file, a dict of the same form, or a `Config`. None looks for a file: the one that
            ``PATTERN_CONFIG`` names, ``pattern.toml`` from here upwards, the user's own.
        load_model: Whether to load the embedding model at once. False leaves it until a text has to be embedded,
            which suits programs that may not need it; a database that is new loads it all the same.

    Raises:
        ConfigError: The configuration cannot be used.
        PluginError: A plugin is missing or broken.
        ModelUnavailableError: The embedding model cannot be loaded. Nothing was set up.
        DatabaseLockedError: Somebody else has the database open.
        SignatureMismatchError: The database's vectors were made by another embedding model.
        MigrationError: The database is newer than this library, or another process was migrating it all the while.
        StorageError: The storage cannot be opened.
    """

    def __init__(self, source: ConfigSource | None = None, *, load_model: bool = True) -> None:
        self._source = source
        self._load_model = load_model
        self._database: Database | None = None

    def __await__(self) -> Generator[Any, None, Database]:
        return self._open().__await__()

    async def __aenter__(self) -> Database:
        self._database = await self._open()
        return self._database

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._database is not None:
            await self._database.aclose()

    async def _open(self) -> Database:
        config = load_config(self._source)
        wiring = load_wiring(config)
        embeddings = wiring.embeddings
        async with contextlib.AsyncExitStack() as opened:  # closes what is open where a later step fails
            opened.push_async_callback(_closed, embeddings)
            if self._load_model:  # first, so that a model that cannot be had leaves no trace of a database
                await embeddings.signature()
            storage = await wiring.storage()
            opened.push_async_callback(_closed, storage)
            known = await read_metadata(storage)
            if known.signature is not None:
                embeddings.expect(known.signature)
            signature = known.signature or await embeddings.signature()
            await migrate_up(storage, signature, backups=_backups(config), shared=wiring.shared)
            known = await read_metadata(storage)
            embeddings.expect(known.signature or signature)
            vectors = await wiring.vectors(storage)
            opened.push_async_callback(_closed, vectors)
            known = await _make_indexes(storage, known, vectors, config.metric)
            database = Database(config, storage, vectors, embeddings, known, shared=wiring.shared)
            await database.catch_up()
            opened.pop_all()
        return database


@contextlib.asynccontextmanager
async def open_to_reembed(config: Config) -> AsyncIterator[tuple[Direct, Embeddings]]:
    """Open a database whose vectors need not have been made by the configured model, to make them by that.

    Args:
        config: The configuration.

    Yields:
        The open database, with a model that embeds nothing unless it is the one in use; and the configured model.

    Raises:
        ReembedError: There is no database yet.
    """
    wiring = load_wiring(config)
    target = load_embeddings(config)  # not the session's own, of which that of the active generation is expected
    async with contextlib.AsyncExitStack() as opened:
        opened.push_async_callback(_closed, wiring.embeddings)
        opened.push_async_callback(_closed, target)
        storage = await wiring.storage()
        opened.push_async_callback(_closed, storage)
        known = await read_metadata(storage)
        if known.signature is None:
            raise ReembedError("the database holds nothing yet, so there is nothing to embed anew. Just use it.")
        await migrate_up(storage, known.signature, backups=_backups(config), shared=wiring.shared)
        known = await read_metadata(storage)
        vectors = await wiring.vectors(storage)
        opened.push_async_callback(_closed, vectors)
        known = await _make_indexes(storage, known, vectors, config.metric)
        session = Direct(storage, vectors, wiring.embeddings, known, metric=config.metric, shared=wiring.shared)
        opened.push_async_callback(_closed, session)
        yield session, target


async def _make_indexes(storage: Storage, known: Metadata, vectors: VectorStore, metric: str) -> Metadata:
    """Note which index is in use, and make it ready; return what the database says of itself then.

    From an external index, what it held before vectors had tables of their own is removed. That goes after the first index is made, which refuses a place that holds something else, and before the last one is:
    so it is done again where it was cut off.
    """
    known = await note_index(storage, known, vectors)
    specs = specs_of(known, metric)
    first, *others = specs
    is_new = vectors.place is not None and not await vectors.exists(specs[-1].table)
    await vectors.create(first)
    for table in EMBEDDED if is_new else ():
        await vectors.drop(table)
    for spec in others:
        await vectors.create(spec)
    return known


async def _closed(resource: AsyncResource | Embeddings | Direct) -> None:
    await to_the_end(resource.aclose())


def _backups(config: Config) -> Any:
    return config.base / "pattern-backups"


@contextlib.asynccontextmanager
async def open_storage(config: Config) -> AsyncIterator[Storage]:
    """Open just the storage that a configuration names, without migrating: for maintenance.

    Args:
        config: The configuration.

    Yields:
        The storage, closed on leaving.
    """
    async with await load_storage(config)() as opened:
        yield opened
