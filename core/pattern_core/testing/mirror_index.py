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
    """An external index for tests: it keeps the vectors once more, in another storage.

    Args:
        storage: Where the records are. It is not closed with the index.
        place: Where the index is kept.
    """

    def __init__(self, storage: Storage, place: MemoryStorage) -> None:
        self._storage = storage
        self._place = place

    @property
    def location(self) -> str:
        return self._place.uri

    async def create(self, index: IndexSpec) -> None:
        table, mirror = index.table, _mirror(index.table)
        await self._place.apply_schema(CreateTable(_STATE, 0))
        (found,) = await self._place.get(_STATE, [table.name])
        state = {"dimensions": index.dimensions, "metric": index.metric, "database": index.database}
        if found is not None and state.items() <= found.items():
            return
        await self.drop(table)
        await self._place.apply_schema(CreateTable(mirror, index.dimensions))
        present = ~Field("embedding").is_null()
        async for batch in self._storage.scan(table, present, columns=[column.name for column in mirror.columns]):
            rows = [row | {"embedding": np.array(row["embedding"], np.float32)} for row in batch.to_pylist()]
            await self._place.commit([Put(mirror, row) for row in rows])
        # Last, so that an index that was left unfinished does not pass for a ready one.
        await self._place.commit([Put(_STATE, {"id": table.name, "revision": 1, **state})])

    async def exists(self, table: Table) -> bool:
        if _STATE.name not in await self._place.tables():
            return False
        return await self._place.get(_STATE, [table.name]) != [None]

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
        await self._place.commit(writes)

    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, ids: Sequence[str] | None = None
    ) -> Matches:
        spec = await self._spec(table)
        async with ExactIndex(self._place) as index:  # anew each time: others write to the place as well
            await index.create(spec)
            return await index.search(spec.table, vector, partitions=partitions, limit=limit, ids=ids)

    async def count(self, table: Table) -> int:
        return await self._place.count((await self._spec(table)).table)

    async def drop(self, table: Table) -> None:
        if await self.exists(table):
            await self._place.commit([Delete(_STATE, table.name)])
        await self._place.apply_schema(DropTable(_mirror(table)))

    async def health(self) -> Health:
        return attrs.evolve(await self._place.health(), engine="memory, once more")

    async def aclose(self) -> None:
        await self._place.aclose()

    async def _spec(self, table: Table) -> IndexSpec:
        if not await self.exists(table):
            raise StorageError(f"{table.name} has no vector index; create it first")
        (state,) = await self._place.get(_STATE, [table.name])
        assert state is not None
        return IndexSpec(_mirror(table), state["dimensions"], state["metric"])


def _mirror(table: Table) -> Table:
    """Return the table that a table's vectors are kept in once more."""
    wanted = {"id", table.partition, table.vector.name if table.vector else ""}
    return Table(table.name, tuple(each for each in table.columns if each.name in wanted), partition=table.partition)


async def _open_mirror(options: MemoryOptions, storage: Storage) -> MirrorIndex:
    return MirrorIndex(storage, MemoryStorage(options.data))


def mirror_vectors() -> VectorSpec:
    """Describe the external index, as a plugin's hook does.

    Returns:
        The spec.
    """
    return VectorSpec(options=MemoryOptions, open=_open_mirror, summary="the vectors once more in a dict, for tests")
