"""What a table is, and the tables there are: declared once, for every storage."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import attrs

from .errors import FilterError, nearest, shorten
from .filters import And, Compare, Filter, Not, Op, Or
from .models import Energy, Priority, Role, TaskStatus

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "EMBEDDED",
    "GENERATIONS",
    "LEASES",
    "OUTBOX",
    "TABLES",
    "UNEMBEDDED",
    "AlterTable",
    "Column",
    "CreateTable",
    "DropTable",
    "Kind",
    "Order",
    "SchemaStep",
    "Table",
    "generation_of",
    "table_named",
    "vectors_of",
]


class Kind(enum.Enum):
    """What a column holds, and the Python value that stands for it in a row."""

    TEXT = "text"
    """``str``"""
    INTEGER = "integer"
    """``int`` of 64 bits"""
    NUMBER = "number"
    """``float``, finite"""
    BOOLEAN = "boolean"
    """``bool``"""
    TIME = "time"
    """``datetime`` in UTC, to the microsecond"""
    OBJECT = "object"
    """``dict``: any JSON object, nulls and empty ones included"""
    OBJECTS = "objects"
    """``list`` of JSON objects"""
    TEXTS = "texts"
    """``list`` of ``str``"""
    VECTOR = "vector"
    """``numpy.ndarray`` of float32, shape ``[dimensions]``"""


_SCALARS: Final = {
    Kind.TEXT: (str,),
    Kind.INTEGER: (int, float),
    Kind.NUMBER: (int, float),
    Kind.BOOLEAN: (bool,),
    Kind.TIME: (datetime,),
}
_OPERATORS: Final = {
    Kind.TEXT: frozenset(Op),
    Kind.INTEGER: frozenset(Op) - {Op.CONTAINS, Op.STARTSWITH},
    Kind.NUMBER: frozenset(Op) - {Op.CONTAINS, Op.STARTSWITH},
    Kind.BOOLEAN: frozenset({Op.EQ, Op.IN}),
    Kind.TIME: frozenset(Op) - {Op.CONTAINS, Op.STARTSWITH},
    Kind.TEXTS: frozenset({Op.CONTAINS}),
}


@attrs.frozen
class Column:
    """A column of a table.

    Attributes:
        name: Its name: lower-case letters, digits and underscores, safe in any query language.
        kind: What it holds.
        optional: Whether it may be null.
        references: The table whose record it names, if it names one.
        choices: The texts that it may hold, if they are few. They are told apart, and have no order.
    """

    name: str
    kind: Kind
    optional: bool = False
    references: str | None = None
    choices: tuple[str, ...] = ()


@attrs.frozen
class Order:
    """One key of an order.

    Attributes:
        column: The column's name.
        descending: Whether the greatest comes first. Null is less than everything.
    """

    column: str
    descending: bool = False


@attrs.frozen
class Table:
    """A table. Every table has the columns ``id`` and ``revision``; those of records, ``created_at`` and ``updated_at``.

    Attributes:
        name: Its name: lower-case letters, digits and underscores.
        columns: All columns, the common ones first.
        unique: Keys that no two records may share. Their columns are never null.
        indexes: Columns that are looked up together.
        partition: Where records are found by vectors: the column whose value a search is scoped to. It never changes.
        texts: Where a table's records are embedded: the columns whose texts are. The vectors are in tables of their own
            (`vectors_of`).
    """

    name: str
    columns: tuple[Column, ...] = attrs.field(repr=False)
    unique: tuple[tuple[str, ...], ...] = attrs.field(default=(), repr=False)
    indexes: tuple[tuple[str, ...], ...] = attrs.field(default=(), repr=False)
    partition: str | None = attrs.field(default=None, repr=False)
    texts: tuple[str, ...] = attrs.field(default=(), repr=False)

    def text(self, row: Mapping[str, Any]) -> str:
        """Return the text of a record that is embedded, its parts one below the other; a blank one is not."""
        return "\n".join(row[name] for name in self.texts if row[name])

    @property
    def vector(self) -> Column | None:
        """The column that holds the record's vector, if the table has one."""
        return next((column for column in self.columns if column.kind is Kind.VECTOR), None)

    def column(self, name: str) -> Column:
        """Return a column by name; raise `FilterError`, with the nearest name, if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        names = [column.name for column in self.columns]
        raise FilterError(f"unknown field {shorten(name)}. {nearest(str(name), names)}", where=self.name)

    def check_filter(self, where: Filter | None) -> None:
        """Raise `FilterError` unless every comparison names a column here and suits what it holds."""
        match where:
            case None:
                pass
            case And(parts) | Or(parts):
                for part in parts:
                    self.check_filter(part)
            case Not(part):
                self.check_filter(part)
            case Compare():
                self._check_comparison(where)
            case _:
                message = f'expected a filter, as Field("name") == value makes one; got {shorten(where)}'
                raise FilterError(message, where=self.name)

    def _check_comparison(self, comparison: Compare) -> None:
        column = self.column(comparison.path[0])
        values = comparison.value if isinstance(comparison.value, tuple) else (comparison.value,)
        if len(comparison.path) > 1:
            self._check_path(column, comparison, values)
            return
        null_test = comparison.op is Op.EQ and comparison.value is None
        if comparison.op not in _OPERATORS.get(column.kind, ()) and not null_test:
            message = f"{comparison.op.value} does not work on a field that holds {column.kind.value}"
            raise FilterError(message, where=self.name, field=column.name)
        if column.choices:
            self._check_choices(column, comparison, values)
        accepted = _SCALARS.get(column.kind, (str,))
        for value in values:
            if value is None and comparison.op in (Op.EQ, Op.IN):
                continue
            wrong = not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted)
            if wrong or (isinstance(value, datetime) and value.tzinfo is None):
                suits = "a datetime with a time zone" if column.kind is Kind.TIME else column.kind.value
                message = f"{comparison.op.value} needs a value that suits {suits}, got {shorten(value)}"
                raise FilterError(message, where=self.name, field=column.name)

    def _check_choices(self, column: Column, comparison: Compare, values: Iterable[object]) -> None:
        if comparison.op not in (Op.EQ, Op.IN):
            message = f"{comparison.op.value} does not work on a field of choices; compare with == or in_"
            raise FilterError(message, where=self.name, field=column.name)
        for value in values:
            if value is not None and value not in column.choices:
                message = f"{shorten(value)} is no choice. {nearest(str(value), column.choices)}"
                raise FilterError(message, where=self.name, field=column.name)

    def _check_path(self, column: Column, comparison: Compare, values: Iterable[object]) -> None:
        if column.kind is not Kind.OBJECT:
            message = f"only a JSON object can be stepped into; this field holds {column.kind.value}"
            raise FilterError(message, where=self.name, field=column.name)
        if not all(isinstance(key, str) for key in comparison.path):
            message = f"the keys into a JSON object are texts, got {shorten(comparison.path[1:])}"
            raise FilterError(message, where=self.name, field=column.name)
        for value in values:
            if value is not None and not isinstance(value, str | int | float | bool):
                message = f"a place in a JSON object compares with a JSON scalar, got {shorten(value)}"
                raise FilterError(message, where=self.name, field=column.name)
            if comparison.op is Op.STARTSWITH and not isinstance(value, str):
                message = f"startswith needs a text, got {shorten(value)}"
                raise FilterError(message, where=self.name, field=column.name)

    def check_order(self, order: Iterable[Order]) -> None:
        """Raise `FilterError` unless every key is a column here that can be ordered."""
        for key in order:
            column = self.column(key.column)
            if column.kind not in _SCALARS or column.choices:
                message = f"a field that holds {'choices' if column.choices else column.kind.value} has no order"
                raise FilterError(message, where=self.name, field=column.name)

    def arrow_schema(self, columns: Iterable[str] | None = None) -> pa.Schema:
        """Return the Arrow form of some columns, as `Storage.scan` yields them.

        JSON objects and lists of them are JSON texts; a vector is a list of float32; times are UTC microseconds.

        Args:
            columns: The columns' names; None for all.

        Returns:
            The schema, fields in the table's order.
        """
        import pyarrow as pa  # costs 0.1 s; most programs never stream

        types = {
            Kind.TEXT: pa.string(),
            Kind.INTEGER: pa.int64(),
            Kind.NUMBER: pa.float64(),
            Kind.BOOLEAN: pa.bool_(),
            Kind.TIME: pa.timestamp("us", tz="UTC"),
            Kind.OBJECT: pa.string(),
            Kind.OBJECTS: pa.string(),
            Kind.TEXTS: pa.list_(pa.string()),
            Kind.VECTOR: pa.list_(pa.float32()),
        }
        wanted = {self.column(name).name for name in columns} if columns is not None else None
        chosen = [column for column in self.columns if wanted is None or column.name in wanted]
        return pa.schema([pa.field(each.name, types[each.kind], nullable=each.optional) for each in chosen])


@attrs.frozen
class CreateTable:
    """Create a table with its columns, unique keys and indexes; do nothing where it is there as declared.

    Attributes:
        table: The table.
        dimensions: The length of its vectors, for engines that fix it.
    """

    table: Table
    dimensions: int


@attrs.frozen
class DropTable:
    """Remove a table with everything in it; do nothing where there is none.

    Attributes:
        table: The table.
    """

    table: Table


@attrs.frozen
class AlterTable:
    """Give a table other columns, and keep its records; do nothing where it has them.

    What columns held that go is lost; those that come are optional, and null. Unique keys and indexes stay. After a
    crash the change may be half done, and is finished when the step is carried out again.

    Attributes:
        before: The table with the columns that it has, or had.
        after: The table with the columns that it shall have.
        dimensions: The length of its vectors, for engines that fix it.
    """

    before: Table
    after: Table
    dimensions: int

    @property
    def table(self) -> Table:
        """The table as it shall be."""
        return self.after


SchemaStep = CreateTable | DropTable | AlterTable

_COMMON: Final = (
    Column("id", Kind.TEXT),
    Column("revision", Kind.INTEGER),
    Column("created_at", Kind.TIME),
    Column("updated_at", Kind.TIME),
)


def _table(
    name: str,
    *columns: Column,
    unique: tuple[tuple[str, ...], ...] = (),
    indexes: tuple[tuple[str, ...], ...] = (),
    partition: str | None = None,
    texts: tuple[str, ...] = (),
) -> Table:
    return Table(name, (*_COMMON, *columns), unique, indexes, partition, texts)


_ALL: Final = (
    _table(
        "system_metadata",
        Column("embedding_model", Kind.TEXT),
        Column("embedding_dimensions", Kind.INTEGER),
        Column("embedding_signature", Kind.TEXT),
        Column("schema_version", Kind.INTEGER),
    ),
    _table("users", Column("settings", Kind.OBJECT), Column("metadata", Kind.OBJECT)),
    _table(
        "agents",
        Column("user_id", Kind.TEXT, references="users"),
        Column("agent_type", Kind.TEXT),
        Column("name", Kind.TEXT),
        Column("system_prompt", Kind.TEXT),
        Column("config", Kind.OBJECT),
        Column("state", Kind.OBJECT),
        Column("is_active", Kind.BOOLEAN),
        unique=(("user_id", "agent_type"),),
    ),
    _table(
        "memory_blocks",
        Column("agent_id", Kind.TEXT, references="agents"),
        Column("label", Kind.TEXT),
        Column("content", Kind.TEXT),
        Column("description", Kind.TEXT, optional=True),
        Column("metadata", Kind.OBJECT),
        Column("is_active", Kind.BOOLEAN),
        unique=(("agent_id", "label"),),
        partition="agent_id",
        texts=("content",),
    ),
    _table(
        "conversations",
        Column("user_id", Kind.TEXT, references="users"),
        Column("agent_id", Kind.TEXT, references="agents"),
        Column("title", Kind.TEXT, optional=True),
        Column("context", Kind.OBJECT),
        Column("ended_at", Kind.TIME, optional=True),
        indexes=(("user_id",), ("agent_id",)),
    ),
    _table(
        "messages",
        Column("conversation_id", Kind.TEXT, references="conversations"),
        Column("role", Kind.TEXT, choices=tuple(Role)),
        Column("content", Kind.TEXT),
        Column("metadata", Kind.OBJECT),
        Column("tool_calls", Kind.OBJECTS, optional=True),
        indexes=(("conversation_id", "created_at"),),
        partition="conversation_id",
        texts=("content",),
    ),
    _table(
        "tool_calls",
        Column("agent_id", Kind.TEXT, references="agents"),
        Column("conversation_id", Kind.TEXT, references="conversations"),
        Column("tool_name", Kind.TEXT),
        Column("parameters", Kind.OBJECT),
        Column("result", Kind.OBJECT),
        Column("error", Kind.TEXT, optional=True),
        Column("duration_ms", Kind.INTEGER),
        indexes=(("agent_id",), ("conversation_id",)),
    ),
    _table(
        "tasks",
        Column("user_id", Kind.TEXT, references="users"),
        Column("parent_id", Kind.TEXT, optional=True, references="tasks"),
        Column("title", Kind.TEXT),
        Column("description", Kind.TEXT, optional=True),
        Column("status", Kind.TEXT, choices=tuple(TaskStatus)),
        Column("priority", Kind.TEXT, choices=tuple(Priority)),
        Column("estimated_minutes", Kind.INTEGER, optional=True),
        Column("actual_minutes", Kind.INTEGER, optional=True),
        Column("complexity_score", Kind.NUMBER, optional=True),
        Column("energy_required", Kind.TEXT, choices=tuple(Energy)),
        Column("tags", Kind.TEXTS),
        Column("metadata", Kind.OBJECT),
        Column("started_at", Kind.TIME, optional=True),
        Column("completed_at", Kind.TIME, optional=True),
        Column("due_at", Kind.TIME, optional=True),
        indexes=(("user_id", "status"), ("parent_id",)),
        partition="user_id",
        texts=("title", "description"),
    ),
)

TABLES: Final[Mapping[str, Table]] = MappingProxyType({table.name: table for table in _ALL})
"""The tables of records by name, in the order in which they are created."""

EMBEDDED: Final = tuple(table for table in TABLES.values() if table.texts)
"""The tables whose records are found by what they mean."""

OUTBOX: Final = _table(
    "vector_outbox",
    Column("record_table", Kind.TEXT),
    Column("record_id", Kind.TEXT),
    Column("record_partition", Kind.TEXT),
    Column("is_claim", Kind.BOOLEAN),
)
"""Which rows an external index has yet to learn of (`pattern_core.indexing`)."""

GENERATIONS: Final = _table(
    "embedding_generations",
    Column("number", Kind.INTEGER),
    Column("signature", Kind.TEXT),
    Column("state", Kind.TEXT, choices=("active", "building", "retired", "dropped")),
    Column("has_chunks", Kind.BOOLEAN),
    Column("index", Kind.TEXT),
    Column("index_since", Kind.TEXT),
    Column("held_until", Kind.TIME, optional=True),
    Column("worker", Kind.TEXT, optional=True),
    Column("worker_seen_at", Kind.TIME, optional=True),
)
"""The generations of vectors; one is searched, another may be in the making (`pattern_core.metadata`)."""

UNEMBEDDED: Final = _table("embedding_queue", Column("record_table", Kind.TEXT), Column("record_id", Kind.TEXT))
"""Which records were written while another generation was in the making, and have yet to get their vectors in it."""

LEASES: Final = _table(
    "maintenance_leases",
    Column("holder", Kind.TEXT),
    Column("token", Kind.TEXT),
    Column("held_since", Kind.TIME),
    Column("seconds", Kind.NUMBER),
)
"""Who changes the database as a whole (``pattern_core.maintenance.lease``). It is there before anything else, and no part of
a schema version: where several processes may open a database, it is made when it is first needed."""

_VECTORS: Final = "_vectors_"


def vectors_of(table: Table, generation: int) -> Table:
    """Return the table that holds the vectors of a table's records.

    A record has a row for each of its vectors.

    Args:
        table: One of `EMBEDDED`.
        generation: The number of the generation.

    Returns:
        The table.
    """
    columns = (
        *_COMMON[:2],  # nobody asks when a vector was made, and times are dear to some engines
        Column("partition", Kind.TEXT),
        Column("part", Kind.INTEGER),
        Column("parts", Kind.INTEGER),
        Column("begins_at", Kind.INTEGER, optional=True),
        Column("ends_at", Kind.INTEGER, optional=True),
        Column("text_hash", Kind.TEXT),
        Column("signature", Kind.TEXT),
        Column("embedding", Kind.VECTOR),
    )
    name = f"{table.name}{_VECTORS}{generation}"
    return Table(name, columns, indexes=(("partition",),), partition="partition")


def generation_of(name: str) -> int:
    """Return the number of the generation that a table of vectors belongs to; 0 for any other table's name."""
    found = re.fullmatch(rf"(\w+?){_VECTORS}([1-9]\d*)", name)
    return int(found[2]) if found and found[1] in TABLES else 0


def table_named(name: str) -> Table | None:
    """Return the table of ours that has a name, of records, vectors or anything else; None where none has."""
    if number := generation_of(name):
        return vectors_of(TABLES[name.removesuffix(f"{_VECTORS}{number}")], number)
    return TABLES.get(name) or {each.name: each for each in (OUTBOX, GENERATIONS, UNEMBEDDED, LEASES)}.get(name)
