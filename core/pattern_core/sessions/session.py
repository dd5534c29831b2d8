"""The interface of a session: reads, edits and searches of one database."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import attrs

from pattern_core.abc import CheckNone, Row, Vector
from pattern_core.embedding.chunks import EmbeddedText
from pattern_core.embedding.model import EmbeddingModel
from pattern_core.filters import Filter
from pattern_core.models import Embedding
from pattern_core.schema import Order, Table

from .edits import Edit

__all__ = ["Query", "RowHit", "Session"]

T = TypeVar("T")


@attrs.frozen
class Query:
    """An embedded query.

    Attributes:
        vector: A float32 array, shape ``[dimensions]``.
        generation: The generation whose model made the vector. It compares only with vectors of that generation.
    """

    vector: Vector
    generation: int


@attrs.frozen
class RowHit:
    """A row that a search found.

    Attributes:
        row: The row.
        score: The similarity to the query; more is closer.
        exact: Whether the search compared every candidate.
        passage: The matching chunk of the text; None if the text is not chunked.
    """

    row: Row
    score: float
    exact: bool
    passage: str | None = None


class Session(ABC):
    """Reads, edits and searches of one database."""

    @property
    @abstractmethod
    def embeddings(self) -> EmbeddingModel:
        """The embedding model."""

    @property
    @abstractmethod
    def generation(self) -> int:
        """The number of the generation that the model makes vectors for."""

    @abstractmethod
    async def retry(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run work, and run it again after a conflict that another attempt may not meet."""

    @abstractmethod
    async def retry_on_model_change(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run work, and run it again if the embedding model changed meanwhile. Any other error is raised."""

    @abstractmethod
    def lock(self, key: str) -> contextlib.AbstractAsyncContextManager[object]:
        """Return a lock that is held by one caller per key in this process."""

    @abstractmethod
    async def get(self, table: Table, ids: Sequence[str]) -> list[Row | None]:
        """Read records by id, as `Storage.get` does."""

    @abstractmethod
    async def find(
        self,
        table: Table,
        where: Filter | None = None,
        *,
        order: Sequence[Order] = (),
        limit: int | None = None,
    ) -> list[Row]:
        """Read the records that satisfy a filter, as `Storage.find` does."""

    @abstractmethod
    async def count(self, table: Table, where: Filter | None = None) -> int:
        """Count the records that satisfy a filter."""

    @abstractmethod
    async def embed(self, texts: Sequence[str]) -> list[EmbeddedText]:
        """Embed the texts of records, for `Edit.embedded`. A blank text has no vectors."""

    @abstractmethod
    async def embed_query(self, text: str) -> Query:
        """Embed a text to search for."""

    @abstractmethod
    async def read_embeddings(self, table: Table, ids: Sequence[str]) -> dict[str, Embedding]:
        """Read the vectors of records, for those that have any."""

    @abstractmethod
    async def edit(self, edits: Sequence[Edit | CheckNone]) -> list[Row]:
        """Apply edits, all or none, and return the records that they leave, in order."""

    @abstractmethod
    async def search(
        self, table: Table, query: Query, *, partitions: Sequence[str], limit: int, where: Filter | None
    ) -> list[RowHit]:
        """Find the closest records of some partitions that satisfy a filter, closest first, ties by id.

        Raises:
            ModelChangedError: Another generation has become active since the query was embedded.
        """
