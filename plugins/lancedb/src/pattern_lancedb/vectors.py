"""Vector search: over the column of the storage's own tables, or over a Lance database of its own.

Among up to `Settings.exact_rows` rows, all are compared. Among more, by the metrics that Lance knows, an index of its own
chooses which, with the partition as a prefilter; the index is made and renewed in the background.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs
import lancedb
import numpy as np
import pyarrow as pa

from pattern_core.abc import Detail, Health, IndexSpec, Matches, Storage, Vector, VectorChange, VectorStore
from pattern_core.errors import ClosedError, ConfigError, PatternError, StorageError, nearest
from pattern_core.filters import Field
from pattern_core.schema import Table
from pattern_core.toolkit import as_vector

from .dialect import any_of
from .index import Indexes, Settings, index_key, made_key
from .nearest import DISTANCES, Effort, Question, find_approximately, find_exactly
from .plugin import VectorOptions, place_of
from .storage import LanceStorage
from .tables import Changes, Definition, Lance, Snapshot, TableWrite, engine_errors
from .upkeep import Upkeep

__all__ = ["ColumnIndex", "ExternalIndex", "Made", "open_vectors"]

_METRICS: Final = frozenset({*DISTANCES, "manhattan"})
_LOG: Final = logging.getLogger(__name__)
_M, _EF = 20, 300
_COPIES: Final = "copies"
"""What the head's state says where a database holds copies of vectors, and no records."""
_CHECK_EVERY: Final = 512
"""After how many changes to see whether an index is due."""


@attrs.frozen(kw_only=True)
class Made:
    """What a table's index was made for, as the head's state holds it.

    Attributes:
        dimensions: The length of the vectors.
        metric: How they are compared.
        database: The database that they belong to.
        column: The column, in Lance, that holds them.
    """

    dimensions: int
    metric: str
    database: str
    column: str


