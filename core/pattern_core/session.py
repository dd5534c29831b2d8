"""What the repositories work on: reads, edits and searches, either at once or gathered in a transaction.

An `Edit` knows a record before and after. From that follow the write with its precondition, what the vector index
has to hold, and what a read within the same transaction sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from functools import cmp_to_key
from typing import Any, Final, TypeVar

import attrs
import numpy as np

from .abc import (
    Check,
    CheckNone,
    Delete,
    Insert,
    Matches,
    Patch,
    Row,
    Storage,
    Vector,
    VectorChange,
    VectorStore,
    Write,
)
from .clock import utc_now
from .embedding import Embeddings
from .errors import AlreadyExistsError, ClosedError, ConflictError, NotFoundError, PatternError
from .exact import score
from .filters import And, Field, Filter, matches
from .indexing import Change, indexer_for
from .retry import repeat
from .schema import Order, Table

__all__ = ["Direct", "Edit", "Found", "Session", "Transaction", "differs"]

FIRST_SEARCH: Final = 4
"""How many times the wanted number a filtered search asks the index for, before it asks the storage which ids fit."""

ATTEMPTS: Final = 50
"""How often a single call is repeated where others change the same record at the same time."""

Key = tuple[str, str]
T = TypeVar("T")


@attrs.frozen
class Edit:
    """A change of one record.

    Attributes:
        table: The table.
        id: The record.
        before: Its columns as they were read; None for a new one.
        after: Its columns as they shall be; None for one that goes. Without a before and an after, nothing is
            written, but the record has to exist. Where both are one object, nothing is written, but the record has to
            be as it was read.
    """

    table: Table
    id: str
    before: Row | None = None
    after: Row | None = None

    def write(self) -> Write:
        """Return the write, with the revision that was read as its precondition."""
        if self.before is None:
            return Check(self.table, self.id) if self.after is None else Insert(self.table, self.after)
        revision = int(self.before["revision"])
        if self.after is self.before:
            return Check(self.table, self.id, revision)
        if self.after is None:
            return Delete(self.table, self.id, revision)
        before = self.before  # a column that was not read, the vector's, is in `after` only where it is new
        changes = {name: new for name, new in self.after.items() if name not in before or differs(new, before[name])}
        return Patch(self.table, self.id, changes, revision)

    def vector_change(self) -> VectorChange | None:
        """Return what the vector index has to hold from now on; None where nothing changes for it."""
        column, partition = self.table.vector, self.table.partition
        if column is None or partition is None:
            return None
        if self.after is None:
            return VectorChange(self.id, self.before[partition], None) if self.before is not None else None
        if column.name not in self.after:  # it was not read, and not made anew
            return None
        return VectorChange(self.id, self.after[partition], self.after[column.name])


def _changes(edits: Sequence[Edit]) -> list[Change]:
    found = [(edit.table, edit.vector_change()) for edit in edits]
    return [(table, change) for table, change in found if change is not None]


def differs(new: Any, old: Any) -> bool:
    """Return whether two values of a column are not the same; two arrays are the same only if they are one object."""
    if new is old:
        return False
    if isinstance(new, np.ndarray) or isinstance(old, np.ndarray) or type(new) is not type(old):
        return True  # 1, 1.0 and True are equal, but three JSON values
    if isinstance(new, dict):
        return new.keys() != old.keys() or any(differs(value, old[key]) for key, value in new.items())
    if isinstance(new, list):
        return len(new) != len(old) or any(map(differs, new, old))
    return bool(new != old)


@attrs.frozen
class Found:
    """A row that a search found, with its score and whether the search was exact."""

    row: Row
    score: float
    exact: bool


class Session(ABC):
    """Reads, edits and searches of one database.

    Attributes:
        embeddings: The embedding model.
    """

    embeddings: Embeddings

    @abstractmethod
    async def repeat(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do work, and again where it met a conflict that another attempt may not meet."""

    @abstractmethod
    def turn(self, key: str) -> contextlib.AbstractAsyncContextManager[object]:
        """Make those who name the same key wait for each other, as long as they are in this process."""

    @abstractmethod
    async def get(self, table: Table, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        """Read records by id, as `Storage.get` does."""

    @abstractmethod
    async def find(
        self,
        table: Table,
        where: Filter | None = None,
        *,
        order: Sequence[Order] = (),
        limit: int | None = None,
        vectors: bool = False,
    ) -> list[Row]:
        """Read the records that satisfy a filter, as `Storage.find` does."""

    @abstractmethod
    async def count(self, table: Table, where: Filter | None = None) -> int:
        """Count the records that satisfy a filter."""

    @abstractmethod
    async def edit(self, edits: Sequence[Edit | CheckNone]) -> list[Row]:
        """Carry out edits, all or none, and return the records that they leave, in order."""

    @abstractmethod
    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, where: Filter | None
    ) -> list[Found]:
        """Find the closest records of some partitions that satisfy a filter, closest first, ties by id."""


