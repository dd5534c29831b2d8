"""What is asked of the engine to find the closest vectors, and what has to be true of its answers.

Three ways, none of which is believed at its word:

- `compare`: a distance for each record, in order. Right on every version, ties by id; the slowest.
- `closest`: the engine's KNN over all records of the partitions, three times as fast or more. Of those that are equally
  far, which come is left to the engine.
- `by_index`: its HNSW, over the whole table, whatever partition: the caller asks for more than it needs. Where there is
  no such index, the engine answers with any records, and null for their distances.
"""

# ruff: noqa: S608 - the names in the statements come from the schema, and every value is bound

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from pattern_core.abc import IndexSpec
from pattern_core.errors import ConfigError, nearest

from .derived import INDEX, native_column, partition_column, vector_column
from .dialect import Parameters, name
from .values import record

__all__ = [
    "BROKEN",
    "MAX_NEAREST",
    "Near",
    "Query",
    "agree",
    "by_index",
    "closest",
    "compare",
    "definition",
    "form",
    "lacking",
]

BROKEN: Final = frozenset({(3, 0, 0), (3, 0, 1)})
"""The versions of SurrealDB whose KNN leaves out what is there (surrealdb/surrealdb#6994)."""
MAX_NEAREST: Final = 4096
"""How many neighbours are asked of the engine's KNN at most; for more, all are compared."""
_ROUNDING: Final = 1e-3
_FUNCTIONS: Final = {
    "cosine": "1 - vector::similarity::cosine",
    "euclidean": "vector::distance::euclidean",
    "manhattan": "vector::distance::manhattan",
}


@attrs.frozen(order=True)
class Near:
    """A record that was found.

    Attributes:
        distance: How far it is from the query.
        id: Its id.
    """

    distance: float
    id: str


@attrs.frozen
class Query:
    """A question: the closest vectors in some partitions.

    Attributes:
        spec: What the index is for.
        vector: The query, as the engine takes it.
        partitions: The partitions to look in, each once.
        limit: The most matches to return.
    """

    spec: IndexSpec
    vector: list[float]
    partitions: tuple[str, ...]
    limit: int

    def scope(self, parameters: Parameters) -> str:
        """Return the condition that a record is in the partitions."""
        column = name(partition_column(self.spec.table))
        if len(self.partitions) == 1:
            return f"{column} = {parameters.bind(self.partitions[0])}"
        return f"{column} IN {parameters.bind(list(self.partitions))}"


def compare(query: Query, parameters: Parameters, ids: Sequence[str] | None = None) -> str:
    """Return the statement that compares all records of the partitions, or of those the ones with some ids."""
    table = query.spec.table
    at, column = name(table.name), name(native_column(table))
    if ids is not None:
        at = parameters.bind([record(table, id) for id in dict.fromkeys(ids)])
    each = (
        f"SELECT {_FUNCTIONS[query.spec.metric]}({column}, {parameters.bind(query.vector)}) AS distance, "
        f"record::id(`id`) AS id FROM {at} WHERE {query.scope(parameters)} AND {column} != NONE"
    )
    # Of a list of records, SurrealDB 3.0 takes no ORDER BY.
    return f"SELECT distance, id FROM ({each}) ORDER BY distance, id LIMIT {parameters.bind(query.limit)}"


def closest(query: Query, parameters: Parameters, limit: int) -> str:
    """Return the statement that asks the engine's KNN for the closest of all records of the partitions."""
    column = name(native_column(query.spec.table))
    return (
        f"SELECT vector::distance::knn() AS distance, record::id(`id`) AS id FROM {name(query.spec.table.name)} "
        f"WHERE {query.scope(parameters)} AND {column} <|{limit:d},{query.spec.metric.upper()}|> "
        f"{parameters.bind(query.vector)}"
    )


def by_index(query: Query, parameters: Parameters, limit: int, ef: int) -> str:
    """Return the statement that asks the engine's index for the closest records of the table, with their partitions."""
    table = query.spec.table
    return (
        f"SELECT vector::distance::knn() AS distance, record::id(`id`) AS id, "
        f"{name(partition_column(table))} AS partition FROM {name(table.name)} "
        f"WHERE {name(native_column(table))} <|{limit:d},{max(ef, limit):d}|> {parameters.bind(query.vector)}"
    )


def agree(given: float, true: float) -> bool:
    """Return whether the engine's index, which calculates in float32, may have measured a distance."""
    return abs(given - true) <= _ROUNDING * max(1.0, abs(true))


def lacking(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether some of what KNN has found has no distance: then the answer means nothing."""
    return any(row["distance"] is None or row["distance"] != row["distance"] for row in rows)


def form(spec: IndexSpec, efc: int, m: int) -> str:
    """Return how the engine's index has to be defined, as the engine itself writes it.

    Raises:
        ConfigError: There is no such metric.
    """
    if spec.metric not in _FUNCTIONS:
        message = f"unknown metric {spec.metric!r}. {nearest(spec.metric, _FUNCTIONS)}"
        raise ConfigError(message, key="vectors.metric")
    return f"HNSW DIMENSION {spec.dimensions} DIST {spec.metric.upper()} TYPE F32 EFC {efc} M {m}"


def definition(spec: IndexSpec, form: str) -> str:
    """Return the statement that has the engine make its index in the background."""
    table = spec.table
    vector_column(table)
    return f"DEFINE INDEX {INDEX} ON {name(table.name)} FIELDS {name(native_column(table))} {form} CONCURRENTLY"
