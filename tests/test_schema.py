"""Tables, and the checks of filters and orders against them."""

import re
from datetime import UTC, datetime
from typing import Any

import attrs
import pyarrow as pa
import pytest

from pattern_core.catalog.tables import EMBEDDING_QUEUE, GENERATIONS, OUTBOX, find_table, vector_table
from pattern_core.errors import FilterError
from pattern_core.filters import And, Compare, Field, Filter, Op, Or
from pattern_core.schema import EMBEDDED, TABLES, Column, Kind, Order, Table

NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)
VECTOR = Column("embedding", Kind.VECTOR, optional=True)
TASKS = attrs.evolve(TABLES["tasks"], columns=(*TABLES["tasks"].columns, VECTOR))
MEMORIES = TABLES["memory_blocks"]
MESSAGES = TABLES["messages"]


class TestTables:
    """The declared tables."""

    def test_the_tables(self) -> None:
        """There are eight tables, in the order of their references."""
        assert list(TABLES) == [
            "system_metadata",
            "users",
            "agents",
            "memory_blocks",
            "conversations",
            "messages",
            "tool_calls",
            "tasks",
        ]
        assert all(table.name == name for name, table in TABLES.items())

    def test_the_tables_cannot_be_changed(self) -> None:
        """The mapping of tables is read-only."""
        with pytest.raises(TypeError):
            TABLES["more"] = TASKS  # type: ignore[index]

    @pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
    def test_a_declaration_is_consistent(self, table: Table) -> None:
        """Names are safe in any language. Keys, indexes, partitions and references name existing columns and tables."""
        names = [column.name for column in table.columns]
        assert names[:4] == ["id", "revision", "created_at", "updated_at"]
        assert len(set(names)) == len(names)
        assert all(re.fullmatch("[a-z][a-z0-9_]*", name) for name in [table.name, *names])
        for key in (*table.unique, *table.indexes):
            assert set(key) <= set(names)
        assert not any(table.column(name).optional for key in table.unique for name in key)
        assert (table.partition is None) == (not table.texts)
        assert all(table.column(name).kind is Kind.TEXT for name in table.texts)
        if table.partition is not None:
            assert table.column(table.partition).kind is Kind.TEXT
            assert not table.column(table.partition).optional
        before = list(TABLES)[: list(TABLES).index(table.name) + 1]
        assert all(column.references in {None, *before} for column in table.columns)

    def test_vectors(self) -> None:
        """Vectors are in a table for each generation, whose name leads back to the table of the records."""
        assert [table.name for table in EMBEDDED] == ["memory_blocks", "messages", "tasks"]
        assert not any(table.vector for table in TABLES.values())
        for table in EMBEDDED:
            vectors = vector_table(table, 12)
            assert vectors.name == f"{table.name}_vectors_12"
            assert vectors.vector == Column("embedding", Kind.VECTOR)
            assert vectors.partition == "partition"
            assert find_table(vectors.name) == vectors

    def test_tables_by_name(self) -> None:
        """`find_table` finds the tables of the library, and no others."""
        for table in (*TABLES.values(), OUTBOX, GENERATIONS, EMBEDDING_QUEUE):
            assert find_table(table.name) is table
        for name in (
            "",
            "other",
            "users_vectors",
            "other_vectors_1",
            "tasks_vectors_0",
            "tasks_vectors_01",
            "tasks_vectors_",
        ):
            assert find_table(name) is None

    def test_the_text_of_a_record(self) -> None:
        """The text of a record is its texts, one per line; a missing one makes no line."""
        assert TASKS.text({"title": "Write", "description": None}) == "Write"
        assert TASKS.text({"title": "Write", "description": "a letter"}) == "Write\na letter"
        assert TABLES["users"].text({}) == ""

    def test_an_unknown_column(self) -> None:
        """An error about an unknown column suggests the closest name and is not too long."""
        with pytest.raises(
            FilterError, match=r"tasks: unknown field 'statsu'\. Did you mean 'status'\? Known: "
        ) as error:
            TASKS.column("statsu")
        assert error.value.where == "tasks"
        with pytest.raises(FilterError, match="unknown field"):
            TASKS.column(7)  # type: ignore[arg-type]
        with pytest.raises(FilterError) as error:
            TASKS.column("x" * 1_000_000)
        assert len(str(error.value)) < 1000