class Direct(Session):
    """A session in which every edit is its own commit.

    Args:
        storage: The storage.
        vectors: The vector search.
        embeddings: The embedding model.
        metric: How vectors are compared.
        shared: Whether other processes may have the database open as well.
    """

    def __init__(
        self, storage: Storage, vectors: VectorStore, embeddings: Embeddings, *, metric: str, shared: bool = True
    ) -> None:
        self.metric = metric
        self.storage = storage
        self.vectors = vectors
        self.embeddings = embeddings
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._commits: set[asyncio.Task[None]] = set()
        self._order = asyncio.Lock()
        self._indexer = indexer_for(storage, vectors, shared=shared)
        self.retries = asyncio.Lock()
        self._closed = False

    async def get(self, table: Table, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        self._check_open()
        return await self.storage.get(table, ids, vectors=vectors)

    async def find(
        self,
        table: Table,
        where: Filter | None = None,
        *,
        order: Sequence[Order] = (),
        limit: int | None = None,
        vectors: bool = False,
    ) -> list[Row]:
        self._check_open()
        return await self.storage.find(table, where, order=order, limit=limit, vectors=vectors)

    async def count(self, table: Table, where: Filter | None = None) -> int:
        self._check_open()
        return await self.storage.count(table, where)

    async def repeat(self, work: Callable[[], Awaitable[T]]) -> T:
        return await repeat(work, attempts=ATTEMPTS, turn=self.retries)

    def turn(self, key: str) -> asyncio.Lock:
        return self._turns.setdefault(key, asyncio.Lock())

    async def edit(self, edits: Sequence[Edit | CheckNone]) -> list[Row]:
        own = [edit for edit in edits if isinstance(edit, Edit)]
        await self.commit(
            [edit.write() if isinstance(edit, Edit) else edit for edit in edits],
            _changes(own),
        )
        return [edit.after for edit in own if edit.after is not None]

    async def commit(self, batch: Sequence[Write], changes: Sequence[Change]) -> None:
        """Commit a batch and make the index agree with it, also when the caller is cancelled meanwhile."""
        self._check_open()
        task = asyncio.create_task(self._commit(batch, changes))
        self._commits.add(task)
        task.add_done_callback(self._commits.discard)
        await asyncio.shield(task)

    async def _commit(self, batch: Sequence[Write], changes: Sequence[Change]) -> None:
        async with self._order:  # two commits of one record must reach the index in the order of the storage
            await self._indexer.commit(batch, changes)

    async def catch_up(self) -> None:
        """Return when the index holds everything that is acknowledged; only an external one may be behind."""
        await self._indexer.catch_up(self._order)

    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, where: Filter | None
    ) -> list[Found]:
        self._check_open()
        await self.catch_up()
        wanted = limit if where is None else limit * FIRST_SEARCH
        found = await self.vectors.search(table, vector, partitions=partitions, limit=wanted)
        hits = await self._fetch(table, found, partitions, where)
        if len(hits) >= limit or len(found.ids) < wanted:
            return hits[:limit]
        # The filter (or a deletion since) took away too much: ask the storage which records fit, and rank just those.
        scope = Field(str(table.partition)).in_(partitions)
        ids: list[str] = []
        async for batch in self.storage.scan(table, scope if where is None else scope & where, columns=["id"]):
            ids += batch.column("id").to_pylist()
        found = await self.vectors.search(table, vector, partitions=partitions, limit=limit, ids=ids)
        return await self._fetch(table, found, partitions, where)

    async def _fetch(
        self, table: Table, found: Matches, partitions: Sequence[str], where: Filter | None
    ) -> list[Found]:
        rows = await self.storage.get(table, found.ids) if found.ids else []
        scope = set(partitions)
        return [
            Found(row, score, found.exact)
            for row, score in zip(rows, found.scores, strict=True)
            # The index only proposes: what a caller may see is decided by the record itself.
            if row is not None and row[str(table.partition)] in scope and matches(where, row)
        ]

    async def aclose(self) -> None:
        """Wait for the commits that are under way, and refuse further ones."""
        self._closed = True
        if self._commits:
            await asyncio.wait(self._commits)
        await self._indexer.finish()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the database is closed. Open it again with pattern_core.open(…).")


