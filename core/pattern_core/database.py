"""The open database, and `open`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import attrs

from .abc import AsyncResource, Detail, Health, Storage, VectorStore
from .assembly.opening import open_session, restore_session
from .assembly.wiring import load_embeddings
from .catalog.metadata import Generation, read_metadata
from .config import Config, ConfigSource, load_config
from .embedding.model import EmbeddingModel
from .errors import PatternError
from .maintenance.backup import RowProgress, back_up, record_counts
from .maintenance.reembedding.estimate import ReembedEstimate, estimate_reembedding
from .maintenance.reembedding.generations import abandon, drop_retired
from .maintenance.reembedding.reembed import Progress, ReembedResult, reembed
from .maintenance.verify import VerifyReport, verify_database
from .models import RecordChange
from .repositories import (
    AgentRepository,
    AppendRepository,
    ConversationRepository,
    MemoryRepository,
    MessageRepository,
    TaskRepository,
    ToolCallRepository,
    UserRepository,
)
from .repositories.change_feed import read_changes, read_position
from .sessions.direct import DirectSession
from .sessions.retry import retry_on_conflict
from .sessions.session import Session
from .sessions.transaction import Transaction
from .support.cancellation import shielded

__all__ = ["Database", "Repositories", "open"]

T = TypeVar("T")

ATTEMPTS: Final = 100
_HOW_TO_OPEN: Final = (
    "Write `async with pattern_core.open(…) as db:`, or `db = await pattern_core.open(…)`, in an async function."
)


class Repositories:
    """The repositories of a database or a transaction.

    Args:
        session: The session that they read and write through.

    Attributes:
        users: The people that agents work for.
        agents: The agents of users.
        memories: The memories of agents.
        conversations: Threads of messages between users and agents.
        messages: The messages of conversations.
        tool_calls: The audit trail of tool use.
        tasks: The tasks of users.
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
    """An open database. `open` makes it; ``async with`` or `aclose` closes it.

    Args:
        config: The configuration.
        session: A session over the open database, which belongs to this object from now on.

    Attributes:
        config: The configuration.
        storage: The storage, for statements in the engine's own language: ``await db.storage.execute(…)``.
        vectors: The vector search.
    """

    def __init__(self, config: Config, session: DirectSession) -> None:
        self.config = config
        self.storage: Storage = session.storage
        self.vectors: VectorStore = session.vectors
        self._session = session
        super().__init__(session)

    @property
    def embeddings(self) -> EmbeddingModel:
        """The embedding model."""
        return self._session.embeddings

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Repositories]:
        """Gather writes, and commit them all at once on leaving.

        Reads in the transaction see its writes; nobody else does before it ends. An exception inside discards them.

        Yields:
            The repositories of the transaction.

        Raises:
            ConflictError: On leaving, if a record that the transaction read has changed. Nothing was written.
        """
        transaction = Transaction(self._session)
        try:
            yield Repositories(transaction)
        except BaseException:
            transaction.discard()
            raise
        await transaction.commit()

    async def run(self, work: Callable[[Repositories], Awaitable[T]], *, attempts: int = ATTEMPTS) -> T:
        """Run work in a transaction, and run it again after a conflict.

        Args:
            work: An async function that gets the transaction's repositories. It may run several times, so it must not
                have other effects.
            attempts: How often to try at most.

        Returns:
            The result of the attempt that was committed.

        Raises:
            ConflictError: The last attempt met a conflict as well.
        """

        async def once() -> T:
            async with self.transaction() as transaction:
                return await work(transaction)

        return await retry_on_conflict(once, attempts=attempts, lock=self._session.retry_lock)

    async def catch_up(self) -> None:
        """Return when the vector index holds everything that is acknowledged. Opening and searching include this.

        Raises:
            PatternError: An external index is behind, and cannot be reached.
        """
        await self._session.catch_up()

    async def maintain(self) -> dict[str, Mapping[str, Detail]]:
        """Run the pending maintenance of storage and vector search.

        Returns:
            What was done, by part.
        """
        return {"storage": await self.storage.maintain(), "vectors": await self.vectors.maintain()}

    async def estimate_reembedding(self, embeddings: Mapping[str, Any]) -> ReembedEstimate:
        """Estimate what `reembed` would do. It embeds a small sample to measure the speed.

        Args:
            embeddings: The new model, in the form of the section ``[embeddings]``.

        Returns:
            The estimate.
        """
        target = load_embeddings(self._with(embeddings))
        try:
            return await estimate_reembedding(self._session, target)
        finally:
            await target.aclose()

    async def reembed(
        self,
        embeddings: Mapping[str, Any],
        *,
        again: bool = False,
        take_over: bool = False,
        progress: Progress = lambda _done, _total: None,
    ) -> ReembedResult:
        """Embed all records with another model, and switch to it. The database can be used meanwhile.

        Searches use the previous vectors until the new ones are complete, then one commit switches. Records that are
        written meanwhile are not missed. An interrupted run continues when this is called again. The previous vectors are
        kept until `drop_old_vectors`, so calling this with the previous model goes back, and embeds only what has changed.

        The configuration file must name the new model before the database is opened again. Other processes that have it
        open get a `SignatureMismatchError` when they next embed a text.

        Args:
            embeddings: The new model, in the form of the section ``[embeddings]``:
                ``{"provider": "torch", "model": "…"}``.
            again: Whether to embed even if the model is the one in use.
            take_over: Whether to continue the run of another process that reported recently, and may still be alive.
            progress: Called with the number of finished records, and the number of all.

        Returns:
            The result.

        Raises:
            ReembedError: Vectors of another model are half built; another process builds them; or they do not verify.
            TextTooLongError: A text is over the new model's token limit, and ``overflow`` is ``error``.
            EmbeddingError: The model failed. Finished vectors are kept.
        """
        config = self._with(embeddings)
        target = load_embeddings(config)
        try:
            outcome = await reembed(self._session, target, again=again, take_over=take_over, progress=progress)
        finally:  # the switch may have been made even if this call is cancelled
            if self.embeddings is target:
                self.config = config
            else:
                await target.aclose()
        return outcome

    async def generations(self) -> list[Generation]:
        """List the generations of vectors: the active one, one that is being built, and previous ones.

        Returns:
            The generations, oldest first.
        """
        return [each for each in (await read_metadata(self.storage)).generations if each.state != "dropped"]

    async def abandon_reembedding(self) -> Generation | None:
        """Abandon half-built vectors, and remove them. Searches are not affected.

        Returns:
            The removed generation; None if none is being built.
        """
        return await abandon(self._session)

    async def drop_old_vectors(self) -> list[Generation]:
        """Remove the vectors of previous models. Going back to one of them then means embedding everything again.

        Returns:
            The removed generations.
        """
        return await drop_retired(self._session)

    def _with(self, embeddings: Mapping[str, Any]) -> Config:
        """Return the configuration with another model."""
        given = load_config({"embeddings": embeddings})
        return attrs.evolve(self.config, embeddings=given.embeddings, policy=given.policy)

    async def back_up(
        self, folder: str | os.PathLike[str], *, progress: RowProgress = lambda _table, _rows: None
    ) -> dict[str, int]:
        """Write all records into a new folder, with their vectors: one Arrow file for each table, and a manifest.

        The database can be used meanwhile. `restore` reads the folder into an empty database on any storage.

        Args:
            folder: The folder. If it exists, a time stamp is added to its name.
            progress: Called with a table's name and the number of rows written since the last call.

        Returns:
            How many records of each table were written.

        Raises:
            StorageError: The database was migrated or re-embedded meanwhile.
        """
        return record_counts(await back_up(self.storage, Path(folder), progress))

    async def restore(
        self, folder: str | os.PathLike[str], *, progress: RowProgress = lambda _table, _rows: None
    ) -> dict[str, int]:
        """Read a backup into this database, which must not hold any records.

        Nothing is embedded again. If it is interrupted, the database has to be emptied and restored again.

        Args:
            folder: A folder that `back_up` wrote.
            progress: Called with a table's name and the number of rows read since the last call.

        Returns:
            How many records of each table were read.

        Raises:
            SignatureMismatchError: Another embedding model made the backup's vectors. Nothing was written.
            StorageError: The folder holds no complete backup, or the database holds records. Nothing was written.
        """
        return record_counts(await restore_session(self._session, self.config, Path(folder), progress))

    async def verify(self, *, progress: Callable[[int], None] = lambda _count: None) -> VerifyReport:
        """Verify the vector indexes against the stored vectors. It reads every vector.

        Args:
            progress: Called with the number of vectors checked since the last call.

        Returns:
            The result; ``ok`` tells whether everything agrees.

        Raises:
            PatternError: The storage or the vector search failed.
        """
        await self.catch_up()
        return await verify_database(self.storage, self.vectors, self.config.metric, progress)

    async def position(self) -> str:
        """Return the newest position in the commit log, for `changes`.

        Returns:
            A text, which a program can store.
        """
        return str(await read_position(self.storage))

    def changes(
        self, *, since: str | None = None, follow: bool = False, records: bool = False
    ) -> AsyncIterator[RecordChange]:
        """Iterate over what has changed since a position, whoever changed it: ``async for change in db.changes(…)``.

        Every change is reported once; the changes of one record are in order.

        Args:
            since: The ``position`` of a change, or what `position` returned. None begins at the first commit, with
                ``follow`` at the newest one.
            follow: Whether to wait for further changes. The iteration then ends when it is cancelled or broken off.
            records: Whether to read the records that have changed. They are as new as the change, or newer.

        Returns:
            The changes, each with the position after its commit. A program that stores the position after it has handled
            all changes of that position misses none.

        Raises:
            ValidationError: The position is not a position.
            ChangesLostError: The changes are not known: the log holds 20,000 commits and 30 days, or the database was
                restored since.
        """
        repositories = [each for each in vars(self).values() if isinstance(each, AppendRepository)]
        return read_changes(self.storage, repositories, since=since, follow=follow, records=records)

    async def health(self) -> dict[str, Health]:
        """Return the health of every part.

        Returns:
            The health of ``storage``, ``vectors`` and ``embeddings``.
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
        """Wait for running commits, then close everything, also if the caller is cancelled. A second call does nothing."""
        await shielded(self._close())

    async def _close(self) -> None:
        async with contextlib.AsyncExitStack() as stack:  # closes all of them, even if one fails
            stack.push_async_callback(self.storage.aclose)
            stack.push_async_callback(self.vectors.aclose)
            stack.push_async_callback(self.embeddings.aclose)
            stack.push_async_callback(self._session.aclose)


class open:  # noqa: N801 - reads as a call: `async with pattern_core.open(…)` and `await pattern_core.open(…)`
    """Open a database.

    Use it as ``async with pattern_core.open("pattern.toml") as db:``; or as ``db = await pattern_core.open(…)``, and
    close it with ``await db.aclose()``. A new database is set up, and an older one is migrated.

    Args:
        source: The path of a TOML file, a dict of the same form, or a `Config`. None searches for a file: the one that
            ``PATTERN_CONFIG`` names, ``pattern.toml`` in this folder or above it, the user's own.
        load_model: Whether to load the embedding model at once. False delays it until a text has to be embedded; a new
            database loads it in any case.

    Raises:
        ConfigError: The configuration is not valid.
        PluginError: A plugin is missing or broken.
        ModelUnavailableError: The embedding model cannot be loaded. Nothing was set up.
        DatabaseLockedError: Another process has the database open.
        SignatureMismatchError: Another embedding model made the database's vectors.
        MigrationError: The database is newer than this library, or another process is migrating it.
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

    def __getattr__(self, name: str) -> Any:
        # Reached by programs that forgot to open; methods that Python itself asks for are not meant.
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(f"the database is not open yet, so it has no {name!r}. {_HOW_TO_OPEN}")

    def __enter__(self) -> Any:
        raise TypeError(f"`with` cannot open a database. {_HOW_TO_OPEN}")

    def __exit__(self, *_: object) -> None:
        """Never reached; Python asks for it before it calls ``__enter__``."""

    async def _open(self) -> Database:
        config = load_config(self._source)
        return Database(config, await open_session(config, load_model=self._load_model))
