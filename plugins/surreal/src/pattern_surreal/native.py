"""SurrealDB's own vector search: its HNSW, never trusted alone.

The vectors stay what they are, bytes in the vector's column. The engine indexes arrays only, so next to it stands a
column that `SurrealStorage` writes in the same commits, made from the vector. It costs writes much, and a search in
one partition is slower than comparing the partition's vectors; where the engine's index finds fewer than it should,
they are compared.
"""

# ruff: noqa: S608 - the names in the statements come from the schema, and every value is bound

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from pattern_core.abc import Health, IndexSpec, Matches, Vector, VectorChange, VectorStore
from pattern_core.errors import ClosedError, ConfigError, StorageError, nearest
from pattern_core.filters import Field
from pattern_core.schema import Table
from pattern_core.validators import as_vector

from .commit import Transaction
from .dialect import Parameters, name
from .storage import DERIVED_INDEX, SurrealStorage
from .values import record

__all__ = ["NativeIndex", "adopt_native_columns", "drop_native_columns"]

_SUFFIX: Final = "_native"
_BATCH: Final = 200
_MAX_NEAREST: Final = 4096
"""How many matches are asked of the index at most; for more, all are compared."""
_DISTANCES: Final = {
    "cosine": "1 - vector::similarity::cosine",
    "euclidean": "vector::distance::euclidean",
    "manhattan": "vector::distance::manhattan",
}


def _to_array(vector: Vector) -> list[float]:
    return [float(each) for each in np.asarray(vector, dtype=np.float32).tolist()]


async def adopt_native_columns(storage: SurrealStorage) -> None:
    """Let a storage that was just opened keep up the native columns that are there, whoever searches now."""
    for table in sorted(await storage.tables()):
        if table.isidentifier() and (column := await _column(storage, table)):
            storage.derived = {**storage.derived, table: (column, _to_array)}


async def drop_native_columns(storage: SurrealStorage) -> None:
    """Remove all native columns and their indexes: where nobody searches them, they only cost."""
    for table in list(storage.derived):
        await storage.drop_derived(table)


async def _fields(storage: SurrealStorage, table: str) -> dict[str, dict[str, str]]:
    [info] = await storage.query(f"INFO FOR TABLE {name(table)}")
    found: dict[str, dict[str, str]] = info
    return found


async def _column(storage: SurrealStorage, table: str) -> str | None:
    fields = (await _fields(storage, table))["fields"]
    return next((field for field in fields if field.endswith(_SUFFIX)), None)


