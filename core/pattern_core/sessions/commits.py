"""Commits of one session: one at a time, shielded from cancellation, with the vectors and the index kept in step."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any, Final

from pattern_core.abc import Delete, Patch, Storage, VectorStore, Write
from pattern_core.catalog.commit_log import outdated_entries
from pattern_core.catalog.follower import Follower
from pattern_core.catalog.metadata import generation_guard
from pattern_core.errors import ConflictError
from pattern_core.schema import TABLES
from pattern_core.search.indexer import IndexChange
from pattern_core.search.outbox import make_indexer
from pattern_core.support.clock import utc_now

from .active_model import ActiveModel
from .edits import Edit
from .vector_writes import vector_writes

__all__ = ["Commits"]

LONGEST_HOLD_S: Final = 15.0
"""How long a write waits at most while another process switches models, in seconds; clocks may differ."""
_HOLD_POLL_S: Final = 0.05
_METADATA: Final = TABLES["system_metadata"].name
_PRUNE_EVERY: Final = 500
"""After how many commits a session looks for entries that the commit log need not keep."""
_PRUNED: Final = 1000
"""How many of them it removes in one commit."""


class Commits:
    """Writes batches for one session.

    Args:
        storage: The storage.
        vectors: The vector search.
        model: The active generation and its model.
        shared: Whether other processes may have the database open.
    """

    def __init__(self, storage: Storage, vectors: VectorStore, model: ActiveModel, *, shared: bool) -> None:
        self._storage = storage
        self._model = model
        self._running: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()
        self._indexer = make_indexer(storage, vectors, shared=shared)
        self._waited_for: datetime | None = None
        self._vectors = vectors
        self._follower = Follower(storage) if shared else None
        self._since_pruning = 0

    async def commit(
        self, batch: Sequence[Write], edits: Sequence[Edit] = (), changes: Sequence[IndexChange] = ()
    ) -> None:
        """Commit a batch. It goes on if the caller is cancelled meanwhile.

        Args:
            batch: The writes.
            edits: What the writes do to records. Their vectors are written in the same commit.
            changes: Further changes of the index.

        Raises:
            ConflictError: As `Storage.commit`; or another generation has become active since texts were embedded.
        """
        await self._shielded(self._commit(batch, edits, changes))

    @contextlib.asynccontextmanager
    async def exclusive(self) -> AsyncIterator[Callable[[Sequence[Write], Sequence[IndexChange]], Awaitable[None]]]:
        """Hold back all other commits of this session.

        Yields:
            A function that commits a batch and index changes meanwhile.
        """
        async with self._lock:
            yield self._commit_exclusively

    async def follow(self) -> None:
        """Update the metadata and the index in memory by what other processes have committed."""
        if self._follower is None or not await self._follower.is_behind():
            return
        async with self._lock, self._follower.catch_up() as changes:  # no commit of this session is in between
            if changes is None or any(each.table == _METADATA for each in changes):
                await self._model.refresh()
            await self._vectors.refresh(changes)

    async def catch_up(self) -> None:
        """Return when the index holds everything that is acknowledged; only an external index may be behind."""
        await self._indexer.catch_up(self._lock)

    async def aclose(self) -> None:
        """Wait for running commits."""
        if self._running:
            await asyncio.wait(self._running)
        await self._indexer.flush()

    async def _commit_exclusively(self, batch: Sequence[Write], changes: Sequence[IndexChange]) -> None:
        await self._shielded(self._indexer.commit(batch, changes))

    async def _shielded(self, work: Coroutine[Any, Any, None]) -> None:
        """Await work that goes on in the background if the caller is cancelled; `aclose` waits for it."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.shield(task)

    async def _commit(self, batch: Sequence[Write], edits: Sequence[Edit], changes: Sequence[IndexChange]) -> None:
        while True:
            async with self._lock:  # two commits of one record must reach the index in the storage's order
                held_until = await self._try_to_commit(batch, edits, changes)
            if held_until is None:
                return
            await self._wait_for_switch(held_until)  # without the lock, since this process may be the one that switches

    async def _try_to_commit(
        self, batch: Sequence[Write], edits: Sequence[Edit], changes: Sequence[IndexChange]
    ) -> datetime | None:
        """Commit, or return until when to wait because a process is about to switch models."""
        while True:
            metadata = self._model.metadata
            writes, found = await vector_writes(edits, self._storage, metadata)
            held_until = None if metadata.building is None else metadata.building.held_until
            if writes and held_until not in (None, self._waited_for):
                return held_until
            guarded = not any(write.table.name == _METADATA for write in batch)  # else the batch has its own check
            guard: list[Write] = [generation_guard(metadata)] if guarded else []
            writes += await self._outdated_entries()
            try:
                await self._indexer.commit([*guard, *batch, *writes], [*found, *changes])
            except ConflictError as error:
                if not guarded or error.table != _METADATA:
                    raise
                await self._model.reload()
                if self._model.metadata.revision == metadata.revision:  # the conflict is not about the generation
                    raise
            else:
                if any(isinstance(write, Patch) and write.table.name == _METADATA for write in writes):
                    await self._model.reload()  # the vector writes have changed the metadata
                return None

    async def _outdated_entries(self) -> list[Delete]:
        self._since_pruning += 1
        if self._since_pruning < _PRUNE_EVERY:
            return []
        self._since_pruning = 0
        return await outdated_entries(self._storage, _PRUNED)

    async def _wait_for_switch(self, held_until: datetime) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + LONGEST_HOLD_S
        while utc_now() < held_until and clock() < deadline:
            building = self._model.metadata.building
            if building is None or building.held_until != held_until:
                return
            await asyncio.sleep(_HOLD_POLL_S)
            await self._model.reload()
        self._waited_for = held_until  # the switch did not come, so do not wait for it again
