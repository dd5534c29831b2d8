"""The vector search over the storage's own columns: it finds every committed vector at once."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from pattern_core.abc import IndexSpec, VectorChange
from pattern_core.errors import StorageError
from pattern_core.filters import Field
from pattern_core.schema import Table

from .ann_index import AnnSettings
from .engine import engine_errors
from .index_state import VectorIndex, expect_index, index_key
from .snapshot import Changes, Snapshot
from .storage import LanceStorage
from .vector_index import LanceVectorStore, last_changes

__all__ = ["ColumnIndex"]


class ColumnIndex(LanceVectorStore):
    """A vector search over the vector columns of a `LanceStorage`.

    Args:
        storage: The storage. It is not closed with the index.
        settings: The settings of indexes and searches.
    """

    def __init__(self, storage: LanceStorage, settings: AnnSettings) -> None:
        super().__init__(storage.database, settings)
        self._storage = storage

    def _columns(self, table: Table) -> tuple[str, str]:
        assert table.partition is not None and table.vector is not None  # noqa: S101, PT018 - `create` checks it
        return table.partition, table.vector.name

    async def _create(self, spec: IndexSpec, index: VectorIndex) -> None:
        async def plan(snapshot: Snapshot) -> Changes:
            with engine_errors(f"read the schema of {spec.table.name}"):
                schema = await (await snapshot.table(spec.table.name)).schema()
            width = schema.field(index.column).type.list_size
            if width != spec.dimensions:
                message = (
                    f"the vectors of {spec.table.name} have {width} dimensions, and the index needs {spec.dimensions}. "
                    f"Re-embed the database: `pattern reembed`."
                )
                raise StorageError(message)
            return Changes(state={index_key(spec.table.name): attrs.asdict(index)})

        await self._database.commit(plan)

    async def apply(self, table: Table, changes: Sequence[VectorChange]) -> None:
        self._check_open()
        dimensions = expect_index(await self._database.snapshot(), table.name).dimensions
        self._count_changes(len(last_changes(changes, dimensions)))

    async def count(self, table: Table) -> int:
        self._check_open()
        expect_index(await self._database.snapshot(), table.name)
        return await self._storage.count(table, ~Field(self._columns(table)[1]).is_null())
