"""Fills a new array column, while others write."""

# ruff: noqa: S608 - the names in the statements come from the schema, and every value is bound

from __future__ import annotations

from typing import Final

import attrs

from pattern_core.abc import IndexSpec
from pattern_core.errors import StorageError
from pattern_core.filters import Field

from .array_column import State, array_column, barrier, read_state, set_state, state_of, to_array, vector_column
from .commit import Transaction
from .dialect import name
from .storage import SurrealStorage
from .values import record, to_bytes

__all__ = ["backfill"]

_BATCH: Final = 200
_FLOAT_BYTES: Final = 4


async def backfill(storage: SurrealStorage, spec: IndexSpec) -> State:
    """Create the array column of a table, and fill it for every vector; do nothing if it is filled.

    Args:
        storage: The storage.
        spec: The spec of the index.

    Returns:
        The state of the column.

    Raises:
        StorageError: The vectors have other dimensions.
    """
    table, column = spec.table, array_column(spec.table)
    at, of, vector = name(table.name), name(column), name(vector_column(table))
    result, some = await storage.query(
        f"{read_state(table.name)}; SELECT VALUE {vector} FROM {at} WHERE {vector} != NONE LIMIT 1"
    )
    if some and len(some[0]) != _FLOAT_BYTES * spec.dimensions:
        held = len(some[0]) // _FLOAT_BYTES
        raise StorageError(
            f"{table.name} holds vectors with {held} dimensions, and the index is for {spec.dimensions}. "
            "Re-embed the records."
        )
    state = state_of(result)
    if state is None or state.column != column:
        state = State(column)
        # A typed array costs twice as much: the engine checks each number.
        statements = [
            f"REMOVE FIELD IF EXISTS {of}.* ON {at}",
            f"DEFINE FIELD OVERWRITE {of} ON {at} TYPE any",
            set_state(table.name, state),
        ]

        def define() -> Transaction:
            storage.array_columns = {**storage.array_columns, table.name: (column, to_array)}
            return Transaction(statements, {}, [])

        await storage.transact(define)
        await barrier(storage, table)
    storage.array_columns = {**storage.array_columns, table.name: (column, to_array)}
    if not state.filled:
        await _fill(storage, spec)
        state = attrs.evolve(state, filled=True)
        await storage.transact(lambda: Transaction([set_state(table.name, state)], {}, []))
    return state


async def _fill(storage: SurrealStorage, spec: IndexSpec) -> None:
    """Fill the column for records that lack it; commits fill it for all others."""
    table = spec.table
    of, vector = name(array_column(table)), vector_column(table)
    # A record with another vector by now has its array as well.
    unchanged = f"WHERE {of} = NONE AND {name(vector)} = $each.vector"
    statement = f"FOR $each IN $rows {{ UPDATE $each.id SET {of} = $each.array {unchanged} RETURN NONE }}"
    scan = storage.scan(table, ~Field(vector).is_null(), columns=["id", vector], batch_rows=_BATCH)
    async for batch in scan:
        vectors = [each.as_py() for each in batch.column(vector)]
        rows = [
            {"id": record(table, id), "vector": to_bytes(each), "array": to_array(each)}
            for id, each in zip(batch.column("id").to_pylist(), vectors, strict=True)
        ]
        bound = {"rows": rows}
        # mypy cannot infer a lambda with a default
        await storage.transact(lambda bound=bound: Transaction([statement], bound, []))  # type: ignore[misc]