class _LanceIndex(VectorStore):
    """What both kinds have in common."""

    def __init__(self, lance: Lance, settings: Settings) -> None:
        self._lance = lance
        self._indexes = Indexes(lance, settings)
        self._changes = 0
        self._tending: asyncio.Task[None] | None = None
        self._closed = False

    @abstractmethod
    def _columns(self, table: Table) -> tuple[str, str]:
        """Return the names of the columns, in Lance, that hold a table's partitions and vectors."""

    @abstractmethod
    async def _make(self, index: IndexSpec, made: Made) -> None:
        """Make what can be searched, and record what it was made for."""

    async def create(self, index: IndexSpec) -> None:
        self._check_open()
        if index.metric not in _METRICS:
            message = f"unknown metric {index.metric!r}. {nearest(index.metric, _METRICS)}"
            raise ConfigError(message, key="vectors.metric")
        if index.table.vector is None or index.table.partition is None:
            raise StorageError(f"{index.table.name} has no vectors to search; declare a vector column and a partition")
        _, column = self._columns(index.table)
        made = Made(dimensions=index.dimensions, metric=index.metric, database=index.database, column=column)
        if _made(await self._lance.snapshot(), index.table.name) != made:
            await self._make(index, made)
        self._tend_soon()

    async def exists(self, table: Table) -> bool:
        self._check_open()
        return _made(await self._lance.snapshot(), table.name) is not None

    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, ids: Sequence[str] | None = None
    ) -> Matches:
        self._check_open()
        snapshot = await self._lance.snapshot()
        made = _expect(snapshot, table.name)
        query = as_vector(vector, made.dimensions)
        names, only = _storable(partitions), None if ids is None else _storable(ids)
        if limit < 1 or not names or only == []:
            return Matches((), (), exact=True)
        question = Question(
            table=table.name,
            partition=self._columns(table)[0],
            column=made.column,
            metric=made.metric,
            query=query,
            partitions=names,
            limit=limit,
            ids=only,
        )
        settings, found = self._indexes.settings, None
        with engine_errors(f"search {table.name}"):
            if self._indexes.ready(snapshot, table.name, made.metric):
                found = await find_approximately(snapshot, question, above=settings.exact_rows, effort=settings.effort)
            return await find_exactly(snapshot, question) if found is None else found

    async def drop(self, table: Table) -> None:
        self._check_open()
        await self._lance.commit(lambda snapshot: self._without(snapshot, table.name))

    async def _without(self, snapshot: Snapshot, name: str) -> Changes:  # noqa: ARG002 - the storage keeps its tables
        return Changes(state={made_key(name): None})

    async def maintain(self) -> Mapping[str, Detail]:
        self._check_open()
        await self._lance.flush()
        done = {name: await self._tend(name) for name in _all_made(await self._lance.snapshot())}
        return {f"{name}_index": what for name, what in done.items() if what}

    async def health(self) -> Health:
        self._check_open()
        snapshot = await self._lance.snapshot()
        details: dict[str, Detail] = {"place": self._lance.place.uri}
        for name, made in _all_made(snapshot).items():
            if self._indexes.ready(snapshot, name, made.metric):
                details[f"{name}_index"] = self._indexes.settings.kind
                details[f"{name}_index_rows"] = snapshot.state[index_key(name)]["rows"]
        return Health(ok=True, engine=f"LanceDB {lancedb.__version__}", details=details)

    async def aclose(self) -> None:
        self._closed = True
        if self._tending is not None:
            self._tending.cancel()  # a table that it works on is finished none the less, before the database is closed
            await asyncio.wait([self._tending])

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the vector index is closed; open the database again")

    def _count(self, changes: int) -> None:
        self._changes += changes
        if self._changes >= _CHECK_EVERY:
            self._changes = 0
            self._tend_soon()

    def _tend_soon(self) -> None:
        if self._tending is None or self._tending.done():
            self._tending = asyncio.create_task(self._tend_all())

    async def _tend_all(self) -> None:
        try:
            for name in _all_made(await self._lance.snapshot()):
                await self._tend(name)
        except ClosedError:
            pass
        except PatternError as error:  # searches stay right without
            _LOG.warning("a vector index could not be renewed, so searches are slower: %s", error)

    async def _tend(self, name: str) -> str:
        made = _made(await self._lance.snapshot(), name)
        return "" if made is None else await self._indexes.tend(name, made.column, made.metric)


class ColumnIndex(_LanceIndex):
    """Searches the column of the storage's own tables: whatever is committed is found.

    Args:
        storage: The storage. It is not closed with the index.
        settings: How to search.
    """

    def __init__(self, storage: LanceStorage, settings: Settings) -> None:
        super().__init__(storage.lance, settings)
        self._storage = storage

    def _columns(self, table: Table) -> tuple[str, str]:
        assert table.partition is not None and table.vector is not None  # noqa: S101, PT018 - `create` has seen to it
        return table.partition, table.vector.name

    async def _make(self, index: IndexSpec, made: Made) -> None:
        async def plan(snapshot: Snapshot) -> Changes:
            with engine_errors(f"look at {index.table.name}"):
                schema = await (await snapshot.table(index.table.name)).schema()
            width = schema.field(made.column).type.list_size
            if width != index.dimensions:
                message = (
                    f"the vectors of {index.table.name} have {width} dimensions, so no index for {index.dimensions} can "
                    f"be made of them. Embed the database again with `pattern reembed`."
                )
                raise StorageError(message)
            return Changes(state={made_key(index.table.name): attrs.asdict(made)})

        await self._lance.commit(plan)

    async def apply(self, table: Table, changes: Sequence[VectorChange]) -> None:
        self._check_open()
        dimensions = _expect(await self._lance.snapshot(), table.name).dimensions
        self._count(len(_last(changes, dimensions)))

    async def count(self, table: Table) -> int:
        self._check_open()
        _expect(await self._lance.snapshot(), table.name)
        return await self._storage.count(table, ~Field(self._columns(table)[1]).is_null())


