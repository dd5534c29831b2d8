"""An in-memory external index, for tests of the outbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
import numpy as np

from pattern_core.abc import (
    Delete,
    Health,
    IndexSpec,
    Matches,
    Put,
    Storage,
    Vector,
    VectorChange,
    VectorStore,
    Write,
)
from pattern_core.errors import StorageError
from pattern_core.filters import Field
from pattern_core.hookspecs import VectorSpec
from pattern_core.schema import Column, CreateTable, DropTable, Kind, Table
from pattern_core.search.exact import ExactIndex
from pattern_core.support.validators import as_vector

from .memory_storage import MemoryOptions, MemoryStorage

__all__ = ["MirrorIndex", "mirror_vectors"]

_STATE: Final = Table(
    "index_state",
    (
        Column("id", Kind.TEXT),
        Column("revision", Kind.INTEGER),
        Column("dimensions", Kind.INTEGER),
        Column("metric", Kind.TEXT),
        Column("database", Kind.TEXT),
    ),
)


class MirrorIndex(VectorStore):
    """An external index that keeps copies of the vectors in an in-memory storage of its own.

    Args:
        storage: The storage of the records. It is not closed with the index.
        index_storage: The storage of the index.
    """

    def __init__(self, storage: Storage, index_storage: MemoryStorage) -> None:
        self._storage = storage
        self._index_storage = index_storage

    @property
    def location(self) -> str:
        return self._index_storage.uri

    async def create(self, index: IndexSpec) -> None:
        table, mirror = index.table, _mirror(index.table)
        await self._index_storage.apply_schema(CreateTable(_STATE, 0))
        (found,) = await self._index_storage.get(_STATE, [table.name])
        state = {"dimensions": index.dimensions, "metric": index.metric, "database": index.database}
        if found is not None and state.items() <= found.items():
            return
        await self.drop(table)
        await self._index_storage.apply_schema(CreateTable(mirror, index.dimensions))
        present = ~Field("embedding").is_null()
        async for batch in self._storage.scan(table, present, columns=[column.name for column in mirror.columns]):
            rows = [row | {"embedding": np.array(row["embedding"], np.float32)} for row in batch.to_pylist()]
            await self._index_storage.commit([Put(mirror, row) for row in rows])
        # The state comes last, so an interrupted build does not count as ready.
        await self._index_storage.commit([Put(_STATE, {"id": table.name, "revision": 1, **state})])

    async def exists(self, table: Table) -> bool:
        if _STATE.name not in await self._index_storage.tables():
            return False
        return await self._index_storage.get(_STATE, [table.name]) != [None]

    async def apply(self, table: Table, changes: Sequence[VectorChange]) -> None:
        spec = await self._spec(table)
        writes: list[Write] = []
        for change in changes:
            if change.vector is None:
                writes.append(Delete(spec.table, change.id))
            else:
                vector = as_vector(change.vector, spec.dimensions)
                row = {"id": change.id, str(table.partition): change.partition, "embedding": vector}
                writes.append(Put(spec.table, row))
        await self._index_storage.commit(writes)

    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, ids: Sequence[str] | None = None
    ) -> Matches:
        spec = await self._spec(table)
        async with ExactIndex(self._index_storage) as index:  # not kept, since others write as well
            await index.create(spec)
            return await index.search(spec.table, vector, partitions=partitions, limit=limit, ids=ids)

    async def count(self, table: Table) -> int:
        return await self._index_storage.count((await self._spec(table)).table)

    async def drop(self, table: Table) -> None:
        if await self.exists(table):
            await self._index_storage.commit([Delete(_STATE, table.name)])
        await self._index_storage.apply_schema(DropTable(_mirror(table)))

    async def health(self) -> Health:
        return attrs.evolve(await self._index_storage.health(), engine="memory (copies of vectors)")

    async def aclose(self) -> None:
        await self._index_storage.aclose()

    async def _spec(self, table: Table) -> IndexSpec:
        if not await self.exists(table):
            raise StorageError(f"{table.name} has no vector index; create it first")
        (state,) = await self._index_storage.get(_STATE, [table.name])
        assert state is not None
        return IndexSpec(_mirror(table), state["dimensions"], state["metric"])


def _mirror(table: Table) -> Table:
    """Return the table that holds the copies of a table's vectors."""
    wanted = {"id", table.partition, table.vector.name if table.vector else ""}
    return Table(table.name, tuple(each for each in table.columns if each.name in wanted), partition=table.partition)


async def _open_mirror(options: MemoryOptions, storage: Storage) -> MirrorIndex:
    return MirrorIndex(storage, MemoryStorage(options.data))


def mirror_vectors() -> VectorSpec:
    """Describe the external index, as the hook of a plugin does.

    Returns:
        The spec.
    """
    return VectorSpec(options=MemoryOptions, open=_open_mirror, summary="copies of the vectors in a dict, for tests")
