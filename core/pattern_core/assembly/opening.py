"""Opening: migrate the database that a configuration names, prepare its indexes, and return a session over it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from pattern_core.abc import AsyncResource, Storage, VectorStore
from pattern_core.catalog.metadata import Metadata, index_specs, read_metadata
from pattern_core.config import Config
from pattern_core.embedding.model import EmbeddingModel
from pattern_core.errors import ReembedError, SignatureMismatchError
from pattern_core.maintenance.backup import RowProgress, read_signature, restore
from pattern_core.maintenance.indexes import record_index_location
from pattern_core.maintenance.migrations.migrate import migrate_up
from pattern_core.schema import EMBEDDED
from pattern_core.sessions.direct import DirectSession
from pattern_core.support.cancellation import shielded

from .wiring import is_shared, load_embeddings, load_storage, load_wiring

__all__ = ["open_session", "open_storage", "open_to_reembed", "restore_session"]


async def open_session(config: Config, *, load_model: bool = True) -> DirectSession:
    """Open a database. A new one is set up, and an older one is migrated.

    Args:
        config: The configuration.
        load_model: Whether to load the embedding model at once.

    Returns:
        A session. The caller closes it, then its model, its vector search and its storage.

    Raises:
        PatternError: See `pattern_core.open`. Everything that was opened is closed.
    """
    wiring = load_wiring(config)
    embeddings = wiring.embeddings
    async with contextlib.AsyncExitStack() as opened:  # closes what is open if a later step fails
        opened.push_async_callback(_close, embeddings)
        if load_model:  # first, so that a missing model leaves no trace of a database
            await embeddings.signature()
        storage = await wiring.storage()
        opened.push_async_callback(_close, storage)
        metadata = await read_metadata(storage)
        if metadata.signature is not None:
            embeddings.require(metadata.signature)
        signature = metadata.signature or await embeddings.signature()
        await migrate_up(storage, signature, backups=_backups(config), shared=wiring.shared)
        metadata = await read_metadata(storage)
        embeddings.require(metadata.signature or signature)
        vectors = await wiring.vectors(storage)
        opened.push_async_callback(_close, vectors)
        metadata = await _prepare_indexes(storage, metadata, vectors, config.metric)
        session = DirectSession(storage, vectors, embeddings, metadata, metric=config.metric, shared=wiring.shared)
        await session.catch_up()
        opened.pop_all()
    return session


@contextlib.asynccontextmanager
async def open_to_reembed(config: Config) -> AsyncIterator[tuple[DirectSession, EmbeddingModel]]:
    """Open a database whose vectors need not be those of the configured model, to re-embed it with that model.

    Args:
        config: The configuration.

    Yields:
        A session, whose model embeds only if it is the active one; and the configured model.

    Raises:
        ReembedError: The database does not exist yet.
    """
    wiring = load_wiring(config)
    target = load_embeddings(config)  # another object than the session's model, which requires the active signature
    async with contextlib.AsyncExitStack() as opened:
        opened.push_async_callback(_close, wiring.embeddings)
        opened.push_async_callback(_close, target)
        storage = await wiring.storage()
        opened.push_async_callback(_close, storage)
        metadata = await read_metadata(storage)
        if metadata.signature is None:
            raise ReembedError("the database is empty, so there is nothing to re-embed. Just use it.")
        await migrate_up(storage, metadata.signature, backups=_backups(config), shared=wiring.shared)
        metadata = await read_metadata(storage)
        vectors = await wiring.vectors(storage)
        opened.push_async_callback(_close, vectors)
        metadata = await _prepare_indexes(storage, metadata, vectors, config.metric)
        session = DirectSession(
            storage, vectors, wiring.embeddings, metadata, metric=config.metric, shared=wiring.shared
        )
        opened.push_async_callback(_close, session)
        yield session, target


@contextlib.asynccontextmanager
async def open_storage(config: Config) -> AsyncIterator[Storage]:
    """Open only the storage that a configuration names, without migrating, for maintenance.

    Args:
        config: The configuration.

    Yields:
        The storage, closed on leaving.
    """
    async with await load_storage(config)() as opened:
        yield opened


async def restore_session(
    session: DirectSession, config: Config, folder: Path, progress: RowProgress
) -> dict[str, int]:
    """Read a backup into the open database of a session, which must not hold any records.

    Args:
        session: The session.
        config: The configuration that it was opened with.
        folder: The folder of the backup.
        progress: Called with a table's name and the number of rows read since the last call.

    Returns:
        How many rows of each table were read.

    Raises:
        SignatureMismatchError: Another embedding model made the backup's vectors. Nothing was written.
        StorageError: The folder holds no complete backup, or the database holds records. Nothing was written.
    """
    signature, configured = await read_signature(folder), await session.embeddings.signature()
    if signature != configured:
        raise SignatureMismatchError(str(signature), str(configured))
    shared = is_shared(config)
    async with session.exclusive():
        previous = index_specs(session.model.metadata, config.metric)
        counts = await restore(session.storage, folder, progress, shared=shared)
        await migrate_up(session.storage, signature, backups=_backups(config), shared=shared)
        for spec in previous:
            await session.vectors.drop(spec.table)
        metadata = await read_metadata(session.storage)
        session.model.metadata = await _prepare_indexes(session.storage, metadata, session.vectors, config.metric)
    return counts


async def _prepare_indexes(storage: Storage, metadata: Metadata, vectors: VectorStore, metric: str) -> Metadata:
    """Record which index is in use, and build the indexes that are missing; return the metadata after that.

    An external index may still hold tables from before vectors had tables of their own. They are removed after the first
    index is built, since building refuses a foreign location, and before the last one is built, so that an interrupted
    removal is repeated.
    """
    metadata = await record_index_location(storage, metadata, vectors)
    specs = index_specs(metadata, metric)
    first, *others = specs
    is_new = vectors.location is not None and not await vectors.exists(specs[-1].table)
    await vectors.create(first)
    for table in EMBEDDED if is_new else ():
        await vectors.drop(table)
    for spec in others:
        await vectors.create(spec)
    return metadata


async def _close(resource: AsyncResource | EmbeddingModel | DirectSession) -> None:
    await shielded(resource.aclose())


def _backups(config: Config) -> Path:
    return config.base / "pattern-backups"
