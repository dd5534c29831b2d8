"""Translates a batch of writes into the statements of one transaction, and failures into errors."""

# ruff: noqa: S608 - the names in the statements come from the schema, and every value is bound

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

import attrs

from pattern_core.abc import Append, Check, CheckNone, Delete, Insert, Patch, Put, Row, Vector, Write
from pattern_core.errors import AlreadyExistsError, ConflictError, NotFoundError, PatternError, StorageError

from .connection import StatementError
from .dialect import Parameters, name, where_clause
from .tables import index_columns
from .values import encode_row, encode_value, record

__all__ = ["ArrayColumns", "Guard", "Transaction", "explain", "failed_write", "is_thrown", "plan"]

ArrayColumns = Mapping[str, tuple[str, Callable[[Vector], Any]]]
"""By table: the array column, and the function that makes its value from a vector."""

Guard = Callable[[str, Write, int, Parameters], str]
"""Extends the statement of a write: ``guard(statement, write, place, parameters)``."""

_MAX_INSERT: Final = 1000
"""The most rows in one INSERT."""
_MAX_ITERATIONS: Final = 500
"""The most iterations of a loop."""
_THROWN: Final = re.compile(r"(?:An error occurred: )?pattern (conflict|missing) (\d+)")
_TAKEN: Final = re.compile(r"Database index `([a-z0-9_]+)` already contains ")


@attrs.frozen
class Transaction:
    """Statements to run between BEGIN and COMMIT.

    Attributes:
        statements: The statements.
        variables: The bound values.
        writes: For each statement, the place in the batch of its first write.
    """

    statements: list[str]
    variables: dict[str, Any]
    writes: list[int]


class _LoopValues(Parameters):
    """The bound values of one iteration of a loop, which statements name ``$turn.v0`` and so on."""

    def bind(self, value: Any) -> str:
        key = f"v{len(self.values)}"
        self.values[key] = value
        return f"$turn.{key}"


def plan(
    batch: Sequence[Write], columns: ArrayColumns, *, grouped: bool = True, guard: Guard | None = None
) -> Transaction:
    """Return the statements that apply a batch.

    Args:
        batch: The writes.
        columns: The array columns.
        grouped: Whether adjacent writes that differ only in their values become one statement: an INSERT, or with a
            guard a loop. That is many times as fast. If it fails, the failing write is not known.
        guard: Extends each statement except INSERTs.
    """
    parameters = Parameters()
    statements: list[str] = []
    writes: list[int] = []
    for kind, run in groupby(enumerate(batch), key=lambda each: _group(each, grouped=grouped)):
        members = list(run)
        if isinstance(members[0][1], Insert):
            rows = [_row(write, columns) for _, write in members]
            for start in range(0, len(rows), _MAX_INSERT):
                chunk = parameters.bind(rows[start : start + _MAX_INSERT])
                statements.append(f"INSERT INTO {name(kind[0])} {chunk} RETURN NONE")
                writes.append(members[start][0])
        elif grouped and guard is not None:
            for place, statement in _loops(members, parameters, columns, guard):
                statements.append(statement)
                writes.append(place)
        else:
            for place, write in members:
                statements.append(_guarded(place, write, parameters, columns, guard))
                writes.append(place)
    return Transaction(statements, parameters.values, writes)


def _group(each: tuple[int, Write], *, grouped: bool) -> tuple[str, bool, int]:
    place, write = each
    is_insert = isinstance(write, Insert)
    return (write.table.name if is_insert else "", is_insert, -1 if grouped else place)


def _loops(
    members: Sequence[tuple[int, Write]], parameters: Parameters, columns: ArrayColumns, guard: Guard
) -> Iterator[tuple[int, str]]:
    """Yield statements, each with the place of its first write.

    In SurrealDB 3.0, the cost of a statement grows with the number of variables of the transaction. Many statements
    with variables of their own would take quadratic time, so alike ones become a loop over their values.
    """
    turns = [(place, write, _LoopValues()) for place, write in members]
    made = [(_guarded(place, write, turn, columns, guard), place, write, turn) for place, write, turn in turns]
    for statement, run in groupby(made, key=lambda each: each[0]):
        alike = list(run)
        for start in range(0, len(alike), _MAX_ITERATIONS):
            some = alike[start : start + _MAX_ITERATIONS]
            _, place, write, _ = some[0]
            if len(some) == 1:
                yield place, _guarded(place, write, parameters, columns, guard)
            else:
                turns_bound = parameters.bind([each[-1].values for each in some])
                yield place, f"FOR $turn IN {turns_bound} {{ {statement} }}"


def _guarded(place: int, write: Write, parameters: Parameters, columns: ArrayColumns, guard: Guard | None) -> str:
    statement = _statement(place, write, parameters, columns)
    return guard(statement, write, place, parameters) if guard else statement


