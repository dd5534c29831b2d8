"""A session that gathers edits, and commits them all at once."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import cmp_to_key
from typing import Any, TypeVar

import numpy as np

from pattern_core.abc import Check, CheckNone, Row, Write
from pattern_core.embedding.chunks import EmbeddedText
from pattern_core.embedding.model import EmbeddingModel
from pattern_core.errors import (
    AlreadyExistsError,
    ClosedError,
    ConflictError,
    ModelChangedError,
    NotFoundError,
    PatternError,
)
from pattern_core.filters import And, Field, Filter, matches
from pattern_core.models import Embedding
from pattern_core.schema import Order, Table
from pattern_core.search.metrics import score
from pattern_core.support.clock import utc_now

from .direct import DirectSession
from .edits import Edit
from .session import Query, RowHit, Session

__all__ = ["Transaction"]

Key = tuple[str, str]
T = TypeVar("T")


class Transaction(Session):
    """A session that gathers edits. Its reads see them; other sessions see them after `commit`, all at once.

    The batch checks the revision of every record that was read, so it fails with `ConflictError` if one of them has
    changed. A new record that satisfies a filter which was read is not noticed.

    Args:
        direct: The session below.
    """

    def __init__(self, direct: DirectSession) -> None:
        self._direct = direct
        self._tables: dict[str, Table] = {}
        self._read: dict[Key, Row | None] = {}
        self._staged: dict[Key, Row | None] = {}
        self._embedded: dict[Key, EmbeddedText] = {}
        self._required: dict[Key, None] = {}
        self._vacant: list[CheckNone] = []
        self._began = utc_now()
        self._closed = False

    @property
    def embeddings(self) -> EmbeddingModel:
        return self._direct.embeddings

    @property
    def generation(self) -> int:
        return self._direct.generation

    async def get(self, table: Table, ids: Sequence[str]) -> list[Row | None]:
        self._check_open()
        missing = [id for id in dict.fromkeys(ids) if not self._knows(table, id)]
        if missing:
            rows = await self._direct.get(table, missing)
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
    ) -> list[Row]:
        self._check_open()
        staged = self._staged_ids(table)
        wanted = None if limit is None else limit + len(staged)
        rows = await self._direct.find(table, where, order=order, limit=wanted)
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

    async def retry(self, work: Callable[[], Awaitable[T]]) -> T:
        return await work()  # reads are kept, so only the whole transaction can be retried

    async def retry_on_model_change(self, work: Callable[[], Awaitable[T]]) -> T:
        return await work()  # as above

    def lock(self, key: str) -> contextlib.AbstractAsyncContextManager[object]:  # noqa: ARG002 - others see no edit yet
        return contextlib.nullcontext()

    async def edit(self, edits: Sequence[Edit | CheckNone]) -> list[Row]:
        self._check_open()
        before = dict(self._staged), dict(self._embedded), dict(self._required), list(self._vacant)
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
            self._staged, self._embedded, self._required, self._vacant = before
            raise
        return [row for row in left if row is not None]

    async def embed(self, texts: Sequence[str]) -> list[EmbeddedText]:
        self._check_open()
        return await self._direct.embed(texts)

    async def embed_query(self, text: str) -> Query:
        self._check_open()
        return await self._direct.embed_query(text)

    async def read_embeddings(self, table: Table, ids: Sequence[str]) -> dict[str, Embedding]:
        self._check_open()
        gone = {id for id in ids if (table.name, id) in self._staged and self._staged[table.name, id] is None}
        mine = {id: self._embedded[table.name, id] for id in ids if (table.name, id) in self._embedded}
        others = [id for id in ids if id not in gone and id not in mine]
        found = await self._direct.read_embeddings(table, others) if others else {}
        model = self._direct.active.signature.model
        for id, embedded in mine.items():
            if embedded.chunks is not None:
                vectors, spans = np.stack(embedded.chunks.vectors), embedded.chunks.spans
                found[id] = Embedding(vectors, spans, model=model, signature=embedded.signature)
        return found

    async def search(
        self, table: Table, query: Query, *, partitions: Sequence[str], limit: int, where: Filter | None
    ) -> list[RowHit]:
        self._check_open()
        if outdated := {each.generation for each in self._embedded.values()} - {query.generation}:
            raise ModelChangedError(min(outdated))
        staged = self._staged_ids(table)
        wanted = limit + len(staged)
        hits = await self._direct.search(table, query, partitions=partitions, limit=wanted, where=where)
        hits = [hit for hit in hits if hit.row["id"] not in staged]
        for hit in hits:
            self._remember(table, hit.row["id"], hit.row)
        rows = [row for row in self._staged_rows(table, where) if row[str(table.partition)] in partitions]
        embeddings = await self.read_embeddings(table, [row["id"] for row in rows])
        mine = [self._score_staged(table, query, row, embeddings[row["id"]]) for row in rows if row["id"] in embeddings]
        return sorted([*hits, *mine], key=lambda hit: (-hit.score, hit.row["id"]))[:limit]

    def _score_staged(self, table: Table, query: Query, row: Row, embedding: Embedding) -> RowHit:
        scores = [score(query.vector, vector, self._direct.metric) for vector in embedding.vectors]
        best = max(range(len(scores)), key=scores.__getitem__)
        span = embedding.spans[best] if len(scores) > 1 else None
        passage = None if span is None else table.text(row)[slice(*span)]
        return RowHit(row, scores[best], exact=True, passage=passage)

    async def commit(self) -> None:
        """Write everything at once.

        Raises:
            ConflictError: A record that was read has changed, or a unique key that was free is taken.
        """
        self._check_open()
        self._closed = True
        edits = [self._edit(key) for key in self._staged]
        edits = [edit for edit in edits if edit.before is not None or edit.after is not None]
        # Deletions first, since they free unique keys; the rest in the order of the last change.
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
            return
        try:
            await self._direct.commit(
                [*checks, *(edit.write() for edit in gone), *self._vacant, *(edit.write() for edit in rest)], edits
            )
        except AlreadyExistsError as error:
            # The key was free when the edit was staged.
            raise ConflictError(error.table, str(error.key), None) from error
        except NotFoundError as error:
            raise ConflictError(error.table, error.id, None) from error

    def discard(self) -> None:
        """Drop everything that was staged."""
        self._closed = True

    def _edit(self, key: Key) -> Edit:
        return Edit(self._tables[key[0]], key[1], self._read.get(key), self._staged[key], self._embedded.get(key))

    async def _check(self, edit: Edit) -> None:
        """Raise now what the commit would raise later, so that the caller can tell which call failed."""
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
        """Raise `NotFoundError` for a reference to a missing record. The record may change, so it does not count as read."""
        key = (table.name, id)
        known = self._staged[key] if key in self._staged else self._read.get(key)
        if known is None and key not in self._staged:
            (known,) = await self._direct.get(table, [id])
        if known is None:
            raise NotFoundError(table.name, id)

    def _taken(self, table: Table, other: Row, key: Row) -> PatternError:
        """Return the error for a taken key: a conflict if it was taken after the transaction began."""
        if (table.name, other["id"]) not in self._staged and other["updated_at"] >= self._began:
            return ConflictError(table.name, str(key), None)
        return AlreadyExistsError(table.name, key)

    def _stage(self, edit: Edit) -> Row | None:
        """Stage a record, and return it. Several edits of one record become one write and one revision."""
        key = (edit.table.name, edit.id)
        self._tables[edit.table.name] = edit.table
        if edit.before is None and edit.after is None:
            self._required[key] = None
        if edit.after is edit.before:
            return edit.after
        self._staged.pop(key, None)  # the last edit decides its place in the batch
        if edit.after is None:
            self._staged[key] = None
            self._embedded.pop(key, None)
            return None
        if edit.embedded is not None:
            self._embedded[key] = edit.embedded
        read = self._read.get(key)
        staged = {**edit.after, "revision": 1 if read is None else int(read["revision"]) + 1}
        self._staged[key] = staged
        return dict(staged)

    def _staged_ids(self, table: Table) -> set[str]:
        return {id for name, id in self._staged if name == table.name}

    def _staged_rows(self, table: Table, where: Filter | None) -> list[Row]:
        rows = [row for (name, _), row in self._staged.items() if name == table.name and row is not None]
        return [row for row in rows if matches(where, row)]

    def _knows(self, table: Table, id: str) -> bool:
        return (table.name, id) in self._staged or (table.name, id) in self._read

    def _remember(self, table: Table, id: str, row: Row | None) -> None:
        key = (table.name, id)
        self._tables[table.name] = table
        if key not in self._read:
            self._read[key] = row
            return
        known = self._read[key]
        if known is None or row is None or known["revision"] != row["revision"]:
            raise ConflictError(table.name, id, None if known is None else int(known["revision"]))

    def _current(self, table: Table, id: str) -> Row | None:
        key = (table.name, id)
        row = self._staged[key] if key in self._staged else self._read.get(key)
        return dict(row) if row is not None else None

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the transaction has ended; begin another with db.transaction()")


def _sort_key(order: Sequence[Order]) -> Callable[[Row], Any]:
    """Return the sort key of `Storage.find`: null first, ties by id."""

    def compare(left: Row, right: Row) -> int:
        for key in (*order, Order("id")):
            a, b = left[key.column], right[key.column]
            if a == b:
                continue
            less = a is None or (b is not None and a < b)
            return 1 if less == key.descending else -1
        return 0

    return cmp_to_key(compare)
