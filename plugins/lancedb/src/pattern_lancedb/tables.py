"""Tables that change together: a log of small changes over Lance tables that change seldom, under one head.

Lance makes one version and one fragment for every write, and is atomic for one table at a time. So a commit does not
touch Lance. It writes its changes, for all tables, as one document of the log, and publishes a head that names it. Now
and then `Lance.flush` moves what has gathered in the log into the Lance tables, and publishes a head with their new
versions and a shorter log. Nobody looks beyond the head: a process that is killed anywhere leaves documents and versions
that nobody ever sees.

A reader takes a `Snapshot`: the Lance tables at the head's versions, and what the log says on top, in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, Self, TypeAlias, TypeVar

import attrs
import lancedb

from pattern_core.abc import AsyncResource
from pattern_core.errors import ClosedError, DataLossError, StorageError, shorten

from .engine import engine_errors, moved, reworked, writable
from .head import (
    Head,
    LogEntry,
    TableEntry,
    Write,
    checksum,
    pack,
    replaced,
    sequence_of,
    unique_name,
    unpack,
    with_state,
)
from .place import Outdated, Place, Token
from .snapshot import Changes, Definition, Plan, Snapshot, TableWrite, Tail

__all__ = ["Changes", "Definition", "Lance", "Plan", "Snapshot", "TableWrite", "Tail", "engine_errors"]

T = TypeVar("T")
Work: TypeAlias = Callable[[lancedb.AsyncTable, TableEntry], Awaitable[object]]

_GROUP: Final = 64
"""The most commits that are written together."""
_FULL_ROWS: Final = 16_384
_FULL_BYTES: Final = 64 << 20
"""What the log may hold at most: it is in the memory of every process. Who commits beyond waits until it is moved."""
_HANDLES: Final = 64
"""How many tables are kept open for reading."""
_ATTEMPTS: Final = 5


class Lance(AsyncResource):
    """Tables in one place. `Lance.open` makes one.

    Attributes:
        place: Where they are.
        grown: Set whenever the log has grown; upkeep waits for it.
    """

    def __init__(self, place: Place, database: lancedb.AsyncConnection) -> None:
        self.place = place
        self.grown = asyncio.Event()
        self._database = database
        self._current = Snapshot(Head(), {}, self.pinned)
        self._token: Token | None = None
        self._writes: dict[str, list[Write]] = {}
        self._loading = asyncio.Lock()
        self._handles: OrderedDict[tuple[str, int], lancedb.AsyncTable] = OrderedDict()
        self._waiting: list[tuple[Plan, asyncio.Future[Snapshot]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._work: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._publishing = asyncio.Lock()
        self._own_commits = 0

    @classmethod
    async def open(cls, place: Place) -> Self:
        """Open the database in a place, new or existing. Closing it closes the place."""
        with engine_errors(f"open {place.uri}"):
            database = await lancedb.connect_async(place.uri, storage_options=dict(place.storage_options) or None)
        lance = cls(place, database)
        try:
            await lance._uncut(lance._switch(lambda head: head))  # it makes the head of a new database
            await lance.sweep()
        except BaseException:
            await lance.aclose()
            raise
        return lance

    @property
    def head(self) -> Head:
        """The head that was read last."""
        return self._current.head

    async def foreign_commits(self) -> int:
        """Return how many commits are not this object's."""
        async with self._publishing:  # between the two figures no commit of its own may come to be seen
            return (await self.snapshot()).head.commits - self._own_commits

    async def snapshot(self) -> Snapshot:
        """Return the database as it is now: all that any process has committed is in it."""
        self._check_open()
        return await self._read()

    async def commit(self, plan: Plan) -> Snapshot:
        """Change the database, all or nothing, durably.

        The plan is called with the database as it is, no other commit between it and what it decides; commits that are
        waiting go together, each plan seeing what those before it have done. A caller that is cancelled does not stop it.

        Args:
            plan: Decides what is done.

        Returns:
            The database with the changes.
        """
        self._check_open()
        if _is_full(self._current.head):
            await self.flush()
            self._check_open()
        done: asyncio.Future[Snapshot] = asyncio.get_running_loop().create_future()
        done.add_done_callback(lambda each: each.cancelled() or each.exception())  # nobody may be there to ask
        self._waiting.append((plan, done))
        if self._writer is None or self._writer.done():
            self._writer = self._begin(self._write_all())
        return await asyncio.shield(done)

    async def flush(self) -> None:
        """Move what the log says into the Lance tables."""
        self._check_open()
        await self._uncut(self._flush())

    async def _flush(self) -> None:
        async with self.place.lock("upkeep"):
            snapshot = await self._read()
            before = snapshot.head
            after = {}
            for name, entry in before.tables.items():
                if tail := snapshot.tail(name):
                    after[name] = await moved(self._database, entry, tail)
                    await self.place.secure(entry.place)
            if before.log:
                await self._switch(lambda head: replaced(head, before, after, moved=len(before.log)))
                await self.place.remove([entry.name for entry in before.log])

    async def rework(
        self,
        name: str,
        work: Work,
        *,
        state: Mapping[str, Any] | None = None,
        settled: bool = False,
        indexed: bool = False,
    ) -> None:
        """Work on one Lance table (build an index, compact), and publish the version that comes of it.

        What the table holds must stay the same. Commits go on meanwhile; no other flush or rework does.

        Args:
            name: The table.
            work: Gets the table, open for writing, as it was at the head's version, and what the head says of it.
            state: Entries of ``state`` to publish with it; None removes one.
            settled: Whether the table is compacted by that.
            indexed: Whether its scalar indexes are made anew by that.
        """
        self._check_open()
        await self._uncut(self._rework(name, work, state or {}, settled=settled, indexed=indexed))

    async def _rework(self, name: str, work: Work, state: Mapping[str, Any], *, settled: bool, indexed: bool) -> None:
        async with self.place.lock("upkeep"):
            snapshot = await self._read()
            entry = snapshot.entry(name)
            with engine_errors(f"work on {name}"):
                table, _ = await writable(self._database, entry)
                await work(table, entry)
                after = await reworked(entry, table)
            await self.place.secure(entry.place)
            if settled:
                after = attrs.evolve(after, changed=0, moves=0, indexed=0)
            elif indexed:
                after = attrs.evolve(after, indexed=after.moves)
            await self._switch(lambda head: replaced(head, snapshot.head, {name: after}, state=state))

    async def sweep(self) -> None:
        """Remove what a crash has left behind: documents and Lance tables that no head names."""
        self._check_open()
        await self._uncut(self._sweep())

    async def _sweep(self) -> None:
        async with self.place.lock("commit"):  # nobody is between writing a document and naming it
            head = (await self._read()).head
            named = {entry.name for entry in head.log} | {entry.place for entry in head.tables.values()}
            next = head.sequence + 1

            def left(names: Sequence[str]) -> list[str]:  # what is not of our making is none of our business
                return [name for name in names if name not in named and 0 < sequence_of(name) <= next]

            if not left(await self.place.names()) and not left(await self._table_places()):
                return
            # One who believes to hold the lock may be about to name one of them: then this head is not the one expected.
            await self._publish(head, [])
            await self.place.remove(left(await self.place.names()))
            with engine_errors("remove what is left of tables"):
                for place in left(await self._table_places()):
                    await self._database.drop_table(place, ignore_missing=True)

    async def pinned(self, place: str, version: int) -> lancedb.AsyncTable:
        """Return a Lance table at a version, for reading only."""
        if not self._database.is_open():  # type: ignore[no-untyped-call]  # as in `aclose`
            raise _closed()
        key = (place, version)
        table = self._handles.get(key)
        if table is None:
            with engine_errors(f"open {place} at version {version}"):
                table = await self._database.open_table(place, version=version)
            self._handles[key] = table
            while len(self._handles) > _HANDLES:
                self._handles.popitem(last=False)
        self._handles.move_to_end(key)
        return table

    async def aclose(self) -> None:
        self._closed = True
        while self._work:
            await asyncio.wait(self._work)
        self._handles.clear()
        self._database.close()  # type: ignore[no-untyped-call]  # lancedb has left its types out
        await self.place.aclose()

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        task.add_done_callback(lambda each: each.cancelled() or each.exception())  # its caller may be gone
        return task

    async def _uncut(self, work: Coroutine[Any, Any, T]) -> T:
        """Await what goes on to its end when the caller is cancelled: a lock must not be let go of in the midst."""
        return await asyncio.shield(self._begin(work))

    def _check_open(self) -> None:
        if self._closed:
            raise _closed()

    async def _read(self) -> Snapshot:
        """Return the database as it is now, read from its place where it is not known already."""
        missed = None
        while True:
            found = await self.place.read_head(self._token)
            if found is None:
                return self._current
            content, token = found
            if token == self._token or not content:  # of a head that was known when it was read
                return self._current
            async with self._loading:
                if token == self._token:
                    return self._current
                head = Head.from_bytes(content)
                lost = await self._load(head)
                if lost is None:
                    return self._adopt(head, token)
            if missed == token:  # it is still the head, and its document is not there
                message = (
                    f"the database {self.place.uri} has lost data: document {lost} of its log is missing or damaged. "
                    f"Nothing was changed. Restore the whole place from a backup."
                )
                raise DataLossError(self.place.uri, message)
            missed = token  # it was moved into the tables meanwhile

    async def _load(self, head: Head) -> str | None:
        """Read the documents of a head that are not known yet; return the name of one that cannot be read."""
        wanted = [entry for entry in head.log if entry.name not in self._writes]
        contents = await self.place.read([entry.name for entry in wanted])
        for entry, content in zip(wanted, contents, strict=True):
            if content is None or checksum(content) != entry.checksum:
                return entry.name
            self._writes[entry.name] = unpack(content)
        return None

    def _adopt(self, head: Head, token: Token) -> Snapshot:
        """Take a head, whose documents are known, for the current one."""
        old = self._current
        if self._token is not None and head.sequence < old.sequence:  # it was read before the current one
            return old
        known = len(old.head.log)
        if head.log[:known] == old.head.log:
            new = head.log[known:]
        else:
            old, new = old.bare(), head.log
        writes = [write for entry in new for write in self._writes[entry.name]]
        self._writes = {entry.name: self._writes[entry.name] for entry in head.log}
        self._token = token
        self._current = old.grown(head, writes)
        self.grown.set()
        return self._current

    async def _write_all(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:_GROUP], self._waiting[_GROUP:]
            try:
                await self._write_group(group)
            except BaseException as error:
                for _, done in group:
                    if not done.done():
                        done.set_exception(error if isinstance(error, Exception) else StorageError("interrupted"))
                if not isinstance(error, Exception):
                    raise

    async def _write_group(self, group: Sequence[tuple[Plan, asyncio.Future[Snapshot]]]) -> None:
        for _ in range(_ATTEMPTS):
            failed: dict[int, Exception] = {}
            with contextlib.suppress(Outdated):
                async with self.place.lock("commit"):
                    base = draft = await self._read()
                    writes: list[Write] = []
                    for number, (plan, _) in enumerate(group):
                        try:
                            draft, added = await self._apply(draft, await plan(draft))
                        except Exception as error:  # noqa: BLE001 - it goes to who has asked
                            failed[number] = error
                        else:
                            writes += added
                    after = base
                    if draft is not base:
                        head = attrs.evolve(draft.head, commits=base.head.commits + 1)
                        async with self._publishing:
                            after = await self._publish(head, writes)
                            self._own_commits += 1
                for number, (_, done) in enumerate(group):
                    if number in failed:
                        done.set_exception(failed[number])
                    else:
                        done.set_result(after)
                await self._drop({entry.place for entry in base.head.tables.values()}, after)
                return
        raise StorageError(f"others have changed {self.place.uri} {_ATTEMPTS} times meanwhile; nothing was changed")

    async def _apply(self, draft: Snapshot, changes: Changes) -> tuple[Snapshot, list[Write]]:
        """Return what changes make of a snapshot, and what has to be logged for them."""
        if changes == Changes():
            return draft, []
        tables = dict(draft.head.tables)
        for name in changes.drop:
            tables.pop(name, None)
        for name, definition in changes.create.items():
            tables[name] = await self._create(name, definition, draft.sequence + 1)
        state = with_state(draft.head.state, changes.state)
        draft = draft.grown(attrs.evolve(draft.head, tables=tables, state=state), [])
        writes = [
            Write(draft.entry(name).place, tuple(write.delete), write.rows) for name, write in changes.writes.items()
        ]
        writes = [write for write in writes if write.size]
        return draft.grown(draft.head, writes), writes

    async def _create(self, name: str, definition: Definition, sequence: int) -> TableEntry:
        place = f"{name}-{unique_name(sequence)}"
        with engine_errors(f"create {name}"):
            table = await self._database.create_table(place, schema=definition.schema)
            rows = 0
            if definition.rows is not None:  # not by `create_table`, which refuses vectors that are null
                async for some in definition.rows():
                    await table.add(some)
                    rows += some.num_rows
            version = await table.version()
        await self.place.secure(place)
        return TableEntry(place, version, definition.indexes, rows, changed=rows, moves=1 if rows else 0)

    async def _drop(self, before: AbstractSet[str], after: Snapshot) -> None:
        """Remove the Lance tables that a commit has dropped; what cannot be removed now is swept later."""
        for place in before - {entry.place for entry in after.head.tables.values()}:
            with contextlib.suppress(StorageError), engine_errors(f"remove {place}"):
                await self._database.drop_table(place, ignore_missing=True)

    async def _publish(self, head: Head, writes: Sequence[Write]) -> Snapshot:
        """Log writes and publish a head; the lock on commits is held."""
        sequence, log = head.sequence + 1, head.log
        if writes:
            content = pack(writes)
            name = unique_name(sequence)
            rows = sum(write.size for write in writes)
            log = (*log, LogEntry(name, checksum(content), rows, len(content), time.time()))
            await self.place.write(name, content)
            self._writes[name] = list(writes)
        head = attrs.evolve(head, sequence=sequence, log=log)
        return self._adopt(head, await self.place.publish(head.to_bytes(), self._token))

    async def _switch(self, change: Callable[[Head], Head]) -> None:
        """Publish what is made of the head, whatever it is by then."""
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(Outdated):
                async with self.place.lock("commit"):
                    base = await self._read()
                    if self._token is None:
                        await self._expect_nothing()
                    head = change(base.head)
                    if head != base.head or self._token is None:
                        await self._publish(head, [])
                    return
        raise StorageError(f"others have changed {self.place.uri} {_ATTEMPTS} times meanwhile; nothing was changed")

    async def _expect_nothing(self) -> None:
        """Raise where there is something, though there is no head: it is another's, or what a lost head has named."""
        if found := [*await self._table_places(), *await self.place.names()]:
            message = (
                f"{self.place.uri} holds {shorten(found[0])} and no head: either the head was lost, then restore the "
                f"whole place from a backup; or these are another program's data, then choose an empty place. Nothing "
                f"was changed."
            )
            raise DataLossError(self.place.uri, message)

    async def _table_places(self) -> list[str]:
        places: list[str] = []
        token = None
        while True:
            page = await self._database.list_tables(page_token=token)
            places += page.tables
            token = page.page_token
            if not token:
                return places


def _closed() -> ClosedError:
    return ClosedError("the LanceDB database is closed; open it again")


def _is_full(head: Head) -> bool:
    return sum(e.rows for e in head.log) > _FULL_ROWS or sum(e.size for e in head.log) > _FULL_BYTES
