"""A database of Lance tables that change together: a write-ahead log (WAL) of row changes over them, and a manifest.

Lance makes one version and one fragment for every write, and is atomic for one table at a time. So a commit does not
write Lance tables. It writes its changes to all tables as one WAL entry, and publishes a manifest that names the entry.
`LanceDatabase.flush` moves the WAL into the Lance tables, and publishes a manifest with their new versions and a shorter
WAL. Readers see only what the manifest names, so a crash leaves only files that nobody reads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, Self, TypeVar

import attrs

from pattern_core.abc import AsyncResource
from pattern_core.errors import DataLossError, StorageError, shorten

from .current import CurrentSnapshot
from .engine import LanceTables, TableWork, closed_error
from .manifest import Manifest, sequence_of, updated_state
from .snapshot import Changes, Plan, Snapshot
from .store import COMMIT_LOCK, MAINTENANCE_LOCK, StaleManifestError, Store
from .wal import WalWrite

__all__ = ["LanceDatabase"]

T = TypeVar("T")

_MAX_GROUP: Final = 64
"""The most commits that are written together."""
_MAX_WAL_ROWS: Final = 16_384
_MAX_WAL_BYTES: Final = 64 << 20
"""The limits of the WAL, which every process keeps in memory. Above them, a commit first waits for a flush."""
_ATTEMPTS: Final = 5


class LanceDatabase(AsyncResource):
    """A database of Lance tables. `LanceDatabase.open` opens it.

    Args:
        store: The store, which is closed with the database.
        tables: The Lance tables in it.

    Attributes:
        store: The store.
    """

    def __init__(self, store: Store, tables: LanceTables) -> None:
        self.store = store
        self._tables = tables
        self._current = CurrentSnapshot(store, tables)
        self._waiting: list[tuple[Plan, asyncio.Future[Snapshot]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    @classmethod
    async def open(cls, store: Store) -> Self:
        """Open the database in a store, or create it.

        Args:
            store: The store, which is closed with the database.

        Raises:
            DataLossError: Acknowledged data are missing.
            StorageError: The database cannot be opened.
        """
        database = cls(store, await LanceTables.open(store))
        try:
            await database._shielded(database._update_manifest(lambda manifest: manifest))  # creates the first manifest
            await database.remove_orphans()
        except BaseException:
            await database.aclose()
            raise
        return database

    @property
    def manifest(self) -> Manifest:
        """The manifest that was read last."""
        return self._current.known.manifest

    @property
    def changed(self) -> asyncio.Event:
        """Set whenever another manifest is read or published. Maintenance waits for it, and clears it."""
        return self._current.changed

    async def snapshot(self) -> Snapshot:
        """Return the current snapshot, with the commits of all processes."""
        self._check_open()
        return await self._current.read()

    async def commit(self, plan: Plan) -> Snapshot:
        """Change the database, all or nothing, durably.

        No other commit comes between the snapshot that the plan gets and its changes. Waiting commits are written
        together; each plan sees the changes of those before it. Cancelling the caller does not stop the commit.

        Args:
            plan: Decides the changes.

        Returns:
            The snapshot with the changes.
        """
        self._check_open()
        if self.manifest.wal_rows > _MAX_WAL_ROWS or self.manifest.wal_bytes > _MAX_WAL_BYTES:
            await self.flush()
            self._check_open()
        done: asyncio.Future[Snapshot] = asyncio.get_running_loop().create_future()
        done.add_done_callback(lambda each: each.cancelled() or each.exception())  # the caller may have been cancelled
        self._waiting.append((plan, done))
        if self._writer is None or self._writer.done():
            self._writer = self._start(self._write_all())
        return await asyncio.shield(done)

    async def flush(self) -> None:
        """Move the WAL into the Lance tables."""
        self._check_open()
        await self._shielded(self._flush())

    async def _flush(self) -> None:
        async with self.store.lock(MAINTENANCE_LOCK):
            snapshot = await self._current.read()
            base = snapshot.manifest
            entries = {}
            for name, entry in base.tables.items():
                if memtable := snapshot.memtable(name):
                    entries[name] = await self._tables.flush(entry, memtable)
            if base.wal:
                await self._update_manifest(lambda manifest: manifest.with_tables(base, entries, flushed=len(base.wal)))
                await self.store.remove_wal([entry.name for entry in base.wal])

    async def maintain_table(
        self,
        name: str,
        work: TableWork,
        *,
        state: Mapping[str, Any] | None = None,
        compacted: bool = False,
        indexed: bool = False,
    ) -> None:
        """Do work on one Lance table that keeps its rows, and publish the new version.

        Commits continue meanwhile; another flush or work waits.

        Args:
            name: The table.
            work: Gets the Lance table, open for writing at the manifest's version, and its entry.
            state: Entries of the manifest's ``state`` to publish with it; None removes one.
            compacted: Whether the work compacts the table.
            indexed: Whether the work rebuilds its scalar indexes.
        """
        self._check_open()
        await self._shielded(self._maintain_table(name, work, state or {}, compacted=compacted, indexed=indexed))

    async def _maintain_table(
        self, name: str, work: TableWork, state: Mapping[str, Any], *, compacted: bool, indexed: bool
    ) -> None:
        async with self.store.lock(MAINTENANCE_LOCK):
            snapshot = await self._current.read()
            entry = await self._tables.maintain(snapshot.entry(name), work)
            if compacted:
                entry = attrs.evolve(entry, changed_rows=0, flushes=0, indexed_flushes=0)
            elif indexed:
                entry = attrs.evolve(entry, indexed_flushes=entry.flushes)
            await self._update_manifest(
                lambda manifest: manifest.with_tables(snapshot.manifest, {name: entry}, state=state)
            )

    async def remove_orphans(self) -> None:
        """Remove the WAL entries and Lance tables that a crash has left and no manifest names."""
        self._check_open()
        await self._shielded(self._remove_orphans())

    async def _remove_orphans(self) -> None:
        async with self.store.lock(COMMIT_LOCK):  # no other writer is between writing an entry and naming it
            manifest = (await self._current.read()).manifest
            named = {entry.name for entry in manifest.wal} | {entry.lance_name for entry in manifest.tables.values()}

            def orphans(names: Sequence[str]) -> list[str]:  # other names are not ours
                return [name for name in names if name not in named and 0 < sequence_of(name) <= manifest.sequence + 1]

            if not orphans(await self.store.list_wal()) and not orphans(await self._tables.list_names()):
                return
            # A writer whose lock expired may be about to name one of them. A new manifest makes its publication fail.
            await self._current.publish(manifest, [])
            await self.store.remove_wal(orphans(await self.store.list_wal()))
            for lance_name in orphans(await self._tables.list_names()):
                await self._tables.drop(lance_name)

    async def aclose(self) -> None:
        self._closed = True
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._tables.close()
        await self.store.aclose()

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda each: each.cancelled() or each.exception())  # the caller may have been cancelled
        return task

    async def _shielded(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work that continues if the caller is cancelled, so that it releases its lock at the end only."""
        return await asyncio.shield(self._start(work))

    def _check_open(self) -> None:
        if self._closed:
            raise closed_error()

    async def _write_all(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:_MAX_GROUP], self._waiting[_MAX_GROUP:]
            try:
                await self._write_group(group)
            except BaseException as error:
                for _, done in group:
                    if not done.done():
                        done.set_exception(error if isinstance(error, Exception) else _interrupted())
                if not isinstance(error, Exception):
                    raise

    async def _write_group(self, group: Sequence[tuple[Plan, asyncio.Future[Snapshot]]]) -> None:
        for _ in range(_ATTEMPTS):
            failed: dict[int, Exception] = {}
            with contextlib.suppress(StaleManifestError):
                async with self.store.lock(COMMIT_LOCK):
                    base = draft = await self._current.read()
                    writes: list[WalWrite] = []
                    for number, (plan, _) in enumerate(group):
                        try:
                            draft, added = await self._apply(draft, await plan(draft))
                        except Exception as error:  # noqa: BLE001 - the committer gets it
                            failed[number] = error
                        else:
                            writes += added
                    after = base
                    if draft is not base:
                        manifest = attrs.evolve(draft.manifest, commits=base.manifest.commits + 1)
                        after = await self._current.publish(manifest, writes)
                for number, (_, done) in enumerate(group):
                    if number in failed:
                        done.set_exception(failed[number])
                    else:
                        done.set_result(after)
                await self._drop_unnamed({entry.lance_name for entry in base.manifest.tables.values()}, after)
                return
        raise self._too_many_conflicts()

    async def _apply(self, draft: Snapshot, changes: Changes) -> tuple[Snapshot, list[WalWrite]]:
        """Return the snapshot after changes, and the WAL writes of these changes."""
        if changes == Changes():
            return draft, []
        tables = dict(draft.manifest.tables)
        for name in changes.drop:
            tables.pop(name, None)
        for name, definition in changes.create.items():
            tables[name] = await self._tables.create(name, definition, draft.manifest.sequence + 1)
        state = updated_state(draft.state, changes.state)
        draft = draft.with_writes(attrs.evolve(draft.manifest, tables=tables, state=state), [])
        writes = [
            WalWrite(draft.entry(name).lance_name, tuple(write.delete), write.rows)
            for name, write in changes.writes.items()
        ]
        writes = [write for write in writes if write.size]
        return draft.with_writes(draft.manifest, writes), writes

    async def _drop_unnamed(self, before: AbstractSet[str], after: Snapshot) -> None:
        """Drop the Lance tables that a commit has dropped. `remove_orphans` retries those that fail."""
        for lance_name in before - {entry.lance_name for entry in after.manifest.tables.values()}:
            with contextlib.suppress(StorageError):
                await self._tables.drop(lance_name)

    async def _update_manifest(self, change: Callable[[Manifest], Manifest]) -> None:
        """Publish the changed manifest, applying the change to the current one."""
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(StaleManifestError):
                async with self.store.lock(COMMIT_LOCK):
                    base = (await self._current.read()).manifest
                    if not self._current.has_manifest:
                        await self._check_empty()
                    manifest = change(base)
                    if manifest != base or not self._current.has_manifest:
                        await self._current.publish(manifest, [])
                    return
        raise self._too_many_conflicts()

    async def _check_empty(self) -> None:
        """Raise if the store has files but no manifest: it was lost, or the files belong to another program."""
        if found := [*await self._tables.list_names(), *await self.store.list_wal()]:
            message = (
                f"{self.store.uri} holds {shorten(found[0])} and no manifest. If the manifest was lost, restore the whole "
                f"folder or prefix from a backup. If the data belong to another program, choose an empty location. "
                f"Nothing was changed."
            )
            raise DataLossError(self.store.uri, message)

    def _too_many_conflicts(self) -> StorageError:
        message = (
            f"other writers changed {self.store.uri} in each of {_ATTEMPTS} attempts. Nothing was changed. Try again."
        )
        return StorageError(message)


def _interrupted() -> StorageError:
    return StorageError("the commit was interrupted. Whether it took effect is unknown.")
