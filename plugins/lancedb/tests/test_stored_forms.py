"""The stored forms of the manifest and the WAL: databases of earlier versions stay readable."""

from __future__ import annotations

import json

import pyarrow as pa

from pattern_lancedb.manifest import Manifest, TableEntry, WalEntry
from pattern_lancedb.wal import WalWrite, decode_entry, encode_entry

MANIFEST = {
    "format": 1,
    "sequence": 12,
    "commits": 6,
    "tables": {
        "users": {
            "place": "users-000000000003-af591dae6fcc",
            "version": 5,
            "indexes": ["id"],
            "rows": 40,
            "changed": 3,
            "moves": 2,
            "indexed": 1,
        }
    },
    "log": [["000000000011-5731a675371c", 2420901183, 2, 1093, 1795782686.5]],
    "state": {"vectors/users": {"dimensions": 8}},
}


def test_the_manifest() -> None:
    """The keys of version 0.1 are read, and written again."""
    manifest = Manifest.from_bytes(json.dumps(MANIFEST).encode())
    assert manifest.tables["users"] == TableEntry(
        "users-000000000003-af591dae6fcc", 5, ("id",), rows=40, changed_rows=3, flushes=2, indexed_flushes=1
    )
    assert manifest.wal == (WalEntry("000000000011-5731a675371c", 2420901183, 2, 1093, 1795782686.5),)
    assert json.loads(manifest.to_bytes()) == MANIFEST


def test_a_wal_entry() -> None:
    """The header has the keys of version 0.1, and the entry is read as it was written."""
    rows = pa.record_batch({"id": ["a", "b"]})
    content = encode_entry([WalWrite("users-1", ("c",), rows), WalWrite("tasks-1", ("d", "e"), None)])
    header = json.loads(content.partition(b"\n")[0])
    assert [list(write) for write in header] == [["place", "delete", "length"]] * 2
    first, second = decode_entry(content)
    assert (first.lance_name, first.delete, first.rows, first.size) == ("users-1", ("c",), rows, 3)
    assert (second.lance_name, second.delete, second.rows, second.size) == ("tasks-1", ("d", "e"), None, 2)
