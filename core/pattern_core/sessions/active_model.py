"""The active generation of vectors and its model, as one session knows them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence

from pattern_core.abc import Storage, VectorStore
from pattern_core.catalog.metadata import (
    SCHEMA_VERSION,
    Generation,
    Metadata,
    index_specs,
    read_metadata,
    read_revision,
)
from pattern_core.embedding.chunks import EmbeddedText, embed_texts
from pattern_core.embedding.model import EmbeddingModel
from pattern_core.errors import ClosedError, MigrationError, ModelChangedError, SignatureMismatchError, StorageError
from pattern_core.plugins.install_hint import upgrade_command

from .session import Query

__all__ = ["ActiveModel"]


class ActiveModel:
    """Knows which generation is active and which model embeds for it, and follows when either changes.

    A session or another process can make another generation active (`pattern_core.maintenance.reembedding`). The
    session learns of it before its next write or search, and embeds with the new model from then on.

    Args:
        storage: The storage.
        vectors: The vector search.
        embeddings: The embedding model of the active generation.
        metadata: The database metadata.
        metric: The metric of the vector search.

    Attributes:
        metadata: The database metadata, as last read.
        embeddings: The embedding model.
    """

    def __init__(
        self,
        storage: Storage,
        vectors: VectorStore,
        embeddings: EmbeddingModel,
        metadata: Metadata,
        *,
        metric: str,
    ) -> None:
        self.metadata = metadata
        self.embeddings = embeddings
        self._storage = storage
        self._vectors = vectors
        self._metric = metric
        self._next: tuple[int, EmbeddingModel] | None = None
        self._retired: list[asyncio.Task[None]] = []

    @property
    def generation(self) -> Generation:
        """The active generation, as far as this session knows."""
        return self.metadata.in_use

    @property
    def is_outdated(self) -> bool:
        """Whether the loaded model is not that of the active generation: another process has changed it."""
        embedder = self.embeddings.loaded
        return embedder is not None and embedder.signature != self.generation.signature

    async def embed(self, texts: Sequence[str]) -> list[EmbeddedText]:
        """Embed the texts of records; see `Session.embed`."""
        with self._use() as (model, number):
            return await embed_texts(model, number, texts)

    async def embed_query(self, text: str) -> Query:
        """Embed a text to search for; see `Session.embed_query`."""
        with self._use() as (model, number):
            return Query(await model.embed_query(text), number)

    @contextlib.contextmanager
    def _use(self) -> Iterator[tuple[EmbeddingModel, int]]:
        """Yield the model and its generation; raise `ModelChangedError` if a failure comes from a model change here."""
        model, number = self.embeddings, self.generation.number
        try:
            yield model, number
        except (ClosedError, SignatureMismatchError) as error:
            if model is self.embeddings:
                raise
            raise ModelChangedError(number) from error

    async def refresh(self) -> None:
        """Read the metadata again if its record has changed."""
        if await read_revision(self._storage) != self.metadata.revision:
            await self.reload()

    async def reload(self) -> None:
        """Read the metadata again. From then on, a model that is not that of the active generation is refused.

        Raises:
            MigrationError: Another process has migrated the database.
            StorageError: Another process uses another vector index, which would not receive this session's changes.
        """
        metadata = await read_metadata(self._storage)
        if metadata.schema_version != SCHEMA_VERSION:
            raise _migrated(metadata.schema_version)
        active = metadata.in_use
        if active.index_since != self.generation.index_since:
            raise StorageError(
                f"another process has opened this database with another vector search ({active.index or 'its own'}). "
                f"Neither would receive the other's changes. Nothing was written. Configure the same [vectors] in every "
                f"process, then open the database again."
            )
        if active.number != self.generation.number:
            for spec in index_specs(metadata, self._metric):  # deletions have to reach the new index
                await self._vectors.create(spec)
        self.metadata = metadata
        if self._next is None or self._next[0] != active.number:
            self.embeddings.replace_requirement(active.signature)
        elif self.embeddings is not self._next[1]:
            previous, self.embeddings = self.embeddings, self._next[1]
            self._retired.append(asyncio.create_task(previous.close_when_idle()))

    async def switch(self, number: int, model: EmbeddingModel, activate: Callable[[], Awaitable[None]]) -> None:
        """Make another generation active, and embed with its model from then on.

        The previous model is closed when its running calls end.

        Args:
            number: The number of the generation.
            model: Its model.
            activate: Makes the generation active. It may have done so even if it fails.
        """
        self._next = (number, model)  # before, since others may see the switch first
        try:
            await activate()
        finally:
            await self.reload()
            self._next = None

    async def aclose(self) -> None:
        """Stop waiting for retired models. The active model belongs to the caller."""
        for task in self._retired:
            task.cancel()
        await asyncio.gather(*self._retired, return_exceptions=True)


def _migrated(version: int) -> MigrationError:
    if version > SCHEMA_VERSION:
        way_out = f"This pattern-core supports versions up to {SCHEMA_VERSION}. Update it: {upgrade_command()}"
    else:
        way_out = "Open the database again, which migrates it to the latest version."
    return MigrationError(
        f"another process has migrated the database to schema version {version}. Nothing was written. {way_out}"
    )
