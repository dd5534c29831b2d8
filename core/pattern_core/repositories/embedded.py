"""Records that are found by what they mean."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from pattern_core.abc import Row
from pattern_core.errors import NotFoundError, ValidationError, shorten
from pattern_core.filters import Filter
from pattern_core.models import Hit
from pattern_core.schema import TABLES

from .base import R, Repository

__all__ = ["EmbeddedRepository"]


class EmbeddedRepository(Repository[R]):
    """A repository whose records are embedded when they are written, and again when their text changes."""

    @abstractmethod
    def _text(self, record: R) -> str:
        """Return the text of a record that is embedded; a blank one is not."""

    async def _rows(self, records: Sequence[R]) -> list[Row]:
        rows = [self._row(record) for record in records]
        texts = [self._text(record) for record in records]
        wanted = [index for index, text in enumerate(texts) if text.strip()]
        vectors = await self._session.embeddings.documents([texts[index] for index in wanted])
        model = await self._model() if wanted else None
        for index, vector in zip(wanted, vectors, strict=True):
            rows[index]["embedding"] = vector
            rows[index]["embedding_model"] = model
        return rows

    async def _changed_row(self, before: R, after: R) -> Row:
        if self._text(before) == self._text(after):
            return await super()._changed_row(before, after)
        (row,) = await self._rows([after])
        if not self._text(after).strip():
            row["embedding"] = row["embedding_model"] = None
        return row

    async def _model(self) -> str:
        return (await self._session.embeddings.signature()).model

    async def _search(self, text: str, *, partitions: Sequence[str], limit: int, where: Filter | None) -> list[Hit[R]]:
        if not isinstance(limit, int) or limit < 1:
            raise ValidationError(f"limit has to be at least 1, got {shorten(limit)}", where=self.table.name)
        self.table.check_filter(where)
        vector = await self._session.embeddings.query(text)
        if not partitions:
            return []
        found = await self._session.search(self.table, vector, partitions=partitions, limit=limit, where=where)
        return [Hit(self._load(each.row), each.score, each.exact) for each in found]

    async def _exists(self, table: str, id: str) -> None:
        """Tell a scope without hits from one that does not exist."""
        if (await self._session.get(TABLES[table], [id])) == [None]:
            raise NotFoundError(table, id)