class TestFilters:
    """Filters are checked before a storage gets them."""

    @pytest.mark.parametrize(
        "where",
        [
            None,
            Field("title") == "x",
            Field("title").contains("x"),
            Field("title").startswith("x"),
            Field("title").in_(["x", None]),
            Field("title") == None,  # noqa: E711 - a filter, not a comparison
            Field("description").is_null(),
            Field("estimated_minutes") < 1.5,
            Field("complexity_score") >= 1,
            Field("due_at") < NOON,
            Field("due_at").in_([NOON, None]),
            Field("tags").contains("x"),
            Field("tags").is_null(),
            Field("metadata").is_null(),
            Field("embedding").is_null(),
            ~Field("embedding").is_null(),
            Field("metadata")["a"]["b"] == None,  # noqa: E711 - a filter, not a comparison
            Field("metadata")["a"] < 1,
            Field("metadata")["a"].contains(True),
            Field("metadata")["a"].startswith("x"),
            Field("metadata")["a"].in_(["x", 1, True, None, 1.5]),
            And(()),
            (Field("title") == "x") & ((Field("due_at") < NOON) | ~(Field("tags").contains("y"))),
        ],
    )
    def test_accepted(self, where: Filter | None) -> None:
        """Valid filters are accepted at any depth."""
        TASKS.check_filter(where)

    @pytest.mark.parametrize(
        ("where", "field", "message"),
        [
            (Field("statsu") == "x", "", r"unknown field 'statsu'\. Did you mean 'status'\?"),
            (~(Field("titel") == "x"), "", "Did you mean 'title'"),
            ((Field("title") == "x") | (Field("titel") == "x"), "", "Did you mean 'title'"),
            (And((Or((~(Field("titel") == "x"),)),)), "", "Did you mean 'title'"),
            (Field("title") == 1, "title", "needs a value that suits text, got 1"),
            (Field("title") == b"x", "title", "needs a value that suits text"),
            (Field("title") < None, "title", "< needs a value that suits text, got None"),
            (Field("title").contains(None), "title", "contains needs a value"),
            (Field("title").startswith(1), "title", "startswith needs a value"),  # type: ignore[arg-type]
            (Field("title").in_(["x", 1]), "title", "in_ needs a value that suits text, got 1"),
            (Field("title") == ["x"], "title", "needs a value that suits text"),
            (Field("estimated_minutes") == "1", "estimated_minutes", "suits integer, got '1'"),
            (Field("estimated_minutes") == True, "estimated_minutes", "suits integer, got True"),
            (
                Field("estimated_minutes").contains(1),
                "estimated_minutes",
                "contains does not work on a field of kind",
            ),
            (Field("complexity_score") > True, "complexity_score", "suits number, got True"),
            (Field("due_at") < "2024-02-29", "due_at", "suits a datetime with a time zone, got '2024-02-29'"),
            (Field("due_at") < NOON.replace(tzinfo=None), "due_at", "suits a datetime with a time zone"),
            (Field("due_at").startswith("2024"), "due_at", "startswith does not work on a field of kind time"),
            (Field("tags") == "x", "tags", "== does not work on a field of kind texts"),
            (Field("tags").contains(1), "tags", "suits texts, got 1"),
            (Field("metadata") == "x", "metadata", "== does not work on a field of kind object"),
            (Field("metadata").contains("x"), "metadata", "contains does not work on a field of kind object"),
            (Field("embedding").in_([None]), "embedding", "in_ does not work on a field of kind vector"),
            (Field("embedding") == 1, "embedding", "does not work on a field of kind vector"),
            (Field("title")["a"] == 1, "title", "only a JSON object has keys; this field is of kind text"),
            (Field("tags")["0"] == "x", "tags", "only a JSON object has keys"),
            (Field("metadata")[0] == "x", "metadata", "keys of a JSON object are texts"),  # type: ignore[index]
            (Field("metadata")["a"] == NOON, "metadata", "compares with a text, number, boolean or None"),
            (Field("metadata")["a"].in_([{}]), "metadata", "compares with a text, number, boolean or None"),  # type: ignore[list-item]
            (Field("metadata")["a"].startswith(1), "metadata", "startswith needs a text"),  # type: ignore[arg-type]
        ],
    )
    def test_rejected(self, where: Filter, field: str, message: str) -> None:
        """An invalid comparison anywhere in a filter is an error that names the field."""
        with pytest.raises(FilterError, match=re.escape(message) if "\\" not in message else message) as error:
            TASKS.check_filter(where)
        assert (error.value.where, error.value.field) == ("tasks", field)

    @pytest.mark.parametrize("wrong", ["status = 'open'", {"status": "open"}, True, Field("status"), 1])
    def test_other_values(self, wrong: Any) -> None:
        """An error about a value that is no filter shows an example of one."""
        with pytest.raises(FilterError, match=r'tasks: expected a filter such as Field\("name"\) == value'):
            TASKS.check_filter(wrong)

    def test_booleans(self) -> None:
        """A boolean field supports only equality."""
        MEMORIES.check_filter(Field("is_active") == True)
        MEMORIES.check_filter(Field("is_active").in_([True, False]))
        for where in (Field("is_active") == 1, Field("is_active") > False, Field("is_active") == "true"):
            with pytest.raises(FilterError, match="is_active"):
                MEMORIES.check_filter(where)

    def test_lists_of_objects(self) -> None:
        """A list of objects supports only the test for null."""
        MESSAGES.check_filter(Field("tool_calls").is_null())
        for where in (Field("tool_calls").contains("x"), Field("tool_calls")["name"] == "x"):
            with pytest.raises(FilterError, match="tool_calls"):
                MESSAGES.check_filter(where)

    def test_comparisons_without_a_field(self) -> None:
        """A `Compare` that was made without a `Field` is checked, too."""
        with pytest.raises(FilterError, match="unknown field"):
            TASKS.check_filter(Compare(("title; DROP TABLE tasks",), Op.EQ, "x"))


