"""The array column of a table: its vectors as arrays, the only form that the engine can compare.

Every commit that writes vectors also writes the array column, in every process. A parameter of the database tells
which tables have one: a commit that assumes something else fails, reads the parameter, and is repeated. The parameter
also holds the progress of the column and of the engine's index on it, so that no process trusts a half-built one.
"""

# ruff: noqa: S608 - the names in the statements come from the schema, and every value is bound

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import attrs
import numpy as np
from surrealdb import RecordID

from pattern_core.abc import CheckNone, Insert, Patch, Position, Put, Vector, Write
from pattern_core.errors import StorageError
from pattern_core.filters import Field
from pattern_core.schema import Table

from .commit import ArrayColumns, Transaction
from .connection import StatementError
from .dialect import name

__all__ = [
    "ID_BLOCK",
    "INDEX",
    "ColumnStore",
    "State",
    "adopt_array_columns",
    "array_column",
    "barrier",
    "clear_and_remove",
    "drop_array_column",
    "drop_array_columns",
    "is_outdated",
    "partition_column",
    "read_state",
    "reload_columns",
    "set_state",
    "state_of",
    "to_array",
    "vector_column",
    "with_column_check",
]

INDEX: Final = "by_vector"
"""The name of the index on the column."""
ID_BLOCK: Final = 1 << 16
"""How many ids are held at a time while a table is scanned."""
_SUFFIX: Final = "_native"
_DROP_ROWS: Final = 500
"""How many records are cleared in one transaction."""
_OUTDATED: Final = "pattern native column"


class ColumnStore(Protocol):
    """The part of a storage that array columns need.

    Attributes:
        array_columns: The array columns that commits write.
    """

    array_columns: ArrayColumns

    async def query(self, text: str, variables: Mapping[str, Any] | None = None) -> list[Any]:
        """Run statements that read."""

    async def transact(self, make: Callable[[], Transaction]) -> list[Any]:
        """Run a transaction."""

    async def commit(self, batch: Sequence[Write]) -> Position | None:
        """Commit a batch."""

    async def tables(self) -> frozenset[str]:
        """Return the names of all tables."""


@attrs.frozen
class State:
    """The state of an array column, as the database records it.

    Attributes:
        column: The column.
        filled: Whether every vector has its array; commits keep it so from then on.
        index: The definition of the engine's index on it; empty if there is none.
        built: Whether that index was seen to hold every vector.
        claimed: Whether a process is building the index now.
    """

    column: str
    filled: bool = False
    index: str = ""
    built: bool = False
    claimed: bool = False


def to_array(vector: Vector) -> list[float]:
    """Return the array of a vector."""
    return [float(each) for each in np.asarray(vector, dtype=np.float32).tolist()]


def vector_column(table: Table) -> str:
    """Return the name of a table's vector column."""
    if table.vector is None or table.partition is None:
        raise StorageError(f"{table.name} has no vectors to search. Declare a vector column and a partition.")
    return table.vector.name


def partition_column(table: Table) -> str:
    """Return the name of a table's partition column."""
    vector_column(table)
    return str(table.partition)


def array_column(table: Table) -> str:
    """Return the name of a table's array column."""
    return vector_column(table) + _SUFFIX


def _parameter(table: str) -> str:
    return f"$pattern_{name(table)[1:-1]}_native"


def read_state(table: str) -> str:
    """Return the statement that reads the state of an array column, for `state_of`."""
    at = _parameter(table)
    return f"RETURN IF {at} {{ object::extend({at}, {{ claimed: {at}.until > time::now() }}) }}"


def state_of(result: Any) -> State | None:
    """Return the state from the result of `read_state`; None if the table has no array column."""
    if not isinstance(result, Mapping):
        return None
    return State(
        column=str(result["column"]),
        filled=bool(result["filled"]),
        index=str(result["index"]),
        built=bool(result["built"]),
        claimed=bool(result["claimed"]),
    )


def set_state(table: str, state: State | None, *, claim_s: int = 0) -> str:
    """Return the statement that records the state of an array column.

    Args:
        table: The table.
        state: The state; None if the column is gone.
        claim_s: For how many seconds the caller claims to build the index.
    """
    if state is None:
        return f"REMOVE PARAM IF EXISTS {_parameter(table)}"
    built, filled = (str(each).lower() for each in (state.built, state.filled))
    content = f"column: '{state.column}', index: '{state.index}', filled: {filled}, built: {built}"
    until = f"time::now() + {claim_s:d}s"
    return f"DEFINE PARAM OVERWRITE {_parameter(table)} VALUE {{ {content}, until: {until} }} PERMISSIONS FULL"