class Transaction(Session):
    """A session that gathers edits; reads see them, and nobody else does until `commit` writes them all at once.

    The batch carries the revision of every record that was read, so it fails with `ConflictError` where one of them
    has changed. A record that newly satisfies a filter which was read is not noticed.

    Args:
        direct: The session below.
    """

    def __init__(self, direct: Direct) -> None:
        self._direct = direct
        self.embeddings = direct.embeddings
        self._tables: dict[str, Table] = {}
        self._read: dict[Key, Row | None] = {}
        self._staged: dict[Key, Row | None] = {}
        self._required: dict[Key, None] = {}
        self._vacant: list[CheckNone] = []
        self._began = utc_now()
        self._closed = False

    async def get(self, table: Table, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        self._check_open()
        missing = [id for id in dict.fromkeys(ids) if not self._knows(table, id, vectors=vectors)]
        if missing:
            rows = await self._direct.get(table, missing, vectors=vectors)
            for id, row in zip(missing, rows, strict=True):
                self._remember(table, id, row)
        return [self._current(table, id) for id in ids]

    async def find(
        self,
        table: Table,
        where: Filter | None = None,
        *,
        order: Sequence[Order] = (),
        limit: int | None = None,
        vectors: bool = False,
    ) -> list[Row]:
        self._check_open()
        staged = self._staged_ids(table)
        wanted = None if limit is None else limit + len(staged)
        rows = await self._direct.find(table, where, order=order, limit=wanted, vectors=vectors)
        for row in rows:
            if row["id"] not in staged:
                self._remember(table, row["id"], row)
        seen = [row for row in rows if row["id"] not in staged]
        return sorted(seen + self._staged_rows(table, where), key=_sort_key(order))[:limit]

    async def count(self, table: Table, where: Filter | None = None) -> int:
        self._check_open()
        staged = self._staged_ids(table)
        total = await self._direct.count(table, where)
        if staged:
            scope = Field("id").in_(staged)
            total -= await self._direct.count(table, scope if where is None else scope & where)
            total += len(self._staged_rows(table, where))
        return total

    async def repeat(self, work: Callable[[], Awaitable[T]]) -> T:
        return await work()  # what was read stays read: only the whole transaction can be repeated

    def turn(self, key: str) -> contextlib.AbstractAsyncContextManager[object]:  # noqa: ARG002 - nobody sees it yet
        return contextlib.nullcontext()

    async def edit(self, edits: Sequence[Edit | CheckNone]) -> list[Row]:
        self._check_open()
        before = dict(self._staged), dict(self._required), list(self._vacant)
        left = []
        try:
            for edit in edits:
                if isinstance(edit, CheckNone):
                    self._tables[edit.table.name] = edit.table
                    self._vacant.append(edit)
                    continue
                await self._check(edit)
                left.append(self._stage(edit))
        except BaseException:  # all or none, also within a transaction that goes on
            self._staged, self._required, self._vacant = before
            raise
        return [row for row in left if row is not None]

    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, where: Filter | None
    ) -> list[Found]:
        self._check_open()
        staged = self._staged_ids(table)
        hits = await self._direct.search(table, vector, partitions=partitions, limit=limit + len(staged), where=where)
        hits = [hit for hit in hits if hit.row["id"] not in staged]
        for hit in hits:
            self._remember(table, hit.row["id"], hit.row)
        mine = await self._score_staged(table, vector, partitions, where)
        return sorted(hits + mine, key=lambda hit: (-hit.score, hit.row["id"]))[:limit]

    async def _score_staged(
        self, table: Table, vector: Vector, partitions: Sequence[str], where: Filter | None
    ) -> list[Found]:
        """Score the staged records that the search may find."""
        column, partition = table.vector, table.partition
        if column is None or partition is None:
            return []
        mine = [row for row in self._staged_rows(table, where) if row[partition] in partitions]
        await self.get(table, [row["id"] for row in mine if column.name not in row], vectors=True)
        found = []
        for row in mine:
            before = self._read.get((table.name, row["id"])) or {}
            stored = row[column.name] if column.name in row else before.get(column.name)
            if stored is not None:
                found.append(Found(row, score(vector, stored, self._direct.metric), exact=True))
        return found

    async def commit(self) -> None:
        """Write everything at once.

        Raises:
            ConflictError: A record that was read has changed, or a unique key that was free is taken.
        """
        self._check_open()
        self._closed = True
        edits = [self._edit(key) for key in self._staged]
        edits = [edit for edit in edits if edit.before is not None or edit.after is not None]
        # Deletions first, so that what they free can be taken again; the rest in the order of the last change.
        gone = [edit for edit in edits if edit.after is None]
        rest = sorted((edit for edit in edits if edit.after is not None), key=lambda edit: edit.before is None)
        checks: list[Write] = [
            Check(self._tables[name], id, 0 if row is None else int(row["revision"]))
            for (name, id), row in self._read.items()
            if (name, id) not in self._staged
        ]
        known = self._read.keys() | self._staged.keys()
        checks += [Check(self._tables[name], id) for name, id in self._required if (name, id) not in known]
        if not edits:
            return  # nothing to write: what was read was read
        try:
            await self._direct.commit(
                [*checks, *(edit.write() for edit in gone), *self._vacant, *(edit.write() for edit in rest)],
                _changes(edits),
            )
        except AlreadyExistsError as error:
            # It was free when the edit was staged.
            raise ConflictError(error.table, str(error.key), None) from error
        except NotFoundError as error:
            raise ConflictError(error.table, error.id, None) from error

    def discard(self) -> None:
        """Forget everything that was staged."""
        self._closed = True

    def _edit(self, key: Key) -> Edit:
        return Edit(self._tables[key[0]], key[1], self._read.get(key), self._staged[key])

    async def _check(self, edit: Edit) -> None:
        """Refuse what could not be committed, now, where the caller can tell which call it was."""
        table = edit.table
        if edit.before is None and edit.after is None:
            await self._require(table, edit.id)
            return
        (current,) = await self.get(table, [edit.id])
        if edit.before is None and current is not None:
            raise self._taken(table, current, {"id": edit.id})
        if edit.after is None:
            return
        for columns in table.unique:
            key = {name: edit.after[name] for name in columns}
            if edit.before is not None and all(edit.before[name] == value for name, value in key.items()):
                continue
            same_key = And(tuple(Field(name) == value for name, value in key.items()))
            for other in await self.find(table, same_key & (Field("id") != edit.id), limit=1):
                raise self._taken(table, other, key)

    async def _require(self, table: Table, id: str) -> None:
        """Refuse what refers to a missing record. That the record changes otherwise does no harm, so it is not read."""
        key = (table.name, id)
        known = self._staged[key] if key in self._staged else self._read.get(key)
        if known is None and key not in self._staged:
            (known,) = await self._direct.get(table, [id])
        if known is None:
            raise NotFoundError(table.name, id)

    def _taken(self, table: Table, other: Row, key: Row) -> PatternError:
        """Tell a key that was taken all along from one that somebody took since the transaction began."""
        if (table.name, other["id"]) not in self._staged and other["updated_at"] >= self._began:
            return ConflictError(table.name, str(key), None)
        return AlreadyExistsError(table.name, key)

    def _stage(self, edit: Edit) -> Row | None:
        """Keep what the record shall be, and return it. However often it changes, it is one write, one revision."""
        key = (edit.table.name, edit.id)
        self._tables[edit.table.name] = edit.table
        if edit.before is None and edit.after is None:
            self._required[key] = None
        if edit.after is edit.before:
            return edit.after
        staged = self._staged.pop(key, None)  # so that it comes last
        if edit.after is None:
            self._staged[key] = None
            return None
        read, vector = self._read.get(key), edit.table.vector
        kept = {vector.name: staged[vector.name]} if staged and vector and vector.name in staged else {}
        revision = 1 if read is None else int(read["revision"]) + 1
        self._staged[key] = {**kept, **edit.after, "revision": revision}
        return dict(self._staged[key])  # type: ignore[arg-type]  # it was just set

    def _staged_ids(self, table: Table) -> set[str]:
        return {id for name, id in self._staged if name == table.name}

    def _staged_rows(self, table: Table, where: Filter | None) -> list[Row]:
        rows = [row for (name, _), row in self._staged.items() if name == table.name and row is not None]
        return [row for row in rows if matches(where, row)]

    def _knows(self, table: Table, id: str, *, vectors: bool) -> bool:
        key = (table.name, id)
        if key in self._staged and self._staged[key] is None:
            return True
        row = self._staged.get(key) or self._read.get(key)
        if row is None:
            return key in self._read
        return not vectors or table.vector is None or table.vector.name in row

    def _remember(self, table: Table, id: str, row: Row | None) -> None:
        key = (table.name, id)
        self._tables[table.name] = table
        known = self._read.get(key)
        if known is None and key not in self._read:
            self._read[key] = row
        elif known is None or row is None or known["revision"] != row["revision"]:
            raise ConflictError(table.name, id, None if known is None else int(known["revision"]))
        else:
            self._read[key] = {**row, **known}

    def _current(self, table: Table, id: str) -> Row | None:
        key = (table.name, id)
        before = self._read.get(key)
        if key not in self._staged:
            return dict(before) if before is not None else None
        staged = self._staged[key]
        if staged is None:
            return None
        vector = table.vector.name if table.vector else None
        kept = {vector: before[vector]} if before is not None and vector in before else {}
        return {**kept, **staged}

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the transaction has ended; begin another with db.transaction()")


def _sort_key(order: Sequence[Order]) -> Callable[[Row], Any]:
    """Sort rows as `Storage.find` does: null first, ties by id."""

    def compare(left: Row, right: Row) -> int:
        for key in (*order, Order("id")):
            a, b = left[key.column], right[key.column]
            if a == b:
                continue
            less = a is None or (b is not None and a < b)
            return 1 if less == key.descending else -1
        return 0

    return cmp_to_key(compare)
