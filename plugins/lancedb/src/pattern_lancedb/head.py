"""The two documents of a database: the head, and one of its log."""

from __future__ import annotations

import json
import re
import uuid
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import attrs
import pyarrow as pa

from pattern_core.errors import StorageError, shorten

__all__ = [
    "Head",
    "LogEntry",
    "TableEntry",
    "Write",
    "checksum",
    "pack",
    "replaced",
    "sequence_of",
    "unique_name",
    "unpack",
    "with_state",
]

_FORMAT: Final = 1
_NAME: Final = re.compile(r"(?:.*-)?(\d{12,})-[0-9a-f]{12}")


@attrs.frozen
class TableEntry:
    """A table in a head.

    Attributes:
        place: The name of the Lance table. A table that is made again gets another one.
        version: Its version.
        indexes: The columns to index.
        rows: How many rows the Lance table holds at that version.
        changed: How many rows were moved into the Lance table since it was last compacted.
        moves: How many times that was done since then.
        indexed: How many of those times its scalar indexes were made anew after.
    """

    place: str
    version: int
    indexes: tuple[str, ...]
    rows: int = 0
    changed: int = 0
    moves: int = 0
    indexed: int = 0


@attrs.frozen
class LogEntry:
    """A document of the log, as a head names it.

    Attributes:
        name: Its name.
        checksum: The CRC-32 of its bytes.
        rows: How many rows it writes or deletes.
        size: Its length in bytes.
        written_at: When, in seconds since 1970.
    """

    name: str
    checksum: int
    rows: int
    size: int
    written_at: float


@attrs.frozen
class Head:
    """Which versions of which tables, and which documents of the log, are the database.

    Attributes:
        sequence: Counts the heads.
        commits: Counts those that a commit has published; the others are upkeep's, and change nothing that is seen.
        tables: The tables by name.
        log: The documents that come on top, oldest first.
        state: What `Changes.state` has gathered.
    """

    sequence: int = 0
    commits: int = 0
    tables: Mapping[str, TableEntry] = attrs.field(factory=dict)
    log: tuple[LogEntry, ...] = ()
    state: Mapping[str, Any] = attrs.field(factory=dict)

    def to_bytes(self) -> bytes:
        """Return the document."""
        document = {
            "format": _FORMAT,
            "sequence": self.sequence,
            "commits": self.commits,
            "tables": {name: attrs.asdict(entry) for name, entry in self.tables.items()},
            "log": [attrs.astuple(entry) for entry in self.log],
            "state": dict(self.state),
        }
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read the document; raise `StorageError` where it is none, or a later version's."""
        try:
            document = json.loads(content)
            if document["format"] == _FORMAT:
                tables = {
                    name: TableEntry(**{**entry, "indexes": tuple(entry["indexes"])})
                    for name, entry in document["tables"].items()
                }
                log = tuple(LogEntry(*entry) for entry in document["log"])
                return cls(document["sequence"], document["commits"], tables, log, document["state"])
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise StorageError(f"the head of the database cannot be read: {shorten(content)}: {error}") from error
        message = f"the head of the database has format {document['format']}, and this version reads {_FORMAT}; upgrade"
        raise StorageError(message)


def unique_name(sequence: int) -> str:
    """Return a name that nobody else gives, and that tells which head was to be the first to know it."""
    return f"{sequence:012}-{uuid.uuid4().hex[:12]}"


def sequence_of(name: str) -> int:
    """Return what `unique_name` was given for a name, or for the end of one; 0 for one that is not of that form."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else 0


def replaced(
    head: Head, before: Head, after: Mapping[str, TableEntry], *, moved: int = 0, state: Mapping[str, Any] | None = None
) -> Head:
    """Return a head with other versions of some tables, but for those that were dropped meanwhile.

    Args:
        head: The head as it is.
        before: The head that the work began with.
        after: What to say of the tables that were worked on.
        moved: How many documents of the log were moved into them.
        state: Entries of the state to set.
    """
    current = {name: head.tables[name] for name in after if name in head.tables}
    current = {name: entry for name, entry in current.items() if entry.place == after[name].place}
    if any(entry != before.tables[name] for name, entry in current.items()) or head.log[:moved] != before.log[:moved]:
        raise StorageError("another process has done this work at the same time; this one's has no effect")
    tables = {**head.tables, **{name: after[name] for name in current}}
    return attrs.evolve(head, tables=tables, log=head.log[moved:], state=with_state(head.state, state or {}))


def with_state(state: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state with other entries; None removes one."""
    return {name: value for name, value in {**state, **changes}.items() if value is not None}


@attrs.frozen(eq=False)
class Write:
    """What a document of the log does to one Lance table: delete rows, then write others.

    Attributes:
        place: The name of the Lance table.
        delete: The ids of rows that go away.
        rows: Rows that are new, or replace others.
    """

    place: str
    delete: tuple[str, ...]
    rows: pa.RecordBatch | None

    @property
    def size(self) -> int:
        """How many rows it writes or deletes."""
        return len(self.delete) + (self.rows.num_rows if self.rows is not None else 0)


def pack(writes: Sequence[Write]) -> bytes:
    """Return a document of the log: a line of JSON, then for each write its rows as an Arrow stream."""
    streams = [_stream(write.rows) for write in writes]
    contents = [
        {"place": write.place, "delete": write.delete, "length": len(stream)}
        for write, stream in zip(writes, streams, strict=True)
    ]
    header = json.dumps(contents, ensure_ascii=False, separators=(",", ":")).encode()
    return b"\n".join((header, b"".join(streams)))


def unpack(content: bytes) -> list[Write]:
    """Read what `pack` has written."""
    header, _, streams = content.partition(b"\n")
    writes, start = [], 0
    for each in json.loads(header):
        end = start + each["length"]
        rows = pa.ipc.open_stream(streams[start:end]).read_next_batch() if end > start else None
        writes.append(Write(each["place"], tuple(each["delete"]), rows))
        start = end
    return writes


def checksum(content: bytes) -> int:
    """Return the CRC-32 of a document."""
    return zlib.crc32(content)


def _stream(rows: pa.RecordBatch | None) -> bytes:
    if rows is None:
        return b""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    return bytes(sink.getvalue())
