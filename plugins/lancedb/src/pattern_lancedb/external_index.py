"""The vector search over copies: the vectors of any storage, in a Lance database of their own."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import numpy as np
import pyarrow as pa

from pattern_core.abc import Detail, IndexSpec, Storage, VectorChange
from pattern_core.errors import ConfigError, StorageError
from pattern_core.filters import Field
from pattern_core.schema import Table

from .ann_index import AnnSettings
from .database import LanceDatabase
from .dialect import any_of
from .engine import engine_errors
from .index_state import VectorIndex, ann_key, expect_index, find_index, index_key
from .maintenance import Maintenance
from .snapshot import Changes, Snapshot, TableDefinition, TableWrite
from .store import FILL_LOCK
from .vector_index import LanceVectorStore, last_changes

__all__ = ["ExternalIndex"]

_COPIES: Final = "copies"
"""The key in the manifest's state that marks a database of copies, without records."""


class ExternalIndex(LanceVectorStore):
    """A vector search over copies of the vectors of any storage.

    Args:
        database: The database of the copies. It is closed with the index.
        storage: The storage of the vectors. It is not closed with the index.
        settings: The settings of indexes and searches.
    """

    def __init__(self, database: LanceDatabase, storage: Storage, settings: AnnSettings) -> None:
        super().__init__(database, settings)
        self._storage = storage
        self._maintenance = Maintenance(database)

    @property
    def location(self) -> str:
        return self._database.store.uri

    async def apply(self, table: Table, changes: Sequence[VectorChange]) -> None:
        self._check_open()
        name = table.name
        if find_index(await self._database.snapshot(), name) is None:
            async with self._database.store.lock(FILL_LOCK):  # wait for a process that fills the index
                pass

        async def plan(snapshot: Snapshot) -> Changes:
            dimensions = expect_index(snapshot, name).dimensions
            last = last_changes(changes, dimensions)
            rows = _rows_of_changes([change for change in last if change.vector is not None], _schema(dimensions))
            return Changes(writes={name: TableWrite(rows, [change.id for change in last if change.vector is None])})

        await self._database.commit(plan)
        self._count_changes(len(changes))

    async def count(self, table: Table) -> int:
        self._check_open()
        snapshot = await self._database.snapshot()
        expect_index(snapshot, table.name)
        memtable = snapshot.memtable(table.name)
        with engine_errors(f"count {table.name}"):
            lance = await snapshot.table(table.name)
            rows = await lance.count_rows()
            if memtable.ids:
                rows -= len(await lance.query().where(any_of("id", memtable.ids)).select(["id"]).to_arrow())
        return rows + (0 if memtable.rows is None else len(memtable.rows))

    async def maintain(self) -> Mapping[str, Detail]:
        return {**await self._maintenance.maintain(), **await super().maintain()}

    async def aclose(self) -> None:
        await super().aclose()
        await self._maintenance.aclose()
        await self._database.aclose()

    def _columns(self, table: Table) -> tuple[str, str]:  # noqa: ARG002 - all tables have the same columns
        return "partition", "vector"

    async def _create(self, spec: IndexSpec, index: VectorIndex) -> None:
        """Fill a new table with the vectors of the storage. The index exists when the table is complete."""
        table, name, filler = spec.table, spec.table.name, uuid.uuid4().hex
        assert table.partition is not None and table.vector is not None  # noqa: S101, PT018 - `create` checks it
        schema, uri = _schema(spec.dimensions), self._database.store.uri

        async def begin(snapshot: Snapshot) -> Changes:
            if snapshot.names and not snapshot.state.get(_COPIES):
                message = f"{uri} holds records. Give the copies of vectors a location of their own."
                raise ConfigError(message, key="vectors.uri" if "://" in uri else "vectors.path")
            state = {_COPIES: True, index_key(name): None, ann_key(name): None, _filler_key(name): filler}
            return Changes(create={name: TableDefinition(schema, ("id", "partition"))}, state=state)

        async def proceed(snapshot: Snapshot, changes: Changes) -> Changes:
            if snapshot.state.get(_filler_key(name)) != filler:
                message = f"another process builds the index of {name}. Open the database again."
                raise StorageError(message)
            return changes

        async with self._database.store.lock(FILL_LOCK):
            if find_index(await self._database.snapshot(), name) == index:  # another process has built it
                return
            await self._database.commit(begin)
            columns = ["id", table.partition, table.vector.name]
            async for batch in self._storage.scan(table, ~Field(table.vector.name).is_null(), columns=columns):
                changes = Changes(writes={name: TableWrite(_rows_of_batch(batch, schema, name))})
                await self._database.commit(lambda snapshot, changes=changes: proceed(snapshot, changes))  # type: ignore[misc]
            done = Changes(state={index_key(name): attrs.asdict(index), _filler_key(name): None})
            await self._database.commit(lambda snapshot: proceed(snapshot, done))

    async def _drop_changes(self, snapshot: Snapshot, name: str) -> Changes:
        drop = [name] if name in snapshot.names else []
        return Changes(drop=drop, state={index_key(name): None, ann_key(name): None, _filler_key(name): None})


def _filler_key(name: str) -> str:
    """Return the key of the process that fills an index, in the manifest's state."""
    return f"filling/{name}"


def _schema(dimensions: int) -> pa.Schema:
    vector = pa.field("vector", pa.list_(pa.float32(), dimensions), nullable=False)
    return pa.schema(
        [pa.field("id", pa.string(), nullable=False), pa.field("partition", pa.string(), nullable=False), vector]
    )


def _rows_of_batch(batch: pa.RecordBatch, schema: pa.Schema, name: str) -> pa.RecordBatch:
    """Return the copies of a storage's batch with id, partition and vector."""
    ids, partitions, vectors = batch.columns
    dimensions = schema.field("vector").type.list_size
    if len(batch) and set(np.diff(vectors.offsets.to_numpy()).tolist()) != {dimensions}:
        message = f"{name} has vectors without {dimensions} dimensions. Re-embed the database: `pattern reembed`."
        raise StorageError(message)
    fixed = pa.FixedSizeListArray.from_arrays(vectors.flatten(), type=schema.field("vector").type)
    return pa.record_batch([ids, partitions, fixed], schema=schema)


def _rows_of_changes(changes: Sequence[VectorChange], schema: pa.Schema) -> pa.RecordBatch | None:
    if not changes:
        return None
    numbers = np.concatenate([change.vector for change in changes if change.vector is not None])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(numbers), type=schema.field("vector").type)
    ids, partitions = [change.id for change in changes], [change.partition for change in changes]
    return pa.record_batch([pa.array(ids), pa.array(partitions), vectors], schema=schema)
