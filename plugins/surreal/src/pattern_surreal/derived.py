"""The column next to a table's vectors that holds them as arrays, the form in which the engine can compare them.

Every commit writes it along with the vectors, whoever commits. So the database itself says which tables have one, in a
parameter for each: a commit of vectors that goes by something else fails, learns better, and is made again. The
parameter also says how far the column and the engine's index on it have come, so that nobody trusts what is half made.
"""

# ruff: noqa: S608 - the names in the statements come from the schema, and every value is bound

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np
from surrealdb import RecordID

from pattern_core.abc import CheckNone, Insert, Patch, Put, Vector, Write
from pattern_core.errors import StorageError
from pattern_core.filters import Field
from pattern_core.schema import Table

from .commit import Derived, Transaction
from .connection import StatementError
from .dialect import name

if TYPE_CHECKING:
    from .storage import SurrealStorage

__all__ = [
    "ID_BLOCK",
    "INDEX",
    "State",
    "adopt_native_columns",
    "barrier",
    "drop_derived",
    "drop_native_columns",
    "empty_and_remove",
    "expecting",
    "is_outdated",
    "learn",
    "native_column",
    "note",
    "partition_column",
    "read_state",
    "state_of",
    "to_array",
    "vector_column",
]

INDEX: Final = "by_vector"
"""The name of the index on the column."""
ID_BLOCK: Final = 1 << 16
"""How many ids are held at a time where a table is gone through."""
_SUFFIX: Final = "_native"
_DROP_ROWS: Final = 500
"""How many records lose a column's value in one transaction."""
_OUTDATED: Final = "pattern native column"


@attrs.frozen
class State:
    """What the database says of a table's column.

    Attributes:
        column: The column.
        filled: Whether it has been made for every vector; from then on, commits keep it so.
        index: How the engine's index on it was defined; empty where there is none.
        built: Whether that index is known to hold every vector.
        tended: Whether somebody sees to it just now that the index gets ready.
    """

    column: str
    filled: bool = False
    index: str = ""
    built: bool = False
    tended: bool = False


def to_array(vector: Vector) -> list[float]:
    """Return a vector as the column holds it."""
    return [float(each) for each in np.asarray(vector, dtype=np.float32).tolist()]


def vector_column(table: Table) -> str:
    """Return the name of a table's vector column."""
    if table.vector is None or table.partition is None:
        raise StorageError(f"{table.name} has no vectors to search; declare a vector column and a partition")
    return table.vector.name


def partition_column(table: Table) -> str:
    """Return the name of the column that a table is partitioned by."""
    vector_column(table)
    return str(table.partition)


def native_column(table: Table) -> str:
    """Return the name of the column that holds a table's vectors as arrays."""
    return vector_column(table) + _SUFFIX


def _parameter(table: str) -> str:
    return f"$pattern_{name(table)[1:-1]}_native"


def read_state(table: str) -> str:
    """Return the statement that reads the state of a table's column; `state_of` understands its result."""
    at = _parameter(table)
    return f"RETURN IF {at} {{ object::extend({at}, {{ tended: {at}.until > time::now() }}) }}"


def state_of(result: Any) -> State | None:
    """Return the state that `read_state` has found; None where the table has no such column."""
    if not isinstance(result, Mapping):
        return None
    return State(
        column=str(result["column"]),
        filled=bool(result["filled"]),
        index=str(result["index"]),
        built=bool(result["built"]),
        tended=bool(result["tended"]),
    )


def note(table: str, state: State | None, *, tended_s: int = 0) -> str:
    """Return the statement that sets the state of a table's column.

    Args:
        table: The table.
        state: The state; None where it has no such column any more.
        tended_s: For how many seconds the caller promises to see to the index.
    """
    if state is None:
        return f"REMOVE PARAM IF EXISTS {_parameter(table)}"
    built, filled = (str(each).lower() for each in (state.built, state.filled))
    content = f"column: '{state.column}', index: '{state.index}', filled: {filled}, built: {built}"
    until = f"time::now() + {tended_s:d}s"
    return f"DEFINE PARAM OVERWRITE {_parameter(table)} VALUE {{ {content}, until: {until} }} PERMISSIONS FULL"


def expecting(transaction: Transaction, batch: Sequence[Write], derived: Derived) -> Transaction:
    """Return a transaction that fails where the tables that it writes vectors to have other columns than it knows."""
    statements, variables = [], {}
    for place, table in enumerate(dict.fromkeys(write.table.name for write in batch if _writes_vector(write))):
        known = f"derived{place}"
        variables[known] = derived[table][0] if table in derived else None
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
    """Return whether a commit failed because it went by columns that are not there, or did not know one that is."""
    return _OUTDATED in error.detail


async def learn(storage: SurrealStorage, tables: Iterable[str]) -> None:
    """Let a storage write what the database says, from now on."""
    for table in dict.fromkeys(tables):
        [result] = await storage.query(read_state(table))
        state = state_of(result)
        known = {each: made for each, made in storage.derived.items() if each != table}
        storage.derived = known if state is None else {**known, table: (state.column, to_array)}


async def adopt_native_columns(storage: SurrealStorage) -> None:
    """Let a storage that was just opened keep up the native columns that are there, whoever searches now."""
    tables = [table for table in sorted(await storage.tables()) if table.isidentifier()]
    found = zip(tables, await _columns(storage, tables), strict=True)
    storage.derived = {**storage.derived, **{table: (column, to_array) for table, column in found if column}}


async def drop_native_columns(storage: SurrealStorage) -> None:
    """Remove all native columns and their indexes: where nobody searches them, they only cost."""
    for table in list(storage.derived):
        await drop_derived(storage, table)


async def _columns(storage: SurrealStorage, tables: Sequence[str]) -> list[str | None]:
    """Return the native column of each table; None for one that has none."""
    if not tables:
        return []
    infos = await storage.query("; ".join(f"INFO FOR TABLE {name(table)}" for table in tables))
    return [next((str(field) for field in info["fields"] if field.endswith(_SUFFIX)), None) for info in infos]


async def barrier(storage: SurrealStorage, table: Table) -> None:
    """Return when no commit to a table is under way that began before this call: it looks for what is not there."""
    await storage.commit([CheckNone(table, Field("id") == "")])


async def drop_derived(storage: SurrealStorage, table: str, *, fence: Table | None = None) -> None:
    """Remove the column of a table that is made from its vectors, and the index on it; do nothing where it has none.

    Args:
        storage: Where the table is.
        table: The table's name.
        fence: The table, where others may still write the column.
    """
    column = storage.derived[table][0] if table in storage.derived else (await _columns(storage, [table]))[0]
    if column is None:
        return

    def remove_index() -> Transaction:
        storage.derived = {each: made for each, made in storage.derived.items() if each != table}
        return Transaction([note(table, None), f"REMOVE INDEX IF EXISTS {INDEX} ON {name(table)}"], {}, [])

    await storage.transact(remove_index)
    if fence is not None:
        await barrier(storage, fence)
    await empty_and_remove(storage, table, column)


async def empty_and_remove(storage: SurrealStorage, table: str, column: str) -> None:
    """Remove a column: first, some records at a time, what it holds, for that would stay."""
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
        [block] = await storage.query(  # `id > x` goes through all that is before x, so not for each few records anew
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