class ExternalIndex(_LanceIndex):
    """Keeps copies of the vectors of any storage in a Lance database of its own.

    Args:
        lance: The database. It is closed with the index.
        storage: Where the vectors come from. It is not closed with the index.
        settings: How to search.
    """

    def __init__(self, lance: Lance, storage: Storage, settings: Settings) -> None:
        super().__init__(lance, settings)
        self._storage = storage
        self._upkeep = Upkeep(lance)

    async def maintain(self) -> Mapping[str, Detail]:
        return {**await self._upkeep.maintain(), **await super().maintain()}

    @property
    def location(self) -> str:
        return self._lance.place.uri

    def _columns(self, table: Table) -> tuple[str, str]:  # noqa: ARG002 - they are the same for all
        return "partition", "vector"

    async def _make(self, index: IndexSpec, made: Made) -> None:
        """Fill a new table. Until it is full, there is no index."""
        table, name, filler = index.table, index.table.name, uuid.uuid4().hex
        assert table.partition is not None and table.vector is not None  # noqa: S101, PT018 - `create` has seen to it
        schema = _schema(index.dimensions)

        async def begin(snapshot: Snapshot) -> Changes:
            if snapshot.names and not snapshot.state.get(_COPIES):
                message = f"{self._lance.place.uri} holds records; give the copies of vectors a place of their own"
                raise ConfigError(message, key="vectors.path" if "://" not in self._lance.place.uri else "vectors.uri")
            state = {_COPIES: True, made_key(name): None, index_key(name): None, _filler_key(name): filler}
            return Changes(create={name: Definition(schema, ("id", "partition"))}, state=state)

        async def go_on(snapshot: Snapshot, changes: Changes) -> Changes:
            if snapshot.state.get(_filler_key(name)) != filler:
                message = f"the index of {name} is being made by another process as well; open the database again"
                raise StorageError(message)
            return changes

        async with self._lance.place.lock("fill"):
            if _made(await self._lance.snapshot(), name) == made:  # somebody else has made it meanwhile
                return
            await self._lance.commit(begin)
            columns = ["id", table.partition, table.vector.name]
            async for batch in self._storage.scan(table, ~Field(table.vector.name).is_null(), columns=columns):
                changes = Changes(writes={name: TableWrite(_rows(batch, schema, name))})
                await self._lance.commit(lambda snapshot, changes=changes: go_on(snapshot, changes))  # type: ignore[misc]
            done = Changes(state={made_key(name): attrs.asdict(made), _filler_key(name): None})
            await self._lance.commit(lambda snapshot: go_on(snapshot, done))

    async def apply(self, table: Table, changes: Sequence[VectorChange]) -> None:
        self._check_open()
        name = table.name
        if _made(await self._lance.snapshot(), name) is None:
            async with self._lance.place.lock("fill"):  # it may be about to be ready
                pass

        async def plan(snapshot: Snapshot) -> Changes:
            dimensions = _expect(snapshot, name).dimensions
            last = _last(changes, dimensions)
            rows = _to_rows([change for change in last if change.vector is not None], _schema(dimensions))
            return Changes(writes={name: TableWrite(rows, [change.id for change in last if change.vector is None])})

        await self._lance.commit(plan)
        self._count(len(changes))

    async def count(self, table: Table) -> int:
        self._check_open()
        snapshot = await self._lance.snapshot()
        _expect(snapshot, table.name)
        tail = snapshot.tail(table.name)
        with engine_errors(f"count {table.name}"):
            base = await snapshot.table(table.name)
            rows = await base.count_rows()
            if tail.ids:
                rows -= len(await base.query().where(any_of("id", tail.ids)).select(["id"]).to_arrow())
        return rows + (0 if tail.rows is None else len(tail.rows))

    async def _without(self, snapshot: Snapshot, name: str) -> Changes:
        drop = [name] if name in snapshot.names else []
        return Changes(drop=drop, state={made_key(name): None, index_key(name): None, _filler_key(name): None})

    async def aclose(self) -> None:
        await super().aclose()
        await self._upkeep.aclose()
        await self._lance.aclose()


