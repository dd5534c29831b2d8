"""Tests of the dialect without an engine: statements, bound values and errors."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattern_core.abc import Check, Delete, Insert, Patch, Put, Write
from pattern_core.errors import (
    AlreadyExistsError,
    ConflictError,
    FilterError,
    NotFoundError,
    PatternError,
    StorageError,
)
from pattern_core.filters import And, Compare, Field, Filter, Not, Op, Or
from pattern_core.schema import TABLES, Kind, Order
from pattern_core.testing import TASKS, VECTORS, sample_row
from pattern_surreal import StatementError, read_answer
from pattern_surreal.commit import Transaction, explain, failed_write, plan
from pattern_surreal.dialect import Parameters, name, order_by, source, where_clause
from pattern_surreal.tables import create_table
from pattern_surreal.values import decode_row, encode_row, from_bytes, to_bytes

MEMORIES = TABLES["memory_blocks"]
MARK = "hostile"
"""Part of every value that a test gives; no statement may contain it."""

_texts = st.text(max_size=10).map(lambda text: text + MARK)
_paths = st.tuples(st.just("metadata"), _texts, _texts) | st.tuples(st.sampled_from(["id", "title", "parent_id"]))
_comparisons = st.builds(Compare, _paths, st.sampled_from([op for op in Op if op is not Op.IN]), _texts) | st.builds(
    Compare, _paths, st.just(Op.IN), st.lists(_texts, max_size=3).map(tuple)
)
_filters = st.recursive(
    _comparisons,
    lambda inner: (
        st.builds(And, st.lists(inner, max_size=3).map(tuple))
        | st.builds(Or, st.lists(inner, max_size=3).map(tuple))
        | st.builds(Not, inner)
    ),
    max_leaves=8,
)


@given(where=_filters)
def test_filters_bind_their_values(where: Filter) -> None:
    """The statement contains no key, value or id of the filter, and all its parameters are bound."""
    parameters = Parameters()
    at, rest = source(TASKS, where, parameters)
    text = at + where_clause(TASKS, rest, parameters)
    assert MARK not in text
    assert set(re.findall(r"\$(p\d+)", text)) <= parameters.values.keys()


@given(text=_texts, revision=st.integers(1, 9))
def test_writes_bind_their_values(text: str, revision: int) -> None:
    """The statements contain no id or value of a write."""
    row = sample_row(MEMORIES, text, label=text, content=text, metadata={text: text})
    batch: list[Write] = [
        Insert(MEMORIES, row),
        Put(MEMORIES, row),
        Patch(MEMORIES, text, {"label": text, "metadata": {text: text}}, revision),
        Patch(MEMORIES, text, {}),
        Delete(MEMORIES, text),
        Delete(MEMORIES, text, revision),
        Check(MEMORIES, text),
        Check(MEMORIES, text, 0),
        Check(MEMORIES, text, revision),
    ]
    transaction = plan(batch, {})
    text_of_all = "\n".join(transaction.statements)
    assert MARK not in text_of_all
    assert set(re.findall(r"\$(p\d+)", text_of_all)) == transaction.variables.keys()
    assert transaction.writes == list(range(len(batch)))


@pytest.mark.parametrize("bad", ["", "a b", "a`b", "a;b", "a.b", "⟩", "1a", "a\0"])
def test_names_must_be_identifiers(bad: str) -> None:
    """Other names of tables and columns raise `FilterError`."""
    with pytest.raises(FilterError):
        name(bad)
    with pytest.raises(FilterError):
        where_clause(TASKS, Compare((bad,), Op.EQ, "x"), Parameters())
    with pytest.raises(FilterError):
        order_by(TASKS, [Order(bad)])


def test_adjacent_inserts_become_one_statement() -> None:
    """Adjacent inserts into one table are one statement; another write or table starts a new one."""
    users = TABLES["users"]
    inserts = [Insert(users, sample_row(users, f"u{n}")) for n in range(5)]
    memory = Insert(MEMORIES, sample_row(MEMORIES, "m"))
    batch: list[Write] = [*inserts[:2], memory, inserts[2], Delete(users, "x"), *inserts[3:]]
    transaction = plan(batch, {})
    assert [statement.split()[0] for statement in transaction.statements] == ["INSERT"] * 3 + ["DELETE", "INSERT"]
    assert transaction.writes == [0, 2, 3, 4, 5]
    assert plan(batch, {}, grouped=False).writes == list(range(len(batch)))


def test_array_columns_follow_the_vector() -> None:
    """A write sets the array column if, and only if, it sets the vector."""
    columns: dict[str, Any] = {VECTORS.name: ("copy", lambda vector: [float(each) for each in vector])}
    row = sample_row(VECTORS, "m", embedding=np.array([1, 2], dtype=np.float32))
    insert, put, patch, other, none = (
        plan([write], columns).variables
        for write in (
            Insert(VECTORS, row),
            Put(VECTORS, row),
            Patch(VECTORS, "m", {"embedding": row["embedding"]}),
            Patch(VECTORS, "m", {"parts": 2}),
            Patch(TASKS, "t", {"embedding": None}),
        )
    )
    assert insert["p0"][0]["copy"] == [1.0, 2.0]
    assert next(value for value in put.values() if isinstance(value, dict))["copy"] == [1.0, 2.0]
    assert [1.0, 2.0] in patch.values()
    assert [1.0, 2.0] not in other.values()
    assert list(none.values())[1:] == [None]


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_rows_survive_a_round_trip(table: Any) -> None:
    """A row that is encoded and decoded is unchanged."""
    row = sample_row(table, "x")
    if table.column("id") and any(column.kind is Kind.OBJECT for column in table.columns):
        column = next(column.name for column in table.columns if column.kind is Kind.OBJECT)
        row[column] = {"none": None, "nested": [{"none": None}, None, [], {}], "2.0": 2.0, "2": 2, "yes": True}
    again = decode_row(table.columns, encode_row(table, row))
    vector = table.vector.name if table.vector else None
    assert {key: value for key, value in again.items() if key != vector} == {
        key: value for key, value in row.items() if key != vector
    }
    if vector and row[vector] is not None:
        assert again[vector].tolist() == row[vector].tolist()


def test_vectors_are_little_endian_float32() -> None:
    """A vector becomes little-endian float32 bytes, whatever the array's type; decoding returns a writable copy."""
    for array in (np.array([1, -2.5], ">f4"), np.array([1, -2.5], "f8"), np.array([1, 0, -2.5, 0], "f4")[::2]):
        assert to_bytes(array).hex() == "0000803f000020c0"
    again = from_bytes(bytes.fromhex("0000803f000020c0"))
    assert again.dtype == np.float32
    again[0] = 7  # fails if the array is read-only


