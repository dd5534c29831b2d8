"""Exact search in the engine: it compares all vectors of the partitions. Incomplete answers are rejected."""

# ruff: noqa: S608 - the names in the statements come from the schema, and every value is bound

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .array_column import array_column, read_state, state_of, vector_column
from .dialect import Parameters, name
from .knn import MAX_NEAREST, Near, Query, closest, compare, lacking
from .storage import SurrealStorage

__all__ = ["BruteForce"]


class BruteForce:
    """Exact search by the engine.

    Args:
        storage: The storage of the vectors.
    """

    def __init__(self, storage: SurrealStorage) -> None:
        self._storage = storage

    async def nearest(self, query: Query, ids: Sequence[str] | None = None) -> list[Near] | None:
        """Return the closest records, ties by id; None if the array column is not usable, or lacks some.

        Args:
            query: The query.
            ids: The only records to consider; None for all.
        """
        if ids is None and query.limit < MAX_NEAREST:
            parameters = Parameters()
            rows = await self._read(query, closest(query, parameters, query.limit + 1), parameters)
            if rows is None:
                return None
            found = sorted(Near(row["distance"], row["id"]) for row in rows if not lacking([row]))
            tied = len(found) > query.limit and found[-1].distance == found[-2].distance
            if len(found) == len(rows) and not tied:
                return found[: query.limit] if await self._are_all(query, len(found)) else None
        parameters = Parameters()
        rows = await self._read(query, compare(query, parameters, ids), parameters)
        if rows is None or (ids is None and not await self._are_all(query, len(rows))):
            return None
        return [Near(row["distance"], row["id"]) for row in rows]

    async def _read(self, query: Query, text: str, parameters: Parameters) -> list[Mapping[str, Any]] | None:
        """Run a statement over the array column; None if it is not filled, since a process is building it."""
        table = query.spec.table
        result, rows = await self._storage.query(f"{read_state(table.name)}; {text}", parameters.values)
        state = state_of(result)
        usable = state is not None and state.filled and state.column == array_column(table)
        return list(rows) if usable else None

    async def _are_all(self, query: Query, found: int) -> bool:
        """Return whether an answer has as many records as it should."""
        return found >= query.limit or found == await self.count(query)

    async def count(self, query: Query) -> int:
        """Count the stored vectors of the partitions."""
        parameters, table = Parameters(), query.spec.table
        text = (
            f"SELECT count() FROM {name(table.name)} WHERE {query.scope(parameters)} "
            f"AND {name(vector_column(table))} != NONE GROUP ALL"
        )
        [groups] = await self._storage.query(text, parameters.values)
        return int(groups[0]["count"]) if groups else 0
