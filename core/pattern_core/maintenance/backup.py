"""Backups: every record in files that any Arrow reader opens, and back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pattern_core.abc import Insert, Row, Signature, Storage
from pattern_core.catalog.commit_log import log_reset
from pattern_core.catalog.metadata import Metadata, read_metadata
from pattern_core.catalog.tables import EMBEDDING_QUEUE, GENERATIONS, LEASES, OUTBOX, find_table, vector_table
from pattern_core.embedding.chunks import chunk_id, chunk_ids, hash_text, record_id_of
from pattern_core.errors import StorageError
from pattern_core.filters import Field, Filter
from pattern_core.maintenance.migrations.lease import with_lease
from pattern_core.maintenance.migrations.versions import LATEST, tables_at
from pattern_core.plugins.install_hint import upgrade_command
from pattern_core.schema import COMMIT_LOG, TABLES, CreateTable, DropTable, Kind, Table
from pattern_core.support.clock import utc_now
from pattern_core.support.validators import as_utc

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RowProgress", "back_up", "read_manifest", "read_signature", "record_counts", "restore", "rows_to_back_up"]

MANIFEST: Final = "manifest.json"
_METADATA: Final = TABLES["system_metadata"]
_ROWS: Final = 500
_JSON: Final = (Kind.OBJECT, Kind.OBJECTS)

RowProgress = Callable[[str, int], None]
"""Called with a table's name, and the number of rows since the last call."""


def _ignore(_table: str, _rows: int) -> None: ...


async def back_up(storage: Storage, folder: Path, progress: RowProgress = _ignore) -> dict[str, int]:
    """Write all tables into a new folder, one Arrow IPC stream each, and then a manifest.

    Others may write meanwhile, and do not wait. Each record is backed up as it was at some time since the call, with the
    vectors of the text that it had then.

    Args:
        storage: The storage.
        folder: The folder. If it exists, a time stamp is added to its name.
        progress: Called with a table's name and the number of rows written since the last call.

    Returns:
        How many records of each table were written.

    Raises:
        StorageError: The database was migrated or re-embedded meanwhile.
    """
    folder = await asyncio.to_thread(_make_folder, folder)
    metadata = await read_metadata(storage)
    counts: dict[str, int] = {}
    for tables, batches in await _to_back_up(storage, metadata):
        with contextlib.ExitStack() as stack:
            writers = [stack.enter_context(_writer(folder, table)) for table in tables]
            counts.update((table.name, 0) for table in tables)
            async for found in batches:
                for table, writer, batch in zip(tables, writers, found, strict=True):
                    await asyncio.to_thread(writer.write_batch, batch)
                    counts[table.name] += batch.num_rows
                    progress(table.name, batch.num_rows)
    now = await read_metadata(storage)
    if _shape(now) != _shape(metadata):
        raise StorageError(
            f"the database was migrated or re-embedded meanwhile, so the backup in {folder} is not usable. Back up again."
        )
    text = json.dumps({"format": 1, "written_at": utc_now().isoformat(), "records": counts}, indent=2)
    await asyncio.to_thread((folder / MANIFEST).write_text, text, encoding="utf-8")
    return counts


def _shape(metadata: Metadata) -> tuple[int, int]:
    return metadata.schema_version, 0 if metadata.active is None else metadata.active.number


async def rows_to_back_up(storage: Storage) -> int:
    """Return how many rows `back_up` would write, vectors included."""
    chunks = await _to_back_up(storage, await read_metadata(storage))
    return sum([await storage.count(table) for tables, _ in chunks for table in tables])


async def _to_back_up(
    storage: Storage, metadata: Metadata
) -> list[tuple[list[Table], AsyncIterator[list[pa.RecordBatch]]]]:
    """Return the tables to back up, and their contents; tables that have to agree are read together."""
    present = await storage.tables()
    found: list[tuple[list[Table], AsyncIterator[list[pa.RecordBatch]]]] = []
    for table in (table for name, table in tables_at(metadata.schema_version).items() if name in present):
        if metadata.active is not None and table.texts:
            vectors = vector_table(table, metadata.active.number)
            found.append(([table, vectors], _read_with_vectors(storage, table, vectors)))
        else:
            found.append(([table], _read_plain(storage, table)))
    if metadata.active is not None:
        found.append(([GENERATIONS], _read_plain(storage, GENERATIONS, Field("number") == metadata.active.number)))
    return found


async def _read_plain(
    storage: Storage, table: Table, where: Filter | None = None
) -> AsyncIterator[list[pa.RecordBatch]]:
    async for batch in storage.scan(table, where, batch_rows=_ROWS):
        yield [batch]


async def _read_with_vectors(storage: Storage, table: Table, vectors: Table) -> AsyncIterator[list[pa.RecordBatch]]:
    async for batch in storage.scan(table, batch_rows=_ROWS):
        records = {row["id"]: row for row in _rows(table, batch)}
        chunks = await _chunks_of(storage, vectors, records)
        torn = [id for id, row in records.items() if not _agree(table, row, chunks[id])]
        while torn:  # written between the two reads
            again = dict(zip(torn, await storage.get(table, torn), strict=True))
            chunks |= await _chunks_of(storage, vectors, torn)
            # A record that was not written in between is inconsistent; it is kept, so that it can be repaired.
            steady = {id for id, row in again.items() if row is None or row["revision"] == records[id]["revision"]}
            records |= {id: row for id, row in again.items() if row is not None}
            for id in (id for id, row in again.items() if row is None):
                del records[id], chunks[id]
            torn = [id for id in torn if id not in steady and not _agree(table, records[id], chunks[id])]
        yield [_batch(table, records.values()), _batch(vectors, [chunk for id in records for chunk in chunks[id]])]


