"""Real, small implementations for tests that need no engine and no model: `MemoryStorage` and `LetterEmbedder`.

`pattern_core.search.exact.ExactIndex` is the vector search that goes with them.
"""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from pattern_core.abc import (
    Check,
    CheckNone,
    Delete,
    Embedder,
    Health,
    IndexSpec,
    Insert,
    Matches,
    Patch,
    Put,
    Row,
    Signature,
    Storage,
    Vector,
    VectorChange,
    VectorStore,
    Write,
)
from pattern_core.errors import AlreadyExistsError, ClosedError, ConflictError, NotFoundError, StorageError, shorten
from pattern_core.filters import Field, Filter, matches
from pattern_core.hookspecs import EmbeddingSpec, StorageSpec, VectorSpec
from pattern_core.schema import AlterTable, Column, CreateTable, DropTable, Kind, Order, SchemaStep, Table
from pattern_core.search.exact import ExactIndex
from pattern_core.support.validators import as_vector

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "LetterEmbedder",
    "LetterOptions",
    "MemoryData",
    "MemoryOptions",
    "MemoryStorage",
    "MirrorIndex",
    "letter_embeddings",
    "memory_storage",
    "mirror_vectors",
]

MemoryData = dict[str, dict[str, Row]]
"""The rows of each table by id: what a `MemoryStorage` keeps."""

_PYTHON_TYPES: Final[Mapping[Kind, type]] = {
    Kind.TEXT: str,
    Kind.INTEGER: int,
    Kind.NUMBER: float,
    Kind.BOOLEAN: bool,
    Kind.TIME: datetime,
    Kind.OBJECT: dict,
    Kind.OBJECTS: list,
    Kind.TEXTS: list,
    Kind.VECTOR: np.ndarray,
}


