"""The way in: `open` wires storage, vector search and embedding model, and `Database` is what a program uses."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Final, TypeVar

import attrs

from .abc import AsyncResource, Detail, Embedder, Health, Storage, VectorStore
from .cache import VectorCache, user_cache
from .config import Config, ConfigSource, load_config
from .embedding import Embeddings
from .errors import ConfigError, PatternError, nearest
from .hookspecs import EmbeddingSpec, StorageSpec, VectorSpec
from .maintenance.indexes import specs_of
from .maintenance.migrate import migrate_up
from .metadata import Metadata, read_metadata
from .options import structure_options
from .plugins import load_plugin, plugin_name
from .repositories import (
    AgentRepository,
    ConversationRepository,
    MemoryRepository,
    MessageRepository,
    TaskRepository,
    ToolCallRepository,
    UserRepository,
)
from .retry import repeat
from .session import Direct, Session
from .transaction import Transaction

__all__ = ["Database", "Repositories", "open", "open_storage"]

T = TypeVar("T")

ATTEMPTS: Final = 100


class Repositories:
    """The repositories, over one session.

    Args:
        session: Where they read and write.

    Attributes:
        users: The people whom agents work for.
        agents: The agents of users.
        memories: What agents remember.
        conversations: Threads of messages between users and agents.
        messages: What was said.
        tool_calls: The audit trail of tool use.
        tasks: What users have to do.
    """

    def __init__(self, session: Session) -> None:
        self.users = UserRepository(session)
        self.agents = AgentRepository(session)
        self.memories = MemoryRepository(session)
        self.conversations = ConversationRepository(session)
        self.messages = MessageRepository(session)
        self.tool_calls = ToolCallRepository(session)
        self.tasks = TaskRepository(session)


class Database(Repositories, AsyncResource):
    """An open database. Made by `open`; closed by ``async with`` or `aclose`.

    Attributes:
        config: The configuration that it was opened by.
        storage: The storage, for what only the engine can do: ``await db.storage.execute(…)``.
        vectors: The vector search.
    """

    def __init__(
        self,
        config: Config,
        storage: Storage,
        vectors: VectorStore,
        embeddings: Embeddings,
        known: Metadata,
        *,
        shared: bool = True,
    ) -> None:
        self.config = config
        self.storage = storage
        self.vectors = vectors
        self._session = Direct(storage, vectors, embeddings, known, metric=config.metric, shared=shared)
        super().__init__(self._session)

    @property
    def embeddings(self) -> Embeddings:
        """The embedding model."""
        return self._session.embeddings

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Repositories]:
        """Gather writes, and commit them all at once on leaving.

        Reads in the transaction see its writes; nobody else does before the end. An exception inside discards them.

        Yields:
            The repositories of the transaction.

        Raises:
            ConflictError: On leaving: a record that the transaction read has changed meanwhile. Nothing was written.
        """
        transaction = Transaction(self._session)
        try:
            yield Repositories(transaction)
        except BaseException:
            transaction.discard()
            raise
        await transaction.commit()

    async def run(self, work: Callable[[Repositories], Awaitable[T]], *, attempts: int = ATTEMPTS) -> T:
        """Do work in a transaction, and again, from the start, as long as others get in its way.

        Args:
            work: What to do with the transaction's repositories; it must not have effects elsewhere, for it may run
                several times.
            attempts: How often to try at most.

        Returns:
            What the work returned when its writes were committed.

        Raises:
            ConflictError: The last attempt met a conflict, too.
        """

        async def once() -> T:
            async with self.transaction() as transaction:
                return await work(transaction)

        return await repeat(once, attempts=attempts, turn=self._session.retries)

    async def catch_up(self) -> None:
        """Return when the vector index holds all that is acknowledged. Opening and searching do this by themselves.

        Raises:
            PatternError: The index is kept in a place of its own, is behind, and cannot be reached.
        """
        await self._session.catch_up()

    async def maintain(self) -> dict[str, Mapping[str, Detail]]:
        """Do now the upkeep that storage and vector search would do in time.

        Returns:
            What was done, by part.
        """
        return {"storage": await self.storage.maintain(), "vectors": await self.vectors.maintain()}

    async def health(self) -> dict[str, Health]:
        """Ask every part whether it works.

        Returns:
            What storage, vector search and embedding model say of themselves.
        """
        parts: dict[str, Callable[[], Awaitable[Health]]] = {
            "storage": self.storage.health,
            "vectors": self.vectors.health,
            "embeddings": self.embeddings.health,
        }
        answers = {}
        for name, ask in parts.items():
            try:
                answers[name] = await ask()
            except PatternError as error:
                answers[name] = Health(ok=False, engine=name, details={"error": str(error)})
        return answers

    async def aclose(self) -> None:
        """Wait for commits under way, then close everything, also where the caller is cancelled. A second call does nothing."""
        await _to_the_end(self._close())

    async def _close(self) -> None:
        async with contextlib.AsyncExitStack() as stack:  # closes all, also where one fails
            stack.push_async_callback(self.storage.aclose)
            stack.push_async_callback(self.vectors.aclose)
            stack.push_async_callback(self.embeddings.aclose)
            stack.push_async_callback(self._session.aclose)


@attrs.frozen
class _Parts:
    """The plugins that a configuration names, with their options checked."""

    storage: Callable[[], Awaitable[Storage]]
    vectors: Callable[[Storage], Awaitable[VectorStore]]
    embeddings: Callable[[], Awaitable[Embedder]]
    cache: VectorCache | None
    shared: bool


def _parts(config: Config) -> _Parts:
    """Load the plugins and check all options, before anything is opened."""
    storage = load_plugin(config.database.provider or "", StorageSpec)
    name = config.vectors.provider or storage.vectors
    vectors = load_plugin(name, VectorSpec)
    _check_storage(config, name, vectors)
    if config.metric not in vectors.metrics:
        message = f"vectors.metric: {name} cannot compare by {config.metric}. {nearest(config.metric, vectors.metrics)}"
        raise ConfigError(message, key="vectors.metric")
    embeddings = load_plugin(config.embeddings.provider or "", EmbeddingSpec)
    return _Parts(
        functools.partial(storage.open, _options(config, storage.options, "database")),
        functools.partial(vectors.open, _options(config, vectors.options, "vectors")),
        functools.partial(embeddings.open, _options(config, embeddings.options, "embeddings")),
        VectorCache(user_cache(), config.policy.cache_mb * 1_000_000)
        if config.policy.cache and embeddings.cached
        else None,
        storage.processes,
    )


def _check_storage(config: Config, name: str, vectors: VectorSpec) -> None:
    chosen = plugin_name(config.database.provider or "")
    if vectors.storages is not None and chosen not in vectors.storages:
        over = ", ".join(sorted(vectors.storages))
        message = f"vectors.provider: {name} searches over {over} only, and the database is {chosen}. Choose another."
        raise ConfigError(message, key="vectors.provider")


def _options(config: Config, options: type[Any], section: str) -> Any:
    given: Mapping[str, Any] = getattr(config, section).options
    source = str(config.source) if config.source else None
    return structure_options(options, given, section=section, base=config.base, source=source)


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
        MigrationError: The database is newer than this library.
        StorageError: The storage cannot be opened.
    """

    def __init__(self, source: ConfigSource | None = None, *, load_model: bool = True) -> None:
        self._source = source
        self._load_model = load_model
        self._database: Database | None = None

    def __await__(self) -> Any:
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
        parts = _parts(config)
        embeddings = Embeddings(parts.embeddings, config.policy, cache=parts.cache)
        async with contextlib.AsyncExitStack() as opened:  # closes what is open where a later step fails
            opened.push_async_callback(_closed, embeddings)
            if self._load_model:  # first, so that a model that cannot be had leaves no trace of a database
                await embeddings.signature()
            storage = await parts.storage()
            opened.push_async_callback(_closed, storage)
            known = await read_metadata(storage)
            if known.signature is not None:
                embeddings.expect(known.signature)
            signature = known.signature or await embeddings.signature()
            await migrate_up(storage, signature, backups=_backups(config))
            known = await read_metadata(storage)
            embeddings.expect(known.signature or signature)
            vectors = await parts.vectors(storage)
            opened.push_async_callback(_closed, vectors)
            for spec in specs_of(known, config.metric):
                await vectors.create(spec)
            database = Database(config, storage, vectors, embeddings, known, shared=parts.shared)
            await database.catch_up()
            opened.pop_all()
        return database


async def _closed(resource: AsyncResource | Embeddings) -> None:
    await _to_the_end(resource.aclose())


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await what is carried out to its end however often the caller is cancelled meanwhile (anyio does it all the time)."""
    task, cancelled = asyncio.create_task(work), None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


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
    storage = load_plugin(config.database.provider or "", StorageSpec)
    async with await storage.open(_options(config, storage.options, "database")) as opened:
        yield opened
