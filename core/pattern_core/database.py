"""What a program uses: an open database."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import attrs

from .abc import AsyncResource, Detail, Health, Storage, VectorStore
from .assembly.wiring import load_embeddings
from .catalog.metadata import Generation, Metadata, read_metadata
from .config import Config, load_config
from .embedding.model import Embeddings
from .errors import PatternError
from .maintenance.reembed import Estimate, Outcome, Progress, abandon, drop_retired, estimate, reembed
from .repositories import (
    AgentRepository,
    ConversationRepository,
    MemoryRepository,
    MessageRepository,
    TaskRepository,
    ToolCallRepository,
    UserRepository,
)
from .sessions.direct import Direct, Session
from .sessions.retry import repeat
from .sessions.transaction import Transaction
from .support.cancellation import to_the_end

__all__ = ["Database", "Repositories"]

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

    async def estimate_reembedding(self, embeddings: Mapping[str, Any]) -> Estimate:
        """Say what `reembed` would take. A few records are embedded, to see how long that takes.

        Args:
            embeddings: The other model, as a section ``[embeddings]`` names it.

        Returns:
            The estimate.
        """
        target = load_embeddings(self._with(embeddings))
        try:
            return await estimate(self._session, target)
        finally:
            await target.aclose()

    async def reembed(
        self,
        embeddings: Mapping[str, Any],
        *,
        again: bool = False,
        take_over: bool = False,
        progress: Progress = lambda _done, _total: None,
    ) -> Outcome:
        """Make all vectors by another embedding model, and go on with that. The database can be used meanwhile.

        Searches use the old vectors until the new ones are complete; then all is switched in one commit. What is written
        meanwhile is not missed. A run that was cut off, by whatever, goes on where it was when it is called again. The
        old vectors are kept until `drop_old_vectors`: calling this with the old model leads back, without embedding
        again what has not changed. The configuration's file has to name the new model by the next time it is opened;
        other processes that have it open are told so when they next embed a text.

        Args:
            embeddings: The other model, as a section ``[embeddings]`` names it: ``{"provider": "torch", "model": "…"}``.
            again: Whether to make new vectors even where the model is the one that is in use.
            take_over: Whether to go on with the work of another process that was at it a moment ago, and may still be.
            progress: Called with how many records are done, and of how many.

        Returns:
            What was done.

        Raises:
            ReembedError: Another model's vectors are half made; another process is at it; or the new vectors do not verify.
            TextTooLongError: A text has more tokens than the new model reads, and ``overflow`` is ``error``.
            EmbeddingError: The model failed. What was made so far is kept.
        """
        config = self._with(embeddings)
        target = load_embeddings(config)
        try:
            outcome = await reembed(self._session, target, again=again, take_over=take_over, progress=progress)
        finally:  # also where it took over, and who waits for that is cancelled
            if self.embeddings is target:
                self.config = config
            else:
                await target.aclose()
        return outcome

    async def generations(self) -> list[Generation]:
        """Say whose vectors there are: those that are searched, those in the making, and those that are kept from before.

        Returns:
            The generations, the oldest first.
        """
        return [each for each in (await read_metadata(self.storage)).generations if each.state != "dropped"]

    async def abandon_reembedding(self) -> Generation | None:
        """Give up vectors that are half made, and remove them. Searches are not touched.

        Returns:
            What was removed; None where none were in the making.
        """
        return await abandon(self._session)

    async def drop_old_vectors(self) -> list[Generation]:
        """Remove the vectors of models that were in use before. The way back is then to embed everything again.

        Returns:
            What was removed.
        """
        return await drop_retired(self._session)

    def _with(self, embeddings: Mapping[str, Any]) -> Config:
        """Return the configuration with another model."""
        given = load_config({"embeddings": embeddings})
        return attrs.evolve(self.config, embeddings=given.embeddings, policy=given.policy)

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
        await to_the_end(self._close())

    async def _close(self) -> None:
        async with contextlib.AsyncExitStack() as stack:  # closes all, also where one fails
            stack.push_async_callback(self.storage.aclose)
            stack.push_async_callback(self.vectors.aclose)
            stack.push_async_callback(self.embeddings.aclose)
            stack.push_async_callback(self._session.aclose)
