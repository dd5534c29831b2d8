"""Repositories of records with an embedding, which searches find by meaning."""

from __future__ import annotations

import builtins
import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import attrs

from pattern_core.abc import Row
from pattern_core.errors import NotFoundError, ValidationError, shorten
from pattern_core.filters import Filter
from pattern_core.models import EmbeddedRecord, Hit
from pattern_core.schema import TABLES
from pattern_core.sessions.edits import Edit
from pattern_core.sessions.session import RowHit

from .append import check_limit
from .base import Repository

__all__ = ["EmbeddedRepository"]

E = TypeVar("E", bound=EmbeddedRecord)


class EmbeddedRepository(Repository[E]):
    """A repository whose records are embedded when they are written, and again when their text changes."""

    async def get(self, id: str, *, with_embedding: bool = False) -> E:
        """Return a record that must exist.

        Args:
            id: The id of the record.
            with_embedding: Whether to include its vectors.

        Returns:
            The record.

        Raises:
            NotFoundError: There is no such record.
        """
        found = await super().get(id)
        return (await self._with_embeddings([found]))[0] if with_embedding else found

    async def get_many(self, ids: Iterable[str], *, with_embedding: bool = False) -> builtins.list[E]:
        """Return records that must exist.

        Args:
            ids: The ids, in any order, repeats allowed.
            with_embedding: Whether to include their vectors.

        Returns:
            The records, in the order of the ids.

        Raises:
            NotFoundError: One of them does not exist.
        """
        found = await super().get_many(ids)
        return await self._with_embeddings(found) if with_embedding else found

    async def find(self, id: str, *, with_embedding: bool = False) -> E | None:
        """Return a record that may exist.

        Args:
            id: The id of the record.
            with_embedding: Whether to include its vectors.

        Returns:
            The record; None if there is none.
        """
        found = await super().find(id)
        return (await self._with_embeddings([found]))[0] if found is not None and with_embedding else found

    async def _with_embeddings(self, records: Sequence[E]) -> builtins.list[E]:
        embeddings = await self._session.read_embeddings(self.table, [each.id for each in records])
        return [attrs.evolve(each, embedding=embeddings.get(each.id)) for each in records]

    async def _insert(self, records: Sequence[E]) -> builtins.list[E]:
        creations = await self._creations(records)

        async def work() -> builtins.list[E]:
            return await self._write(await self._embedded(creations))

        return await self._session.retry_on_model_change(work)

    async def _creations(self, records: Sequence[E]) -> builtins.list[Edit]:
        return await self._embedded(await super()._creations(records))

    async def _edit_of(self, before: Row, after: Row) -> Edit:
        edit = await super()._edit_of(before, after)
        if self.table.text(before) == self.table.text(after):
            return edit
        (embedded,) = await self._embedded([edit])
        return embedded

    async def _embedded(self, edits: Sequence[Edit]) -> builtins.list[Edit]:
        """Return edits with their texts embedded; texts that the current model has embedded are kept."""
        number = self._session.generation
        due = [edit for edit in edits if edit.embedded is None or edit.embedded.generation != number]
        embedded = iter(await self._session.embed([self.table.text(edit.after or {}) for edit in due]))
        wanted = {edit.id for edit in due}
        return [attrs.evolve(edit, embedded=next(embedded)) if edit.id in wanted else edit for edit in edits]

    async def _search(
        self,
        text: str,
        *,
        partitions: Sequence[str],
        limit: int,
        where: Filter | None,
        min_score: float | None = None,
    ) -> builtins.list[Hit[E]]:
        check_limit(limit, self.table.name)
        _check_score(min_score, self.table.name)
        self.table.check_filter(where)

        async def look() -> builtins.list[RowHit]:
            query = await self._session.embed_query(text)
            if not partitions:
                return []
            return await self._session.search(self.table, query, partitions=partitions, limit=limit, where=where)

        found = await self._session.retry_on_model_change(look)
        return [
            Hit(self._load(each.row), each.score, each.exact, each.passage)
            for each in found
            if min_score is None or each.score >= min_score
        ]

    async def _check_exists(self, table: str, id: str) -> None:
        """Raise `NotFoundError` for a missing record, to tell an empty scope from one that does not exist."""
        if (await self._session.get(TABLES[table], [id])) == [None]:
            raise NotFoundError(table, id)


def _check_score(score: object, where: str) -> None:
    number = isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
    if score is not None and not number:
        raise ValidationError(f"min_score must be a finite number, got {shorten(score)}", where=where)
