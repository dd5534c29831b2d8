"""Write every record to files that any Arrow reader opens, and read them back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pattern_core.abc import Insert, Row, Storage
from pattern_core.catalog.metadata import Metadata, read_metadata
from pattern_core.catalog.tables import GENERATIONS, LEASES, OUTBOX, UNEMBEDDED, table_named, vectors_of
from pattern_core.embedding.chunks import hash_text, part_id, part_ids, record_of
from pattern_core.errors import StorageError
from pattern_core.filters import Field, Filter
from pattern_core.schema import TABLES, CreateTable, DropTable, Kind, Table
from pattern_core.support.clock import utc_now
from pattern_core.support.validators import as_utc

from .lease import under_lease
from .versions import LATEST, tables_at

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["back_up", "read_manifest", "restore", "rows_to_back_up"]

MANIFEST: Final = "manifest.json"
_METADATA: Final = TABLES["system_metadata"]
_ROWS: Final = 500
_JSON: Final = (Kind.OBJECT, Kind.OBJECTS)

Progress = Callable[[str, int], None]


def _ignore(_table: str, _rows: int) -> None: ...


async def back_up(storage: Storage, folder: Path, progress: Progress = _ignore) -> dict[str, int]:
    """Write all tables into a new folder, one Arrow IPC stream each, and a manifest when all is written.

    Others may write meanwhile: each record is backed up as it was at some time since the call, with the vectors of the
    text that it had then. Nothing is held back for it.

    Args:
        storage: The database.
        folder: The folder; a time stamp is added to its name where it exists.
        progress: Called with a table's name and the rows written since the last call.

    Returns:
        How many records of each table were written.

    Raises:
        StorageError: The database was migrated meanwhile, or given another embedding model.
    """
    folder = await asyncio.to_thread(_make_folder, folder)
    known = await read_metadata(storage)
    counts: dict[str, int] = {}
    for tables, batches in await _to_back_up(storage, known):
        with contextlib.ExitStack() as stack:
            writers = [stack.enter_context(_writer(folder, table)) for table in tables]
            counts.update((table.name, 0) for table in tables)
            async for found in batches:
                for table, writer, batch in zip(tables, writers, found, strict=True):
                    await asyncio.to_thread(writer.write_batch, batch)
                    counts[table.name] += batch.num_rows
                    progress(table.name, batch.num_rows)
    now = await read_metadata(storage)
    if _shape(now) != _shape(known):
        raise StorageError(
            f"the database was migrated meanwhile, or given another embedding model, so {folder} is of no use. Back up again."
        )
    text = json.dumps({"format": 1, "written_at": utc_now().isoformat(), "records": counts}, indent=2)
    await asyncio.to_thread((folder / MANIFEST).write_text, text, encoding="utf-8")
    return counts


def _shape(known: Metadata) -> tuple[int, int]:
    return known.schema_version, 0 if known.active is None else known.active.number


async def rows_to_back_up(storage: Storage) -> int:
    """Return how many rows `back_up` would write, vectors included."""
    parts = await _to_back_up(storage, await read_metadata(storage))
    return sum([await storage.count(table) for tables, _ in parts for table in tables])


async def _to_back_up(
    storage: Storage, known: Metadata
) -> list[tuple[list[Table], AsyncIterator[list[pa.RecordBatch]]]]:
    """Return the tables to back up, those that have to agree together, and what is in them."""
    present = await storage.tables()
    found: list[tuple[list[Table], AsyncIterator[list[pa.RecordBatch]]]] = []
    for table in (table for name, table in tables_at(known.schema_version).items() if name in present):
        if known.active is not None and table.texts:
            vectors = vectors_of(table, known.active.number)
            found.append(([table, vectors], _read_with_vectors(storage, table, vectors)))
        else:
            found.append(([table], _read_plain(storage, table)))
    if known.active is not None:
        found.append(([GENERATIONS], _read_plain(storage, GENERATIONS, Field("number") == known.active.number)))
    return found


async def _read_plain(
    storage: Storage, table: Table, where: Filter | None = None
) -> AsyncIterator[list[pa.RecordBatch]]:
    async for batch in storage.scan(table, where, batch_rows=_ROWS):
        yield [batch]


async def _read_with_vectors(storage: Storage, table: Table, vectors: Table) -> AsyncIterator[list[pa.RecordBatch]]:
    async for batch in storage.scan(table, batch_rows=_ROWS):
        records = {row["id"]: row for row in _rows(table, batch)}
        parts = await _parts_of(storage, vectors, records)
        torn = [id for id, row in records.items() if not _agree(table, row, parts[id])]
        while torn:  # they were written in between
            again = dict(zip(torn, await storage.get(table, torn), strict=True))
            parts |= await _parts_of(storage, vectors, torn)
            # One that was not written in between is as it is; it is kept, to be mended.
            steady = {id for id, row in again.items() if row is None or row["revision"] == records[id]["revision"]}
            records |= {id: row for id, row in again.items() if row is not None}
            for id in (id for id, row in again.items() if row is None):
                del records[id], parts[id]
            torn = [id for id in torn if id not in steady and not _agree(table, records[id], parts[id])]
        yield [_batch(table, records.values()), _batch(vectors, [part for id in records for part in parts[id]])]


async def _parts_of(storage: Storage, vectors: Table, ids: Iterable[str]) -> dict[str, list[Row]]:
    """Read the vectors of some records."""
    found: dict[str, list[Row]] = {id: [] for id in ids}
    heads = await storage.get(vectors, [part_id(id, part) for id in found for part in (0, 1)], vectors=True)
    there = {row["id"] for row in heads if row is not None}
    further = [id for id in part_ids(found, heads) if id not in there]
    for row in (*heads, *(await storage.get(vectors, further, vectors=True))):
        if row is not None:
            found[record_of(row["id"])].append(row)
    return found


def _agree(table: Table, record: Row, parts: Sequence[Row]) -> bool:
    """Return whether these are the vectors of a record as it is."""
    text = table.text(record)
    if not parts:
        return not text.strip()
    made_of = {(part["text_hash"], part["partition"], part["parts"]) for part in parts}
    return made_of == {(hash_text(text), record[str(table.partition)], len(parts))}


def _make_folder(folder: Path) -> Path:
    if folder.exists():
        folder = folder.with_name(f"{folder.name}-{utc_now():%Y%m%dT%H%M%S%f}")
    folder.mkdir(parents=True)
    return folder


@contextlib.contextmanager
def _writer(folder: Path, table: Table) -> Iterator[pa.RecordBatchStreamWriter]:
    import pyarrow as pa

    path = str(folder / f"{table.name}.arrows")
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, table.arrow_schema()) as writer:
        yield writer


def _batch(table: Table, rows: Iterable[Row]) -> pa.RecordBatch:
    """Return records as `Storage.scan` would."""
    import pyarrow as pa

    texts = [each.name for each in table.columns if each.kind in _JSON]
    return pa.RecordBatch.from_pylist(
        [
            row | {name: None if row[name] is None else json.dumps(row[name], ensure_ascii=False) for name in texts}
            for row in rows
        ],
        schema=table.arrow_schema(),
    )


async def restore(
    storage: Storage, folder: Path, progress: Progress = _ignore, *, shared: bool = False
) -> dict[str, int]:
    """Read a backup into a database that holds no records.

    What says that the database is set up is read last: one that was left half read is not taken for whole.

    Args:
        storage: The database. Tables that it has, all of them empty, are made anew.
        folder: A folder that `back_up` wrote.
        progress: Called with a table's name and the rows read since the last call.
        shared: Whether several processes may have the database open. Then those that come to set it up wait.

    Returns:
        How many records of each table were read.

    Raises:
        StorageError: The folder holds no whole backup, or the database holds records.
        MigrationError: Another process changed the database all the while.
    """

    async def work() -> dict[str, int]:
        return await _restore(storage, folder, progress)

    return await under_lease(storage, work) if shared else await work()


async def _restore(storage: Storage, folder: Path, progress: Progress) -> dict[str, int]:
    expected = await asyncio.to_thread(read_manifest, folder)
    about = [row async for rows in _read(_METADATA, folder) for row in rows] if _METADATA.name in expected else []
    if not about:
        raise StorageError(f"{folder} holds the backup of a database that was never set up: there is nothing to read")
    await _empty(storage)
    version = about[0]["schema_version"]
    if version > LATEST:
        message = f"{folder} has schema version {version}, and this library knows versions up to {LATEST}. Update it."
        raise StorageError(message)
    tables = _named(expected, version, folder)
    for table in (*tables, OUTBOX, UNEMBEDDED):
        await storage.apply_schema(CreateTable(table, about[0]["embedding_dimensions"]))
    counts = {}
    for table in sorted(tables, key=lambda each: each is _METADATA):
        count = 0
        async for rows in _read(table, folder):
            if table is _METADATA:  # another database, whose indexes are its own
                rows = [row | {"created_at": utc_now()} for row in rows]  # noqa: PLW2901
            await storage.commit([Insert(table, row) for row in rows])
            count += len(rows)
            progress(table.name, len(rows))
        if count != expected[table.name]:
            message = f"{folder}: {table.name} holds {count} records and its manifest says {expected[table.name]}"
            raise StorageError(message)
        counts[table.name] = count
    return counts


def _named(names: Iterable[str], version: int, folder: Path) -> list[Table]:
    """Return the tables that a backup holds, as they are in its version."""
    known = tables_at(version)
    tables = {name: known.get(name) or table_named(name) for name in names}
    if unknown := [name for name, table in tables.items() if table is None]:
        raise StorageError(f"{folder} holds tables that this library does not know: {', '.join(unknown)}. Update it.")
    return [table for table in tables.values() if table is not None]


def read_manifest(folder: Path) -> dict[str, int]:
    """Return how many records of each table a backup holds.

    Args:
        folder: A folder that `back_up` wrote.

    Raises:
        StorageError: The folder holds no whole backup.
    """
    try:
        expected: dict[str, int] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["records"]
    except (OSError, ValueError, KeyError) as error:
        message = f"{folder} holds no whole backup: its {MANIFEST} cannot be read ({error}). Choose another one."
        raise StorageError(message) from error
    return expected


async def _empty(storage: Storage) -> None:
    """Remove all tables but that of the leases, if none of them holds what could be lost."""
    names = sorted(await storage.tables() - {LEASES.name})
    tables = [table for name in names if (table := table_named(name)) is not None]
    for table in tables:
        if table.name in TABLES and table is not _METADATA and (count := await storage.count(table)):
            message = f"the database holds records ({count:,} {table.name}). Restore into a new one."
            raise StorageError(message)
    for table in tables:
        await storage.apply_schema(DropTable(table))


async def _read(table: Table, folder: Path) -> AsyncIterator[list[Row]]:
    import pyarrow as pa

    path = folder / f"{table.name}.arrows"
    try:
        with pa.OSFile(str(path), "rb") as source, pa.ipc.open_stream(source) as reader:
            for batch in reader:
                yield _rows(table, batch)
    except (OSError, pa.ArrowInvalid) as error:
        raise StorageError(f"{path} cannot be read: {error}") from error


def _rows(table: Table, batch: pa.RecordBatch) -> list[Row]:
    return [{each.name: _value(each.kind, row[each.name]) for each in table.columns} for row in batch.to_pylist()]


def _value(kind: Kind, value: Any) -> Any:
    if value is None:
        return None
    if kind in _JSON:
        return json.loads(value)
    if kind is Kind.VECTOR:
        return np.array(value, dtype=np.float32)
    return as_utc(value)