def with_column_check(transaction: Transaction, batch: Sequence[Write], columns: ArrayColumns) -> Transaction:
    """Return a transaction that fails if the tables that it writes vectors to have other array columns than assumed."""
    statements, variables = [], {}
    for place, table in enumerate(dict.fromkeys(write.table.name for write in batch if _writes_vector(write))):
        known = f"column{place}"
        variables[known] = columns[table][0] if table in columns else None
        statements.append(f"IF {_parameter(table)}.column != ${known} {{ THROW '{_OUTDATED}' }}")
    if not statements:
        return transaction
    return Transaction(
        [*statements, *transaction.statements],
        {**transaction.variables, **variables},
        [*([0] * len(statements)), *transaction.writes],
    )


def _writes_vector(write: Write) -> bool:
    vector = write.table.vector
    given = write.row if isinstance(write, Insert | Put) else write.changes if isinstance(write, Patch) else {}
    return vector is not None and vector.name in given


def is_outdated(error: StatementError) -> bool:
    """Return whether a commit failed because it assumed other array columns than there are."""
    return _OUTDATED in error.detail


async def reload_columns(storage: ColumnStore, tables: Iterable[str]) -> None:
    """Read again which array columns tables have; commits then write these."""
    for table in dict.fromkeys(tables):
        [result] = await storage.query(read_state(table))
        state = state_of(result)
        known = {each: made for each, made in storage.array_columns.items() if each != table}
        storage.array_columns = known if state is None else {**known, table: (state.column, to_array)}


async def adopt_array_columns(storage: ColumnStore) -> None:
    """Read which array columns there are when a storage is opened; commits then write these, whoever searches."""
    tables = [table for table in sorted(await storage.tables()) if table.isidentifier()]
    found = zip(tables, await _columns(storage, tables), strict=True)
    storage.array_columns = {
        **storage.array_columns,
        **{table: (column, to_array) for table, column in found if column},
    }


async def drop_array_columns(storage: ColumnStore) -> None:
    """Remove all array columns and their indexes, if nobody searches them: they slow down writes."""
    for table in list(storage.array_columns):
        await drop_array_column(storage, table)


async def _columns(storage: ColumnStore, tables: Sequence[str]) -> list[str | None]:
    """Return the array column of each table; None for a table without one."""
    if not tables:
        return []
    infos = await storage.query("; ".join(f"INFO FOR TABLE {name(table)}" for table in tables))
    return [next((str(field) for field in info["fields"] if field.endswith(_SUFFIX)), None) for info in infos]


async def barrier(storage: ColumnStore, table: Table) -> None:
    """Wait for all commits to a table that began before this call: an empty check conflicts with each of them."""
    await storage.commit([CheckNone(table, Field("id") == "")])


async def drop_array_column(storage: ColumnStore, table: str, *, wait_for: Table | None = None) -> None:
    """Remove the array column of a table, and the index on it; do nothing if there is none.

    Args:
        storage: The storage.
        table: The name of the table.
        wait_for: The table, if other processes may still write the column; their commits are waited for.
    """
    column = (
        storage.array_columns[table][0] if table in storage.array_columns else (await _columns(storage, [table]))[0]
    )
    if column is None:
        return

    def remove_index() -> Transaction:
        storage.array_columns = {each: made for each, made in storage.array_columns.items() if each != table}
        return Transaction([set_state(table, None), f"REMOVE INDEX IF EXISTS {INDEX} ON {name(table)}"], {}, [])

    await storage.transact(remove_index)
    if wait_for is not None:
        await barrier(storage, wait_for)
    await clear_and_remove(storage, table, column)


async def clear_and_remove(storage: ColumnStore, table: str, column: str) -> None:
    """Remove a column. First its values, some records at a time: the engine would keep them."""
    [info] = await storage.query(f"INFO FOR TABLE {name(table)}")
    if column not in info["fields"]:
        return
    at, of = name(table), name(column)
    free = f"DEFINE FIELD OVERWRITE {of} ON {at} TYPE any"
    emptied = f"UPDATE $ids SET {of} = NONE RETURN NONE"
    parts = [f"REMOVE FIELD IF EXISTS {of}{part} ON {at}" for part in (".*", "")]
    await storage.transact(_statements(parts[0], free))
    last = ""
    while True:
        [block] = await storage.query(  # `id > x` scans everything before x, so it is not repeated for each few records
            f"SELECT VALUE `id` FROM {at} WHERE `id` > $last ORDER BY `id` LIMIT {ID_BLOCK}",
            {"last": RecordID(table, last)},
        )
        if not block:
            break
        last = block[-1].id
        for start in range(0, len(block), _DROP_ROWS):
            await storage.transact(_statements(emptied, ids=block[start : start + _DROP_ROWS]))
    await storage.transact(_statements(parts[1]))


def _statements(*statements: str, **variables: Any) -> Callable[[], Transaction]:
    return lambda: Transaction(list(statements), variables, [])