class MemoryStorage(Storage):
    """A storage in a dict: simple, strict and correct, for tests.

    Args:
        data: Where to keep the rows; None for a new place. What one storage has left there, the next one finds.

    Attributes:
        uri: What tells the place from others.
    """

    def __init__(self, data: MemoryData | None = None) -> None:
        self._data: MemoryData | None = {} if data is None else data
        self.uri = f"memory:{id(self._data)}"

    async def tables(self) -> frozenset[str]:
        return frozenset(self._open())

    async def apply_schema(self, step: SchemaStep) -> None:
        data = self._open()
        match step:
            case CreateTable(table):
                data.setdefault(table.name, {})
            case DropTable(table):
                data.pop(table.name, None)
            case AlterTable(_, after):
                names = [column.name for column in after.columns]
                rows = self._rows(after)
                data[after.name] = {id: {name: row.get(name) for name in names} for id, row in rows.items()}

    async def get(self, table: Table, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        rows = self._rows(table)
        return [_copy(table, rows[id], vectors=vectors) if id in rows else None for id in ids]

    async def find(
        self,
        table: Table,
        where: Filter | None = None,
        *,
        order: Sequence[Order] = (),
        limit: int | None = None,
        vectors: bool = False,
    ) -> list[Row]:
        found = self._select(table, where)
        for key in reversed(order):
            found.sort(key=lambda row: _rank(row[key.column]), reverse=key.descending)
        return [_copy(table, row, vectors=vectors) for row in found[:limit]]

    async def count(self, table: Table, where: Filter | None = None) -> int:
        return len(self._select(table, where))

    async def scan(
        self,
        table: Table,
        where: Filter | None = None,
        *,
        columns: Sequence[str] | None = None,
        batch_rows: int = 1024,
    ) -> AsyncIterator[pa.RecordBatch]:
        import pyarrow as pa

        schema = table.arrow_schema(columns)
        chosen = [table.column(name) for name in schema.names]
        rows = self._select(table, where)
        for start in range(0, len(rows), batch_rows):
            self._open()
            part = [[_arrow(column, row[column.name]) for row in rows[start : start + batch_rows]] for column in chosen]
            yield pa.record_batch([pa.array(*each) for each in zip(part, schema.types, strict=True)], schema=schema)

    async def commit(self, batch: Sequence[Write]) -> None:
        data = self._open()
        # Rows are replaced, never changed, so a copy of the dicts is all that can be lost.
        after = {name: dict(self._rows(write.table)) for write in batch for name in [write.table.name]}
        for write in batch:
            _apply(after[write.table.name], write)
        data.update(after)

    async def health(self) -> Health:
        data = self._open()
        return Health(ok=True, engine="memory", details={"records": sum(map(len, data.values()))})

    async def execute(self, statement: str, parameters: Mapping[str, Any] | None = None) -> Any:
        self._open()
        raise StorageError(f"a storage in memory has no language to run {shorten(statement)} in; use its methods")

    async def aclose(self) -> None:
        self._data = None

    def _open(self) -> MemoryData:
        if self._data is None:
            raise ClosedError("the storage in memory is closed; open it again")
        return self._data

    def _rows(self, table: Table) -> dict[str, Row]:
        try:
            return self._open()[table.name]
        except KeyError:
            raise StorageError(f"there is no table {table.name}; create it with apply_schema") from None

    def _select(self, table: Table, where: Filter | None) -> list[Row]:
        rows = self._rows(table)
        return [rows[id] for id in sorted(rows) if matches(where, rows[id])]


def _apply(rows: dict[str, Row], write: Write) -> None:
    table = write.table
    match write:
        case Insert(_, row):
            if row["id"] in rows:
                raise AlreadyExistsError(table.name, {"id": row["id"]})
            _store(table, rows, row)
        case Put(_, row):
            _store(table, rows, row)
        case Patch(_, id, changes, revision):
            _expect(table, rows.get(id), id, revision, must_exist=True)
            _store(table, rows, rows[id] | changes)
        case Delete(_, id, revision):
            _expect(table, rows.get(id), id, revision, must_exist=False)
            rows.pop(id, None)
        case CheckNone(_, where):
            if any(matches(where, row) for row in rows.values()):
                raise ConflictError(table.name, str(where), None)
        case Check(_, id, 0):
            if id in rows:
                raise ConflictError(table.name, id, None)
        case Check(_, id, revision):
            _expect(table, rows.get(id), id, revision, must_exist=True)


def _expect(table: Table, row: Row | None, id: str, revision: int | None, *, must_exist: bool) -> None:
    if revision is not None and (row is None or row["revision"] != revision):
        raise ConflictError(table.name, id, revision)
    if row is None and must_exist:
        raise NotFoundError(table.name, id)


def _store(table: Table, rows: dict[str, Row], row: Row) -> None:
    _check(table, row)
    for key in table.unique:
        values = {name: row[name] for name in key}
        if any(other["id"] != row["id"] and values.items() <= other.items() for other in rows.values()):
            raise AlreadyExistsError(table.name, values)
    rows[row["id"]] = copy.deepcopy(row)


def _check(table: Table, row: Row) -> None:
    """Refuse what a strict database would refuse, so that tests see it without one."""
    if row.keys() != {column.name for column in table.columns}:
        raise StorageError(f"{table.name} takes every column and no other, got {shorten(sorted(row))}")
    for column in table.columns:
        value = row[column.name]
        fits = column.optional if value is None else isinstance(value, _PYTHON_TYPES[column.kind])
        if not fits or (isinstance(value, bool) and column.kind is not Kind.BOOLEAN):
            message = f"{table.name}.{column.name} holds {column.kind.value}, got {shorten(value)}"
            raise StorageError(message)


def _copy(table: Table, row: Row, *, vectors: bool) -> Row:
    left_out = table.vector.name if table.vector and not vectors else None
    return {name: copy.deepcopy(value) for name, value in row.items() if name != left_out}


def _rank(value: Any) -> tuple[Any, ...]:
    return () if value is None else (value,)


def _arrow(column: Column, value: Any) -> Any:
    if value is not None and column.kind in (Kind.OBJECT, Kind.OBJECTS):
        return json.dumps(value, ensure_ascii=False)
    return value


@attrs.frozen(kw_only=True)
class MemoryOptions:
    """The options of the storage in memory.

    Attributes:
        data: Where it keeps the rows.
    """

    data: MemoryData = attrs.field(factory=dict)


async def _open_memory(options: MemoryOptions) -> MemoryStorage:
    return MemoryStorage(options.data)


def memory_storage() -> StorageSpec:
    """Describe the storage in memory, as a plugin's hook does.

    Returns:
        The spec.
    """
    return StorageSpec(options=MemoryOptions, open=_open_memory, persistent=False, summary="a dict, for tests")


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
    def place(self) -> str:
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


class LetterEmbedder(Embedder):
    """A deterministic embedder of 64 dimensions that counts pairs of letters: like words, like vectors.

    It reads 300 tokens, a token being a character, so that limits can be tested as well.
    """

    @property
    def signature(self) -> Signature:
        return Signature(
            provider="letters", model="pairs", revision="1", dimensions=64, normalized=True, max_tokens=300
        )

    @property
    def max_batch(self) -> int:
        return 8

    async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.zeros((len(texts), 64), dtype=np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for pair in zip(f" {text}", f"{text} ", strict=True):
                vector[zlib.crc32("".join(pair).encode()) % 64] += 1
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    async def embed_query(self, text: str) -> Vector:
        vector: Vector = (await self.embed_documents([text]))[0]
        return vector

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    async def aclose(self) -> None:
        """There is nothing to let go of."""


@attrs.frozen(kw_only=True)
class LetterOptions:
    """The embedder of letters has nothing to set."""


async def _open_letters(options: LetterOptions) -> LetterEmbedder:  # noqa: ARG001 - there are no options to use
    return LetterEmbedder()


def letter_embeddings() -> EmbeddingSpec:
    """Describe the embedder of letters, as a plugin's hook does.

    Returns:
        The spec.
    """
    return EmbeddingSpec(
        options=LetterOptions, open=_open_letters, semantic=False, summary="pairs of letters, for tests"
    )