def _statement(place: int, write: Write, parameters: Parameters, columns: ArrayColumns) -> str:
    match write:
        case Put():
            content = _row(write, columns)
            at = parameters.bind(content.pop("id"))
            return f"UPSERT {at} CONTENT {parameters.bind(content)} RETURN NONE"
        case Patch(table, id, changes, revision):
            if not changes:
                return _check(place, Check(table, id, revision), parameters)
            at = parameters.bind(record(table, id))
            values = {each: encode_value(table, each, value) for each, value in changes.items()}
            _set_array(table.name, table.vector.name if table.vector else None, changes, values, columns)
            settings = ", ".join(f"{name(each)} = {parameters.bind(value)}" for each, value in values.items())
            where, kind = _expect(revision, parameters)
            return _unless(
                f"array::is_empty((UPDATE {at} SET {settings}{where} RETURN VALUE true))", kind, place, parameters
            )
        case Delete(table, id, revision):
            at = parameters.bind(record(table, id))
            if revision is None:
                return f"DELETE {at} RETURN NONE"
            where, kind = _expect(revision, parameters)
            return _unless(f"array::is_empty((DELETE {at}{where} RETURN VALUE true))", kind, place, parameters)
        case Check():
            return _check(place, write, parameters)
        case CheckNone(table, where):
            found = f"SELECT VALUE `id` FROM {name(table.name)}{where_clause(table, where, parameters)} LIMIT 1"
            return _unless(f"!array::is_empty(({found}))", "conflict", place, parameters)
    raise TypeError(f"not a write: {write!r}")


def _unless(failed: str, kind: str, place: int, parameters: Parameters) -> str:
    """Return a statement that fails if a condition is true, and names the write."""
    said = f"pattern {kind} {place}"
    return f"IF {failed} {{ THROW {parameters.bind(said) if isinstance(parameters, _LoopValues) else repr(said)} }}"


def _check(place: int, write: Check, parameters: Parameters) -> str:
    at = parameters.bind(record(write.table, write.id))
    # In SurrealDB 3.0, `record::exists` does not see earlier writes of the same transaction.
    absent = f"(SELECT VALUE true FROM ONLY {at}) = NONE"
    if write.revision is None:
        return _unless(absent, "missing", place, parameters)
    if write.revision == 0:
        return _unless(f"!({absent})", "conflict", place, parameters)
    expected = parameters.bind(write.revision)
    return _unless(f"(SELECT VALUE `revision` FROM ONLY {at}) != {expected}", "conflict", place, parameters)


def _expect(revision: int | None, parameters: Parameters) -> tuple[str, str]:
    if revision is None:
        return "", "missing"
    return f" WHERE `revision` = {parameters.bind(revision)}", "conflict"


def _row(write: Write, columns: ArrayColumns) -> dict[str, Any]:
    if not isinstance(write, Insert | Put):
        raise TypeError(f"{write!r} has no row")
    encoded = encode_row(write.table, write.row)
    vector = write.table.vector
    _set_array(write.table.name, vector.name if vector else None, write.row, encoded, columns)
    return encoded


def _set_array(table: str, vector: str | None, given: Row, values: dict[str, Any], columns: ArrayColumns) -> None:
    if table in columns and vector in given:
        column, make = columns[table]
        values[column] = None if given[vector] is None else make(given[vector])


def is_thrown(error: StatementError) -> bool:
    """Return whether an error names the failing write."""
    return _THROWN.fullmatch(error.detail) is not None


def failed_write(transaction: Transaction, error: StatementError) -> int | None:
    """Return the place in the batch of the write that failed, or the first that may have; None if unknown."""
    if thrown := _THROWN.fullmatch(error.detail):
        return int(thrown[2])
    # Some engines also answer BEGIN and COMMIT.
    place = error.position - (1 if error.answers > len(transaction.statements) else 0)
    return transaction.writes[place] if 0 <= place < len(transaction.writes) else None


def explain(batch: Sequence[Write], place: int, error: StatementError, before: Row | None) -> PatternError:
    """Return the error of the contract for a failed batch.

    Args:
        batch: The writes.
        place: The place of the failing one.
        error: The error of the engine.
        before: The record of that write before the batch; None if there was none.
    """
    write = batch[place]
    table, id = write.table, _id(write)
    if thrown := _THROWN.fullmatch(error.detail):
        if thrown[1] == "missing":
            return NotFoundError(table.name, id)
        return ConflictError(table.name, id, getattr(write, "revision", None) or None)
    # Only the start of the message is parsed: the rest holds values of the record.
    if isinstance(write, Insert) and error.kind == "AlreadyExists":
        return AlreadyExistsError(table.name, {"id": id})
    if taken := _TAKEN.match(error.detail):
        row = dict(before or {})
        for each in batch[: place + 1]:
            if each.table.name == table.name and _id(each) == id:
                row |= each.row if isinstance(each, Insert | Put) else getattr(each, "changes", {})
        columns = index_columns(table, taken[1])
        if columns and row.keys() >= set(columns):
            return AlreadyExistsError(table.name, {column: row[column] for column in columns})
    return StorageError(f"{table.name}: {error}")


def _id(write: Write) -> str:
    if isinstance(write, CheckNone):
        return str(write.where)
    return str(write.row["id"]) if isinstance(write, Insert | Append | Put) else write.id