async def _chunks_of(storage: Storage, vectors: Table, ids: Iterable[str]) -> dict[str, list[Row]]:
    """Read the vectors of some records."""
    found: dict[str, list[Row]] = {id: [] for id in ids}
    heads = await storage.get(vectors, [chunk_id(id, number) for id in found for number in (0, 1)], vectors=True)
    there = {row["id"] for row in heads if row is not None}
    further = [id for id in chunk_ids(found, heads) if id not in there]
    for row in (*heads, *(await storage.get(vectors, further, vectors=True))):
        if row is not None:
            found[record_id_of(row["id"])].append(row)
    return found


def _agree(table: Table, record: Row, chunks: Sequence[Row]) -> bool:
    """Return whether these are the vectors of a record's current text."""
    text = table.text(record)
    if not chunks:
        return not text.strip()
    made_of = {(chunk["text_hash"], chunk["partition"], chunk["parts"]) for chunk in chunks}
    return made_of == {(hash_text(text), record[str(table.partition)], len(chunks))}


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
    """Return records as a record batch, as `Storage.scan` yields them."""
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
    storage: Storage, folder: Path, progress: RowProgress = _ignore, *, shared: bool = False
) -> dict[str, int]:
    """Read a backup into a database without records.

    The metadata is written last, so that an interrupted restore does not pass for a whole database.

    Args:
        storage: The storage. Its empty tables are created again.
        folder: A folder that `back_up` wrote.
        progress: Called with a table's name and the number of rows read since the last call.
        shared: Whether several processes may have the database open. Then others wait before they set it up.

    Returns:
        How many records of each table were read.

    Raises:
        StorageError: The folder holds no complete backup, or the database holds records.
        MigrationError: Another process is changing the database and did not finish in time.
    """

    async def work() -> dict[str, int]:
        return await _restore(storage, folder, progress)

    return await with_lease(storage, work) if shared else await work()


async def _restore(storage: Storage, folder: Path, progress: RowProgress) -> dict[str, int]:
    expected = await asyncio.to_thread(read_manifest, folder)
    about = await _read_about(folder)
    await _empty(storage)
    version = about["schema_version"]
    if version > LATEST:
        message = (
            f"{folder} has schema version {version}, and this pattern-core supports versions up to {LATEST}. Update it: "
            f"{upgrade_command()}"
        )
        raise StorageError(message)
    tables = _named(expected, version, folder)
    for table in (*tables, OUTBOX, EMBEDDING_QUEUE, COMMIT_LOG):
        await storage.apply_schema(CreateTable(table, about["embedding_dimensions"]))
    counts = {}
    for table in sorted(tables, key=lambda each: each is _METADATA):
        count = 0
        async for rows in _read(table, folder):
            if table is _METADATA:  # another identity, since the indexes of the other database are not its own
                rows = [row | {"created_at": utc_now()} for row in rows]  # noqa: PLW2901
            await storage.commit([Insert(table, row) for row in rows])
            count += len(rows)
            progress(table.name, len(rows))
        if count != expected[table.name]:
            message = (
                f"{folder} is not complete: {table.name} holds {count:,} records, and its manifest says "
                f"{expected[table.name]:,}. Choose another backup."
            )
            raise StorageError(message)
        counts[table.name] = count
    await storage.commit([log_reset(storage.writer)])
    return counts


def _named(names: Iterable[str], version: int, folder: Path) -> list[Table]:
    """Return the tables that a backup holds, as its schema version defines them."""
    tables_of_version = tables_at(version)
    tables = {name: tables_of_version.get(name) or find_table(name) for name in names}
    if unknown := [name for name, table in tables.items() if table is None]:
        raise StorageError(f"{folder} holds unknown tables: {', '.join(unknown)}. Update pattern-core.")
    return [table for table in tables.values() if table is not None]


def record_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the counts of users' records, without those of internal tables."""
    return {name: count for name, count in counts.items() if name in TABLES and name != _METADATA.name}


async def read_signature(folder: Path) -> Signature:
    """Return the embedding signature of a backup.

    Args:
        folder: A folder that `back_up` wrote.

    Raises:
        StorageError: The folder holds no complete backup of a database.
    """
    return Signature.from_json((await _read_about(folder))["embedding_signature"])


async def _read_about(folder: Path) -> Row:
    """Return the metadata record of a backup."""
    expected = await asyncio.to_thread(read_manifest, folder)
    rows = [row async for rows in _read(_METADATA, folder) for row in rows] if _METADATA.name in expected else []
    if not rows:
        raise StorageError(
            f"{folder} holds the backup of a database that was never set up. There is nothing to restore."
        )
    return rows[0]


def read_manifest(folder: Path) -> dict[str, int]:
    """Return how many records of each table a backup holds.

    Args:
        folder: A folder that `back_up` wrote.

    Raises:
        StorageError: The folder holds no complete backup.
    """
    try:
        expected: dict[str, int] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["records"]
    except (OSError, ValueError, KeyError) as error:
        message = f"{folder} holds no complete backup: its {MANIFEST} cannot be read ({error}). Choose another backup."
        raise StorageError(message) from error
    return expected


async def _empty(storage: Storage) -> None:
    """Drop all tables except the leases; raise `StorageError` if one of them holds records."""
    names = sorted(await storage.tables() - {LEASES.name})
    tables = [table for name in names if (table := find_table(name)) is not None]
    for table in tables:
        if table.name in TABLES and table is not _METADATA and (count := await storage.count(table)):
            message = f"the database holds records: {count:,} of {table.name}. Restore into a new one."
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