def _filler_key(name: str) -> str:
    return f"filling/{name}"


def _all_made(snapshot: Snapshot) -> dict[str, Made]:
    """Return for each table that has an index what that was made for."""
    prefix = made_key("")
    return {key.removeprefix(prefix): Made(**made) for key, made in snapshot.state.items() if key.startswith(prefix)}


def _made(snapshot: Snapshot, name: str) -> Made | None:
    return _all_made(snapshot).get(name)


def _expect(snapshot: Snapshot, name: str) -> Made:
    made = _made(snapshot, name)
    if made is None:
        raise StorageError(f"{name} has no vector index; make it with create(IndexSpec(table, dimensions, metric))")
    return made


def _last(changes: Iterable[VectorChange], dimensions: int) -> list[VectorChange]:
    """Return the last change of each record, its vector checked."""
    last = {change.id: change for change in changes}
    return [
        change if change.vector is None else attrs.evolve(change, vector=as_vector(change.vector, dimensions))
        for change in last.values()
    ]


def _storable(texts: Iterable[str]) -> list[str]:
    """Return texts once each, without those that no record can hold."""
    found = []
    for text in dict.fromkeys(texts):
        with contextlib.suppress(UnicodeEncodeError):
            text.encode()
            found.append(text)
    return found


def _schema(dimensions: int) -> pa.Schema:
    vector = pa.field("vector", pa.list_(pa.float32(), dimensions), nullable=False)
    return pa.schema(
        [pa.field("id", pa.string(), nullable=False), pa.field("partition", pa.string(), nullable=False), vector]
    )


def _rows(batch: pa.RecordBatch, schema: pa.Schema, name: str) -> pa.RecordBatch:
    """Turn what a storage streams (id, partition, vector) into rows of the index."""
    ids, partitions, vectors = batch.columns
    dimensions = schema.field("vector").type.list_size
    if len(batch) and set(np.diff(vectors.offsets.to_numpy()).tolist()) != {dimensions}:
        message = f"{name} holds vectors of other than {dimensions} dimensions. Embed the database again with `pattern reembed`."
        raise StorageError(message)
    fixed = pa.FixedSizeListArray.from_arrays(vectors.flatten(), type=schema.field("vector").type)
    return pa.record_batch([ids, partitions, fixed], schema=schema)


def _to_rows(changes: Sequence[VectorChange], schema: pa.Schema) -> pa.RecordBatch | None:
    if not changes:
        return None
    numbers = np.concatenate([change.vector for change in changes if change.vector is not None])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(numbers), type=schema.field("vector").type)
    ids, partitions = [change.id for change in changes], [change.partition for change in changes]
    return pa.record_batch([pa.array(ids), pa.array(partitions), vectors], schema=schema)


async def open_vectors(options: VectorOptions, storage: Storage) -> VectorStore:
    """Open the vector search that options ask for.

    Args:
        options: The options.
        storage: The open storage.

    Raises:
        ConfigError: They ask for what is not to be had over this storage.
        StorageError: The index's place cannot be used.
    """
    effort = Effort(probes=options.probes, refine=options.refine, ef=options.ef or _EF)
    settings = Settings(
        kind=options.index,
        exact_rows=options.exact_rows,
        parts=options.index_partitions,
        m=options.m or _M,
        ef_construction=options.ef_construction or _EF,
        effort=effort,
    )
    if options.path is None and options.uri is None:
        if isinstance(storage, LanceStorage):
            return ColumnIndex(storage, settings)
        message = "the vectors of another storage need a place in LanceDB: set path (a folder) or uri (s3://…)"
        raise ConfigError(message, key="vectors.path")
    place = await place_of(options.path or Path(), options)
    return ExternalIndex(await Lance.open(place), storage, settings)