class TestOrder:
    """Orders are checked before a storage gets them."""

    def test_accepted(self) -> None:
        """Every field of a kind with an order is accepted."""
        TASKS.check_order([])
        names = ("id", "title", "due_at", "estimated_minutes", "complexity_score", "revision")
        TASKS.check_order([Order(name) for name in names] + [Order("title", descending=True)])
        MEMORIES.check_order([Order("is_active")])

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            ("titel", "Did you mean 'title'"),
            ("tags", "a field of kind texts has no order"),
            ("priority", "a field of choices has no order"),
            ("metadata", "a field of kind object has no order"),
            ("embedding", "a field of kind vector has no order"),
        ],
    )
    def test_rejected(self, column: str, message: str) -> None:
        """An unknown field, or one without an order, is an error that names it."""
        with pytest.raises(FilterError, match=message):
            TASKS.check_order([Order("title"), Order(column)])


class TestArrow:
    """Arrow schemas."""

    @pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
    def test_every_column_has_a_type(self, table: Table) -> None:
        """The schema has all columns in order, with the same nullability."""
        schema = table.arrow_schema()
        assert schema.names == [column.name for column in table.columns]
        assert [field.nullable for field in schema] == [column.optional for column in table.columns]

    def test_some_columns(self) -> None:
        """Selected columns come in the table's order, once each, with the types of the contract."""
        schema = TASKS.arrow_schema(["metadata", "embedding", "due_at", "id", "tags", "id"])
        assert schema == pa.schema(
            [
                pa.field("id", pa.string(), nullable=False),
                pa.field("tags", pa.list_(pa.string()), nullable=False),
                pa.field("metadata", pa.string(), nullable=False),
                pa.field("due_at", pa.timestamp("us", tz="UTC")),
                pa.field("embedding", pa.list_(pa.float32())),
            ]
        )

    def test_an_unknown_column(self) -> None:
        """An error about an unknown column suggests the closest name."""
        with pytest.raises(FilterError, match="Did you mean 'title'"):
            TASKS.arrow_schema(["id", "titel"])
