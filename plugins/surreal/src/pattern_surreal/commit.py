"""A batch of writes as the statements of one transaction, and what it means when one of them fails."""

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
from .dialect import Parameters, index_columns, name, where_clause
from .values import encode_row, encode_value, record

__all__ = ["Derived", "Guard", "Transaction", "explain", "failed_write", "is_thrown", "plan"]

Derived = Mapping[str, tuple[str, Callable[[Vector], Any]]]
"""By table: a column that is made from the vector wherever that is written, and how."""

Guard = Callable[[str, Write, int, Parameters], str]
"""Adds something to the statement of a write: ``guard(statement, write, place, parameters)``."""

_MAX_INSERT: Final = 1000
"""How many rows one INSERT holds at most."""
_MAX_TURNS: Final = 500
"""How many turns a loop takes at most."""
_THROWN: Final = re.compile(r"(?:An error occurred: )?pattern (conflict|missing) (\d+)")
_TAKEN: Final = re.compile(r"Database index `([a-z0-9_]+)` already contains ")


@attrs.frozen
class Transaction:
    """Statements to run between BEGIN and COMMIT.

    Attributes:
        statements: The statements.
        variables: The values that are bound in them.
        writes: For each statement, the place in the batch of the first write that it carries out.
    """

    statements: list[str]
    variables: dict[str, Any]
    writes: list[int]


class _Turn(Parameters):
    """The values of one turn of a loop, where statements call them ``$turn.v0`` and so on."""

    def bind(self, value: Any) -> str:
        key = f"v{len(self.values)}"
        self.values[key] = value
        return f"$turn.{key}"


def plan(batch: Sequence[Write], derived: Derived, *, grouped: bool = True, guard: Guard | None = None) -> Transaction:
    """Return the statements that apply a batch.

    Args:
        batch: The writes.
        derived: The columns that are made from vectors.
        grouped: Whether writes that stand side by side and differ in nothing but their values become one statement: an
            INSERT, or with a guard a loop. That is many times as fast; where it fails, it is not known at which write.
        guard: Adds something to each statement but an INSERT.
    """
    parameters = Parameters()
    statements: list[str] = []
    writes: list[int] = []
    for kind, run in groupby(enumerate(batch), key=lambda each: _group(each, grouped=grouped)):
        members = list(run)
        if isinstance(members[0][1], Insert):
            rows = [_row(write, derived) for _, write in members]
            for start in range(0, len(rows), _MAX_INSERT):
                chunk = parameters.bind(rows[start : start + _MAX_INSERT])
                statements.append(f"INSERT INTO {name(kind[0])} {chunk} RETURN NONE")
                writes.append(members[start][0])
        elif grouped and guard is not None:
            for place, statement in _loops(members, parameters, derived, guard):
                statements.append(statement)
                writes.append(place)
        else:
            for place, write in members:
                statements.append(_guarded(place, write, parameters, derived, guard))
                writes.append(place)
    return Transaction(statements, parameters.values, writes)


def _group(each: tuple[int, Write], *, grouped: bool) -> tuple[str, bool, int]:
    place, write = each
    is_insert = isinstance(write, Insert)
    return (write.table.name if is_insert else "", is_insert, -1 if grouped else place)


def _loops(
    members: Sequence[tuple[int, Write]], parameters: Parameters, derived: Derived, guard: Guard
) -> Iterator[tuple[int, str]]:
    """Yield statements, and the place of the first write that each carries out.

    What a statement takes grows with the number of variables, in SurrealDB 3.0, so many statements with variables of their
    own take their square.
    """
    turns = [(place, write, _Turn()) for place, write in members]
    made = [(_guarded(place, write, turn, derived, guard), place, write, turn) for place, write, turn in turns]
    for statement, run in groupby(made, key=lambda each: each[0]):
        alike = list(run)
        for start in range(0, len(alike), _MAX_TURNS):
            some = alike[start : start + _MAX_TURNS]
            _, place, write, _ = some[0]
            if len(some) == 1:
                yield place, _guarded(place, write, parameters, derived, guard)
            else:
                turns_bound = parameters.bind([each[-1].values for each in some])
                yield place, f"FOR $turn IN {turns_bound} {{ {statement} }}"


def _guarded(place: int, write: Write, parameters: Parameters, derived: Derived, guard: Guard | None) -> str:
    statement = _statement(place, write, parameters, derived)
    return guard(statement, write, place, parameters) if guard else statement


def _statement(place: int, write: Write, parameters: Parameters, derived: Derived) -> str:
    match write:
        case Put():
            content = _row(write, derived)
            at = parameters.bind(content.pop("id"))
            return f"UPSERT {at} CONTENT {parameters.bind(content)} RETURN NONE"
        case Patch(table, id, changes, revision):
            if not changes:
                return _check(place, Check(table, id, revision), parameters)
            at = parameters.bind(record(table, id))
            values = {each: encode_value(table, each, value) for each, value in changes.items()}
            _derive(table.name, table.vector.name if table.vector else None, changes, values, derived)
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
    """Return the statement that fails, and says at which write, where a condition is met."""
    said = f"pattern {kind} {place}"
    return f"IF {failed} {{ THROW {parameters.bind(said) if isinstance(parameters, _Turn) else repr(said)} }}"


def _check(place: int, write: Check, parameters: Parameters) -> str:
    at = parameters.bind(record(write.table, write.id))
    # Not `record::exists`, which does not see what the transaction itself has written, in SurrealDB 3.0.
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


def _row(write: Write, derived: Derived) -> dict[str, Any]:
    if not isinstance(write, Insert | Put):
        raise TypeError(f"no whole row in {write!r}")
    encoded = encode_row(write.table, write.row)
    vector = write.table.vector
    _derive(write.table.name, vector.name if vector else None, write.row, encoded, derived)
    return encoded


def _derive(table: str, vector: str | None, given: Row, values: dict[str, Any], derived: Derived) -> None:
    if table in derived and vector in given:
        column, make = derived[table]
        values[column] = None if given[vector] is None else make(given[vector])


def is_thrown(error: StatementError) -> bool:
    """Say whether an error tells itself at which write it came."""
    return _THROWN.fullmatch(error.detail) is not None


def failed_write(transaction: Transaction, error: StatementError) -> int | None:
    """Return the place in the batch of the write that failed, or of the first one that may have; None if unknown."""
    if thrown := _THROWN.fullmatch(error.detail):
        return int(thrown[2])
    # Some engines answer BEGIN and COMMIT too.
    place = error.position - (1 if error.answers > len(transaction.statements) else 0)
    return transaction.writes[place] if 0 <= place < len(transaction.writes) else None


def explain(batch: Sequence[Write], place: int, error: StatementError, before: Row | None) -> PatternError:
    """Return the error that tells the caller why a batch failed.

    Args:
        batch: The writes.
        place: Which of them failed.
        error: What the engine said.
        before: The record that this write changes, as it was before the batch; None if there was none.
    """
    write = batch[place]
    table, id = write.table, _id(write)
    if thrown := _THROWN.fullmatch(error.detail):
        if thrown[1] == "missing":
            return NotFoundError(table.name, id)
        return ConflictError(table.name, id, getattr(write, "revision", None) or None)
    # Behind its start, the message holds values of the record; only the start is read.
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
