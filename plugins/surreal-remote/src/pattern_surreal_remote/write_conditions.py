"""Makes the checks of a batch hold until its commit, on a server with snapshot isolation.

Of two overlapping transactions that write one record, the later one fails. But records that a transaction only reads may
change meanwhile. So a batch also writes a little for everything that it relies on:

- Each table has rows in ``pattern_locks``. A batch that writes to the table writes one of them, chosen at random, so that
  writers rarely conflict. A batch that relies on the *absence* of records writes all of them.
- A record that a batch has relied on is marked, and has rows in ``pattern_checks``. A batch that relies on it writes one of
  them, chosen at random; a batch that changes it writes all. The first batch to rely on it writes the mark, and so the
  record itself.

A missing table has no rows, so a batch that writes to it fails.
"""

# ruff: noqa: S608 - the names in the statements come from the schema, and every value is bound

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
from surrealdb import RecordID
from surrealdb.data.types.range import BoundExcluded, BoundIncluded, Range

from pattern_core.abc import Append, Check, CheckNone, Delete, Insert, Patch, Put, Write
from pattern_core.schema import Table
from pattern_surreal.commit import Guard, Transaction
from pattern_surreal.dialect import Parameters, name
from pattern_surreal.values import record

__all__ = ["CHECKS", "LOCKS", "MARK", "hold", "lock", "locks_of_new_table", "locks_of_old_table"]

LOCKS: Final = "pattern_locks"
CHECKS: Final = "pattern_checks"
MARK: Final = "pattern_checked"
"""The column of each table that marks records which a batch has relied on."""
_TABLE_ROWS: Final = 16
_RECORD_ROWS: Final = 8


def locks_of_new_table(table: Table) -> Transaction:
    """Return the statements that create the lock rows of a table, if they are missing."""
    rows = [{"id": RecordID(LOCKS, [table.name, each]), "n": 0} for each in range(_TABLE_ROWS)]
    statements = [
        f"DEFINE FIELD IF NOT EXISTS {MARK} ON {name(table.name)} TYPE option<bool>",
        f"INSERT IGNORE INTO {LOCKS} $lock_rows RETURN NONE",
    ]
    return Transaction(statements, {"lock_rows": rows}, [])


def locks_of_old_table(table: Table) -> Transaction:
    """Return the statements that remove the lock rows of a table."""
    statements = ["DELETE $lock_rows RETURN NONE", "DELETE $lock_checks RETURN NONE"]
    return Transaction(statements, {"lock_rows": _below(LOCKS, table), "lock_checks": _below(CHECKS, table)}, [])


def _below(kind: str, table: Table) -> RecordID:
    return RecordID(kind, Range(BoundIncluded([table.name]), BoundExcluded([f"{table.name}\0"])))


def lock(transaction: Transaction, batch: Sequence[Write], *, distrust: bool) -> Transaction:
    """Return the transaction of a batch that also writes a lock row of each table.

    Args:
        transaction: The statements of the batch, extended by `hold`.
        batch: The batch.
        distrust: Whether to count inserted rows: the server silently skips rows that a record user may not write.
    """
    variables: dict[str, Any] = {**transaction.variables, "lock_n": random.getrandbits(48)}
    statements: list[str] = []
    tables = {write.table.name: write.table for write in batch if not isinstance(write, Check | CheckNone)}
    for place, table in enumerate(tables.values()):
        variables[f"lock_table{place}"] = RecordID(LOCKS, [table.name, _random_row(_TABLE_ROWS)])
        written = f"(UPDATE $lock_table{place} SET n = $lock_n RETURN VALUE true)"
        statements.append(f"IF array::is_empty({written}) {{ THROW 'pattern gone {_first(batch, table)}' }}")
    before = len(statements)
    for statement, place in zip(transaction.statements, transaction.writes, strict=True):
        inserts = distrust and isinstance(batch[place], Insert)
        statements.append(_counted(statement, place, variables) if inserts else statement)
    writes = [*([0] * before), *transaction.writes]
    return attrs.evolve(transaction, statements=statements, variables=variables, writes=writes)


