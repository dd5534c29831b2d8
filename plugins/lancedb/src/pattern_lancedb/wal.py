"""Entries of the write-ahead log (WAL): the row changes of one group of commits, as bytes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence

import attrs
import pyarrow as pa

__all__ = ["WalWrite", "checksum", "decode_entry", "encode_entry"]


@attrs.frozen(eq=False)
class WalWrite:
    """The changes to one Lance table: rows to delete, then rows to write.

    Attributes:
        lance_name: The name of the Lance table.
        delete: The ids of the rows to delete.
        rows: New rows, and rows that replace others.
    """

    lance_name: str
    delete: tuple[str, ...]
    rows: pa.RecordBatch | None

    @property
    def size(self) -> int:
        """The number of rows that it writes or deletes."""
        return len(self.delete) + (self.rows.num_rows if self.rows is not None else 0)


def encode_entry(writes: Sequence[WalWrite]) -> bytes:
    """Return the bytes of a WAL entry: a line of JSON, then an Arrow stream for each write."""
    streams = [_stream(write.rows) for write in writes]
    # The keys are stored, so they keep the names of the first version.
    contents = [
        {"place": write.lance_name, "delete": write.delete, "length": len(stream)}
        for write, stream in zip(writes, streams, strict=True)
    ]
    header = json.dumps(contents, ensure_ascii=False, separators=(",", ":")).encode()
    return b"\n".join((header, b"".join(streams)))


def decode_entry(content: bytes) -> list[WalWrite]:
    """Return the writes of a WAL entry."""
    header, _, streams = content.partition(b"\n")
    writes, start = [], 0
    for each in json.loads(header):
        end = start + each["length"]
        rows = pa.ipc.open_stream(streams[start:end]).read_next_batch() if end > start else None
        writes.append(WalWrite(each["place"], tuple(each["delete"]), rows))
        start = end
    return writes


def checksum(content: bytes) -> int:
    """Return the CRC-32 of a WAL entry."""
    return zlib.crc32(content)


def _stream(rows: pa.RecordBatch | None) -> bytes:
    if rows is None:
        return b""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    return bytes(sink.getvalue())
