"""The KNN statements, and the checks of their answers.

There are three statements. None of their answers is trusted without a check:

- `compare` computes a distance for each record, and sorts. Correct on every version, ties by id; the slowest.
- `closest` uses the engine's KNN over all records of the partitions, at least three times as fast. Of equally distant
  records, the engine chooses any.
- `by_index` uses the engine's HNSW index over the whole table, all partitions together, so the caller over-fetches.
  Without such an index, the engine returns arbitrary records with null as their distances.
"""

# ruff: noqa: S608 - the names in the statements come from the schema, and every value is bound

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from pattern_core.abc import IndexSpec
from pattern_core.errors import ConfigError, nearest

from .array_column import INDEX, array_column, partition_column, vector_column
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
"""The versions of SurrealDB whose KNN omits records (surrealdb/surrealdb#6994)."""
MAX_NEAREST: Final = 4096
"""The most neighbors that the engine's KNN is asked for; for more, all vectors are compared."""
_ROUNDING: Final = 1e-3
_FUNCTIONS: Final = {
    "cosine": "1 - vector::similarity::cosine",
    "euclidean": "vector::distance::euclidean",
    "manhattan": "vector::distance::manhattan",
}


@attrs.frozen(order=True)
class Near:
    """A match.

    Attributes:
        distance: The distance from the query.
        id: The record.
    """

    distance: float
    id: str


@attrs.frozen
class Query:
    """A query for the closest vectors in some partitions.

    Attributes:
        spec: The spec of the index.
        vector: The query vector, as an array.
        partitions: The partitions to search, each once.
        limit: The most matches to return.
    """

    spec: IndexSpec
    vector: list[float]
    partitions: tuple[str, ...]
    limit: int

    def scope(self, parameters: Parameters) -> str:
        """Return the condition that limits a statement to the partitions."""
        column = name(partition_column(self.spec.table))
        if len(self.partitions) == 1:
            return f"{column} = {parameters.bind(self.partitions[0])}"
        return f"{column} IN {parameters.bind(list(self.partitions))}"


def compare(query: Query, parameters: Parameters, ids: Sequence[str] | None = None) -> str:
    """Return the statement that compares all records of the partitions, or those of them with some ids."""
    table = query.spec.table
    at, column = name(table.name), name(array_column(table))
    if ids is not None:
        at = parameters.bind([record(table, id) for id in dict.fromkeys(ids)])
    each = (
        f"SELECT {_FUNCTIONS[query.spec.metric]}({column}, {parameters.bind(query.vector)}) AS distance, "
        f"record::id(`id`) AS id FROM {at} WHERE {query.scope(parameters)} AND {column} != NONE"
    )
    # SurrealDB 3.0 rejects ORDER BY on a list of records.
    return f"SELECT distance, id FROM ({each}) ORDER BY distance, id LIMIT {parameters.bind(query.limit)}"


def closest(query: Query, parameters: Parameters, limit: int) -> str:
    """Return the statement for the engine's KNN over the partitions."""
    column = name(array_column(query.spec.table))
    return (
        f"SELECT vector::distance::knn() AS distance, record::id(`id`) AS id FROM {name(query.spec.table.name)} "
        f"WHERE {query.scope(parameters)} AND {column} <|{limit:d},{query.spec.metric.upper()}|> "
        f"{parameters.bind(query.vector)}"
    )


def by_index(query: Query, parameters: Parameters, limit: int, ef: int) -> str:
    """Return the statement for the engine's index over the whole table; it also returns the partitions."""
    table = query.spec.table
    return (
        f"SELECT vector::distance::knn() AS distance, record::id(`id`) AS id, "
        f"{name(partition_column(table))} AS partition FROM {name(table.name)} "
        f"WHERE {name(array_column(table))} <|{limit:d},{max(ef, limit):d}|> {parameters.bind(query.vector)}"
    )


def agree(given: float, true: float) -> bool:
    """Return whether two distances are equal within the float32 precision of the engine's index."""
    return abs(given - true) <= _ROUNDING * max(1.0, abs(true))


def lacking(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether some match has no distance, which makes the answer worthless."""
    return any(row["distance"] is None or row["distance"] != row["distance"] for row in rows)


def form(spec: IndexSpec, efc: int, m: int) -> str:
    """Return the definition of the engine's index, as the engine itself writes it.

    Raises:
        ConfigError: There is no such metric.
    """
    if spec.metric not in _FUNCTIONS:
        message = f"unknown metric {spec.metric!r}. {nearest(spec.metric, _FUNCTIONS)}"
        raise ConfigError(message, key="vectors.metric")
    return f"HNSW DIMENSION {spec.dimensions} DIST {spec.metric.upper()} TYPE F32 EFC {efc} M {m}"


def definition(spec: IndexSpec, form: str) -> str:
    """Return the statement that makes the engine build its index in the background."""
    table = spec.table
    vector_column(table)
    return f"DEFINE INDEX {INDEX} ON {name(table.name)} FIELDS {name(array_column(table))} {form} CONCURRENTLY"
