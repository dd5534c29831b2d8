"""The manifest: which versions of which Lance tables, and which WAL entries, are the database."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from typing import Any, Final, Self

import attrs

from pattern_core.errors import StorageError, shorten

__all__ = ["Manifest", "TableEntry", "WalEntry", "sequence_of", "unique_name", "updated_state"]

_FORMAT: Final = 1
_NAME: Final = re.compile(r"(?:.*-)?(\d{12,})-[0-9a-f]{12}")
_TABLE_KEYS: Final = {
    "place": "lance_name",
    "version": "version",
    "indexes": "indexes",
    "rows": "rows",
    "changed": "changed_rows",
    "moves": "flushes",
    "indexed": "indexed_flushes",
}
"""The attributes of a `TableEntry` by their stored names, which are those of the first version."""


@attrs.frozen
class TableEntry:
    """A table of a manifest.

    Attributes:
        lance_name: The name of the Lance table. A table that is created again gets a new one.
        version: The version of the Lance table.
        indexes: The columns to index.
        rows: The number of rows of the Lance table at that version.
        changed_rows: How many rows have been flushed into the Lance table since its last compaction.
        flushes: The number of flushes into it since its last compaction.
        indexed_flushes: How many of these flushes the scalar indexes cover.
    """

    lance_name: str
    version: int
    indexes: tuple[str, ...]
    rows: int = 0
    changed_rows: int = 0
    flushes: int = 0
    indexed_flushes: int = 0


@attrs.frozen
class WalEntry:
    """A WAL entry of a manifest.

    Attributes:
        name: The name of the entry.
        checksum: The CRC-32 of its bytes.
        rows: The number of rows that it writes or deletes.
        size: Its length in bytes.
        written_at: When it was written, in seconds since 1970.
    """

    name: str
    checksum: int
    rows: int
    size: int
    written_at: float


@attrs.frozen
class Manifest:
    """The list of the parts of a database.

    Attributes:
        sequence: The number of this manifest.
        commits: The number of manifests that commits have published. Maintenance publishes the others, which change no
            record.
        tables: The tables by name.
        wal: The WAL entries on top of the Lance tables, oldest first.
        state: The entries that `Changes.state` has set.
    """

    sequence: int = 0
    commits: int = 0
    tables: Mapping[str, TableEntry] = attrs.field(factory=dict)
    wal: tuple[WalEntry, ...] = ()
    state: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def wal_rows(self) -> int:
        """The number of rows that the WAL writes or deletes."""
        return sum(entry.rows for entry in self.wal)

    @property
    def wal_bytes(self) -> int:
        """The length of the WAL in bytes."""
        return sum(entry.size for entry in self.wal)

    def to_bytes(self) -> bytes:
        """Return the stored form."""
        document = {
            "format": _FORMAT,
            "sequence": self.sequence,
            "commits": self.commits,
            "tables": {name: _table_to_json(entry) for name, entry in self.tables.items()},
            "log": [attrs.astuple(entry) for entry in self.wal],
            "state": dict(self.state),
        }
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read the stored form; raise `StorageError` if it is damaged or has a later format."""
        try:
            document = json.loads(content)
            if document["format"] == _FORMAT:
                tables = {name: _table_from_json(entry) for name, entry in document["tables"].items()}
                wal = tuple(WalEntry(*entry) for entry in document["log"])
                return cls(document["sequence"], document["commits"], tables, wal, document["state"])
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            message = f"the manifest of the database cannot be read: {shorten(content)}: {error}. Restore a backup."
            raise StorageError(message) from error
        message = (
            f"the manifest of the database has format {document['format']}, and this version reads {_FORMAT}. "
            f"Upgrade pattern-core-lancedb."
        )
        raise StorageError(message)

    def with_tables(
        self,
        base: Manifest,
        entries: Mapping[str, TableEntry],
        *,
        flushed: int = 0,
        state: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Return this manifest with the results of maintenance, except for tables that were dropped meanwhile.

        Args:
            base: The manifest that the maintenance began with.
            entries: The new entries of its tables.
            flushed: The number of WAL entries that are now in the Lance tables.
            state: Entries of the state to set; None removes one.

        Raises:
            StorageError: Another process has done the same work.
        """
        current = {name: self.tables[name] for name in entries if name in self.tables}
        current = {name: entry for name, entry in current.items() if entry.lance_name == entries[name].lance_name}
        changed = any(entry != base.tables[name] for name, entry in current.items())
        if changed or self.wal[:flushed] != base.wal[:flushed]:
            raise StorageError("another process has done the same maintenance, so this one was discarded")
        tables = {**self.tables, **{name: entries[name] for name in current}}
        return attrs.evolve(self, tables=tables, wal=self.wal[flushed:], state=updated_state(self.state, state or {}))


def unique_name(sequence: int) -> str:
    """Return a new name for a file that the manifest of a sequence number will list first."""
    return f"{sequence:012}-{uuid.uuid4().hex[:12]}"


def sequence_of(name: str) -> int:
    """Return the sequence number in a name that ends with a `unique_name`; 0 for other names."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else 0


def updated_state(state: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state with other entries; None removes one."""
    return {name: value for name, value in {**state, **changes}.items() if value is not None}


def _table_to_json(entry: TableEntry) -> dict[str, Any]:
    return {key: getattr(entry, name) for key, name in _TABLE_KEYS.items()}


def _table_from_json(document: Mapping[str, Any]) -> TableEntry:
    values = {_TABLE_KEYS[key]: value for key, value in document.items()}
    return TableEntry(**{**values, "indexes": tuple(values["indexes"])})