class NativeIndex(VectorStore):
    """Vector search by SurrealDB's HNSW index, over the storage's own tables.

    Args:
        storage: Where the vectors are. It is not closed with the index.
        efc: How many candidates the index weighs when it adds a vector.
        m: How many neighbours it links a vector to.
        ef: How many candidates it weighs in a search, at least.
    """

    def __init__(self, storage: SurrealStorage, *, efc: int, m: int, ef: int) -> None:
        self._storage = storage
        self._efc = efc
        self._m = m
        self._ef = ef
        self._specs: dict[str, IndexSpec] = {}
        self._closed = False

    async def create(self, index: IndexSpec) -> None:
        self._check_open()
        table = index.table
        if index.metric not in _DISTANCES:
            message = f"unknown metric {index.metric!r}. {nearest(index.metric, _DISTANCES)}"
            raise ConfigError(message, key="vectors.metric")
        column = _native(table)
        form = f"HNSW DIMENSION {index.dimensions} DIST {index.metric.upper()} TYPE F32 EFC {self._efc} M {self._m}"
        info = await _fields(self._storage, table.name)
        if column in info["fields"] and f" {form} " not in f"{info['indexes'].get(DERIVED_INDEX, '')} ":
            await self._drop(table.name, column)
        at, of = name(table.name), name(column)
        statements = [
            f"DEFINE FIELD IF NOT EXISTS {of} ON {at} TYPE option<array<float>>",
            f"DEFINE INDEX IF NOT EXISTS {DERIVED_INDEX} ON {at} FIELDS {of} {form}",
        ]

        def define() -> Transaction:
            self._storage.derived = {**self._storage.derived, table.name: (column, _to_array)}
            return Transaction(statements, {}, [])

        await self._storage.transact(define)
        await self._fill(table, column)
        self._specs[table.name] = index

    async def _fill(self, table: Table, column: str) -> None:
        """Make the column for records that lack it; commits make it for all others."""
        at, of, vector = name(table.name), name(column), name(_vector(table))
        [lacking] = await self._storage.query(
            f"SELECT count() FROM {at} WHERE {vector} != NONE AND {of} = NONE GROUP ALL"
        )
        if not lacking or not lacking[0]["count"]:
            return
        present = ~Field(_vector(table)).is_null()
        statement = f"FOR $each IN $rows {{ UPDATE $each.id SET {of} = $each.array WHERE {of} = NONE RETURN NONE }}"
        columns = ["id", _vector(table)]
        async for batch in self._storage.scan(table, present, columns=columns, batch_rows=_BATCH):
            ids, vectors = batch.column("id").to_pylist(), batch.column(_vector(table)).to_pylist()
            rows = [{"id": record(table, id), "array": array} for id, array in zip(ids, vectors, strict=True)]
            bound = {"rows": rows}
            await self._storage.transact(lambda bound=bound: Transaction([statement], bound, []))  # type: ignore[misc]  # mypy cannot infer a lambda with a default

    async def exists(self, table: Table) -> bool:
        self._check_open()
        return DERIVED_INDEX in (await _fields(self._storage, table.name))["indexes"]

    async def apply(self, table: Table, changes: Sequence[VectorChange]) -> None:  # noqa: ARG002 - see below
        self._spec(table)  # the commit itself has changed the index

    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, ids: Sequence[str] | None = None
    ) -> Matches:
        spec = self._spec(table)
        query = _to_array(as_vector(vector, spec.dimensions))
        names = list(dict.fromkeys(partitions))
        if limit < 1 or not names or (ids is not None and not ids):
            return Matches((), (), exact=True)
        if ids is None and limit <= _MAX_NEAREST:
            found = await self._nearest(spec, query, names, limit)
            if len(found) == limit:
                return _matches(spec, found, exact=False)
        return _matches(spec, await self._compare(spec, query, names, limit, ids), exact=True)

    async def _nearest(
        self, spec: IndexSpec, query: list[float], partitions: list[str], limit: int
    ) -> list[tuple[float, str]]:
        """Ask the index. The answer may lack neighbours, and is empty where the engine has passed the index over."""
        parameters = Parameters()
        text = (
            f"SELECT VALUE [vector::distance::knn(), record::id(`id`)] FROM {name(spec.table.name)} "
            f"WHERE {name(_native(spec.table))} <|{limit:d},{max(self._ef, limit):d}|> {parameters.bind(query)} "
            f"AND {name(_partition(spec.table))} IN {parameters.bind(partitions)}"
        )
        [found] = await self._storage.query(text, parameters.values)
        if any(distance is None or distance != distance for distance, _ in found):  # noqa: PLR0124 - NaN
            return []
        return heapq.nsmallest(limit, [(float(distance), str(id)) for distance, id in found])

    async def _compare(
        self, spec: IndexSpec, query: list[float], partitions: list[str], limit: int, ids: Sequence[str] | None
    ) -> list[tuple[float, str]]:
        """Compare every vector of the partitions, or of the records."""
        parameters = Parameters()
        column = name(_native(spec.table))
        at = name(spec.table.name)
        if ids is not None:
            at = parameters.bind([record(spec.table, id) for id in dict.fromkeys(ids)])
        text = (
            f"SELECT `id`, {_DISTANCES[spec.metric]}({column}, {parameters.bind(query)}) AS distance FROM {at} "
            f"WHERE {name(_partition(spec.table))} IN {parameters.bind(partitions)} AND {column} != NONE "
            f"ORDER BY distance, `id` LIMIT {parameters.bind(limit)}"
        )
        [found] = await self._storage.query(text, parameters.values)
        return [(float(row["distance"]), str(row["id"].id)) for row in found]

    async def count(self, table: Table) -> int:
        self._spec(table)
        [found] = await self._storage.query(
            f"SELECT count() FROM {name(table.name)} WHERE {name(_native(table))} != NONE GROUP ALL"
        )
        return int(found[0]["count"]) if found else 0

    async def drop(self, table: Table) -> None:
        self._check_open()
        self._specs.pop(table.name, None)
        column = await _column(self._storage, table.name)
        if column is not None:
            await self._drop(table.name, column)

    async def _drop(self, table: str, column: str) -> None:
        self._storage.derived = {**self._storage.derived, table: (column, _to_array)}
        await self._storage.drop_derived(table)

    async def health(self) -> Health:
        self._check_open()
        health = await self._storage.health()
        details: dict[str, Any] = {"indexes": len(self._specs), "efc": self._efc, "m": self._m, "ef": self._ef}
        return Health(ok=health.ok, engine=f"{health.engine}, HNSW", details=details)

    async def aclose(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the vector index is closed; open the database again")

    def _spec(self, table: Table) -> IndexSpec:
        self._check_open()
        try:
            return self._specs[table.name]
        except KeyError:
            raise StorageError(f"{table.name} has no vector index; create it first") from None


def _vector(table: Table) -> str:
    if table.vector is None or table.partition is None:
        raise StorageError(f"{table.name} has no vectors to search; declare a vector column and a partition")
    return table.vector.name


def _partition(table: Table) -> str:
    _vector(table)
    return str(table.partition)


def _native(table: Table) -> str:
    return _vector(table) + _SUFFIX


def _matches(spec: IndexSpec, found: list[tuple[float, str]], *, exact: bool) -> Matches:
    if spec.metric == "cosine":
        scores = tuple(min(1.0, max(-1.0, 1.0 - distance)) for distance, _ in found)
    else:
        scores = tuple(0.0 - distance for distance, _ in found)
    return Matches(tuple(id for _, id in found), scores, exact=exact)