def test_orders_end_with_the_id() -> None:
    """Ties sort by id; keys after the id have no effect and are omitted."""
    assert order_by(TASKS, []) == " ORDER BY `id` ASC"
    keys = [Order("due_at", descending=True), Order("id", descending=True), Order("title")]
    assert order_by(TASKS, keys) == " ORDER BY `due_at` DESC, `id` DESC"


def test_a_list_of_ids_is_read_directly() -> None:
    """A filter by ids reads these records, each once, and applies its other conditions to them."""
    parameters = Parameters()
    rest: Filter | None
    at, rest = source(TASKS, Field("id").in_(["b", "a", "b", None]) & (Field("title") == "x"), parameters)
    assert [each.id for each in parameters.values[at.removeprefix("$")]] == ["b", "a"]
    assert rest == And((Field("title") == "x",))
    at, rest = source(TASKS, Field("id") == "a", parameters)
    assert rest is None
    assert source(TASKS, ~(Field("id") == "a"), parameters)[0] == "`kit_tasks`"


def test_tables_are_defined_completely() -> None:
    """The statements define all columns, keys and indexes that do not exist."""
    statements = create_table(MEMORIES)
    assert all("IF NOT EXISTS" in each for each in statements)
    assert "DEFINE FIELD IF NOT EXISTS `metadata` ON `memory_blocks` TYPE object FLEXIBLE" in statements
    assert "DEFINE FIELD IF NOT EXISTS `description` ON `memory_blocks` TYPE option<string>" in statements
    assert statements[-1].endswith("FIELDS `agent_id`, `label` UNIQUE")
    assert f"DEFINE FIELD IF NOT EXISTS `embedding` ON `{VECTORS.name}` TYPE bytes" in create_table(VECTORS)


OK: dict[str, Any] = {"status": "OK", "result": 1}
SKIPPED: dict[str, Any] = {"status": "ERR", "kind": "Query", "result": "The query was not executed"}


def thrown(message: str, kind: str = "Thrown") -> dict[str, Any]:
    """Return the answer of a statement that failed."""
    return {"status": "ERR", "kind": kind, "result": message}


@pytest.mark.parametrize("counted", [True, False], ids=["BEGIN answers", "BEGIN does not"])
@pytest.mark.parametrize(
    ("place", "message", "kind", "expected"),
    [
        (0, "Database record `users:⟨a⟩` already exists", "AlreadyExists", AlreadyExistsError("users", {"id": "a"})),
        (1, "An error occurred: pattern missing 1", "Thrown", NotFoundError("users", "b")),
        (2, "An error occurred: pattern conflict 2", "Thrown", ConflictError("users", "c", 4)),
        (3, "An error occurred: pattern conflict 3", "Thrown", ConflictError("users", "d", None)),
        (
            4,
            "Database index `by_agent_id_and_label` already contains ['a', 'pattern missing 0'], with record `x:y`",
            "Internal",
            AlreadyExistsError("memory_blocks", {"agent_id": "agent-1", "label": "label of m"}),
        ),
        (5, "Couldn't coerce value for field", "Internal", StorageError("users: ")),
    ],
)
def test_failures_become_errors_of_the_contract(
    place: int, message: str, kind: str, expected: PatternError, *, counted: bool
) -> None:
    """The engine's answers identify the write that failed, and the error."""
    users = TABLES["users"]
    batch: list[Write] = [
        Insert(users, sample_row(users, "a")),
        Patch(users, "b", {"revision": 2}),
        Delete(users, "c", 4),
        Check(users, "d", 0),
        Put(MEMORIES, sample_row(MEMORIES, "m")),
        Put(users, sample_row(users, "f")),
    ]
    transaction = plan(batch, {})
    answers = [thrown(message, kind) if n == place else SKIPPED for n in range(len(transaction.statements))]
    if counted:
        answers = [OK, *answers, SKIPPED]
    with pytest.raises(StatementError) as caught:
        read_answer({"result": answers})
    assert failed_write(transaction, caught.value) == place
    error = explain(batch, place, caught.value, None)
    assert type(error) is type(expected)
    assert str(error).startswith(str(expected))


def test_a_parse_error_names_no_write() -> None:
    """If the engine rejects the whole text, no write counts as failed."""
    with pytest.raises(StatementError, match="Parse error") as caught:
        read_answer({"error": {"kind": "Validation", "message": "Parse error: Unexpected token"}})
    assert failed_write(Transaction(["a"], {}, [0]), caught.value) is None
    assert read_answer({"result": [OK, OK]}) == [1, 1]
