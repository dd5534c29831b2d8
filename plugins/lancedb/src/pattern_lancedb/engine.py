"""Writing a Lance table: one version after the other, from the one that a head names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import attrs
import lancedb
import pyarrow as pa
from lancedb.expr import col, lit

from pattern_core.errors import PatternError, StorageError

from .head import TableEntry
from .place import Outdated
from .snapshot import Tail

__all__ = ["engine_errors", "moved", "reworked", "writable"]

_PART = 4096
"""The most ids in one condition."""


@contextlib.contextmanager
def engine_errors(what: str) -> Iterator[None]:
    """Turn the engine's errors, which have no class in common, into `StorageError`.

    Args:
        what: What is tried, as in "failed to …".
    """
    try:
        yield
    except (PatternError, Outdated):
        raise
    except (RuntimeError, ValueError, TypeError, OSError, LookupError, pa.ArrowException) as error:
        raise StorageError(f"LanceDB failed to {what}: {error}") from error


async def writable(database: lancedb.AsyncConnection, entry: TableEntry) -> tuple[lancedb.AsyncTable, int]:
    """Return a Lance table, for writing, as it was at the version of its entry, and its version now.

    A version that is newer than the entry's was never published: a crash has left it, or its writer was overtaken.
    """
    table = await database.open_table(entry.place)
    version = await table.version()
    if version != entry.version:
        await table.checkout(entry.version)
        await table.restore()
        version = await table.version()
    return table, version


async def moved(database: lancedb.AsyncConnection, entry: TableEntry, tail: Tail) -> TableEntry:
    """Move what the log says of a table into the Lance table, and return what a head then has to say of it."""
    with engine_errors(f"write {entry.place}"):
        table, version = await writable(database, entry)
        ids = [*tail.ids] if entry.rows else []
        for start in range(0, len(ids), _PART):
            deleted = await table.delete(col("id").isin([lit(id) for id in ids[start : start + _PART]]))
            version = _next(entry, version, deleted.version)
        if tail.rows is not None:
            added = await table.add(tail.rows)
            version = _next(entry, version, added.version)
        rows = await table.count_rows()
    return attrs.evolve(entry, version=version, rows=rows, changed=entry.changed + len(tail), moves=entry.moves + 1)


async def reworked(entry: TableEntry, table: lancedb.AsyncTable) -> TableEntry:
    """Return what a head has to say of a table after work that leaves its rows as they are."""
    await table.checkout_latest()  # type: ignore[no-untyped-call]  # lancedb has left its types out
    rows = await table.count_rows()
    if rows != entry.rows:
        raise _overtaken(entry)
    return attrs.evolve(entry, version=await table.version())


def _next(entry: TableEntry, version: int, written: int) -> int:
    """Return the version that was written; raise where another write came between, which Lance joins with ours."""
    if written not in {version, version + 1}:
        raise _overtaken(entry)
    return written


def _overtaken(entry: TableEntry) -> StorageError:
    return StorageError(f"another process has written {entry.place} at the same time; this write has no effect")