def hold(*, distrust: bool) -> Guard:
    """Return the guard that extends the statement of a write, so that its conditions hold until the commit.

    Args:
        distrust: Whether to check that each write is carried out; see `lock`.
    """

    def guard(statement: str, write: Write, place: int, parameters: Parameters) -> str:
        seen = _seen(statement, write, place, parameters) if distrust else statement
        return _held(seen, write, parameters)

    return guard


def _first(batch: Sequence[Write], table: Table) -> int:
    return next(place for place, write in enumerate(batch) if write.table.name == table.name)


def _counted(statement: str, place: int, variables: Mapping[str, Any]) -> str:
    rows = variables[statement.split("$")[1].split(maxsplit=1)[0]]
    counted = statement.replace(" RETURN NONE", " RETURN VALUE true")
    return f"IF array::len(({counted})) != {len(rows)} {{ THROW 'pattern denied {place}' }}"


def _seen(statement: str, write: Write, place: int, parameters: Parameters) -> str:
    """Return the statement with a check that it was carried out; one with a revision has such a check already."""
    if isinstance(write, Put):
        counted = statement.replace(" RETURN NONE", " RETURN VALUE true")
        return f"IF array::is_empty(({counted})) {{ THROW {parameters.bind(f'pattern denied {place}')} }}"
    if isinstance(write, Delete) and write.revision is None:
        at, denied = parameters.bind(record(write.table, write.id)), parameters.bind(f"pattern denied {place}")
        return f"{statement}; IF (SELECT VALUE true FROM ONLY {at}) != NONE {{ THROW {denied} }}"
    return statement


def _held(statement: str, write: Write, parameters: Parameters) -> str:
    """Return the statement of a write other than an insert, extended so that its conditions hold."""
    table = write.table
    if isinstance(write, CheckNone) or (isinstance(write, Check) and write.revision == 0):
        rows = parameters.bind(_range(LOCKS, [table.name], _TABLE_ROWS))
        return f"{{ {statement}; UPDATE {rows} SET n = $lock_n RETURN NONE }}"
    id = str(write.row["id"]) if isinstance(write, Insert | Append | Put) else write.id
    at = parameters.bind(record(table, id))
    mark = ""
    if _relies(write):
        places = [RecordID(CHECKS, [table.name, id, each]) for each in range(_RECORD_ROWS)]
        new = parameters.bind([{"id": place, "n": 0} for place in places])
        mark = f" ELSE {{ UPDATE {at} SET {MARK} = true RETURN NONE; INSERT IGNORE INTO {CHECKS} {new} RETURN NONE }}"
    if isinstance(write, Check):
        one = parameters.bind(RecordID(CHECKS, [table.name, id, _random_row(_RECORD_ROWS)]))
        return f"{{ {statement}; IF {at}.{MARK} {{ UPDATE {one} SET n = $lock_n RETURN NONE }}{mark} }}"
    rows = parameters.bind(_range(CHECKS, [table.name, id], _RECORD_ROWS))
    change = f"DELETE {rows}" if isinstance(write, Delete) else f"UPDATE {rows} SET n = $lock_n"
    return f"{{ IF {at}.{MARK} {{ {change} RETURN NONE }}{mark}; {statement} }}"


def _random_row(rows: int) -> int:
    return random.randrange(rows)  # noqa: S311 - no secret depends on it


def _relies(write: Write) -> bool:
    """Return whether a write may leave the record that it relies on unchanged."""
    if isinstance(write, Patch):
        same = write.revision is not None and write.changes.get("revision", write.revision) == write.revision
        return same or not write.changes
    return isinstance(write, Check)


def _range(kind: str, prefix: list[str], rows: int) -> RecordID:
    return RecordID(kind, Range(BoundIncluded([*prefix, 0]), BoundIncluded([*prefix, rows - 1])))
