"""Records that are found by what they mean."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import TypeVar

import attrs

from pattern_core.abc import Row
from pattern_core.errors import NotFoundError, ValidationError, shorten
from pattern_core.filters import Filter
from pattern_core.models import EmbeddedRecord, Hit
from pattern_core.schema import TABLES
from pattern_core.sessions.edits import Edit
from pattern_core.sessions.session import RowHit

from .base import Repository

__all__ = ["EmbeddedRepository"]

E = TypeVar("E", bound=EmbeddedRecord)


class EmbeddedRepository(Repository[E]):
    """A repository whose records are embedded when they are written, and again when their text changes."""

    async def get(self, id: str, *, with_embedding: bool = False) -> E:
        """Read a record that must exist.

        Args:
            id: Its id.
            with_embedding: Whether to read its vectors as well.

        Returns:
            The record.

        Raises:
            NotFoundError: There is none.
        """
        return await self._with_embedding(await super().get(id)) if with_embedding else await super().get(id)

    async def find(self, id: str, *, with_embedding: bool = False) -> E | None:
        """Read a record that may exist.

        Args:
            id: Its id.
            with_embedding: Whether to read its vectors as well.

        Returns:
            The record, or None.
        """
        found = await super().find(id)
        return await self._with_embedding(found) if found is not None and with_embedding else found

    async def _with_embedding(self, record: E) -> E:
        return attrs.evolve(record, embedding=await self._session.read_embedding(self.table, record.id))

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
        """Return edits of records whose text is new, with what it became; what the model has made already is kept."""
        number = self._session.generation
        due = [edit for edit in edits if edit.embedded is None or edit.embedded.generation != number]
        embedded = iter(await self._session.embed([self.table.text(edit.after or {}) for edit in due]))
        wanted = {edit.id for edit in due}
        return [attrs.evolve(edit, embedded=next(embedded)) if edit.id in wanted else edit for edit in edits]

    async def _search(
        self, text: str, *, partitions: Sequence[str], limit: int, where: Filter | None
    ) -> builtins.list[Hit[E]]:
        if not isinstance(limit, int) or limit < 1:
            raise ValidationError(f"limit has to be at least 1, got {shorten(limit)}", where=self.table.name)
        self.table.check_filter(where)

        async def look() -> builtins.list[RowHit]:
            query = await self._session.embed_query(text)
            if not partitions:
                return []
            return await self._session.search(self.table, query, partitions=partitions, limit=limit, where=where)

        found = await self._session.retry_on_model_change(look)
        return [Hit(self._load(each.row), each.score, each.exact, each.passage) for each in found]

    async def _exists(self, table: str, id: str) -> None:
        """Tell a scope without hits from one that does not exist."""
        if (await self._session.get(TABLES[table], [id])) == [None]:
            raise NotFoundError(table, id)
