"""Write every record to files that any Arrow reader opens, and read them back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pattern_core.abc import Insert, Row, Storage
from pattern_core.clock import utc_now
from pattern_core.errors import StorageError
from pattern_core.schema import TABLES, Kind, Table

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["back_up", "restore"]

MANIFEST: Final = "manifest.json"
_ROWS: Final = 500

Progress = Callable[[str, int], None]


def _ignore(_table: str, _rows: int) -> None: ...


async def back_up(storage: Storage, folder: Path, progress: Progress = _ignore) -> dict[str, int]:
    """Write all tables into a new folder, one Arrow IPC stream each, and a manifest when all is written.

    Args:
        storage: The database.
        folder: The folder; a time stamp is added to its name where it exists.
        progress: Called with a table's name and the rows written since the last call.

    Returns:
        How many records of each table were written.
    """
    import pyarrow as pa

    folder = await asyncio.to_thread(_make_folder, folder)
    present = await storage.tables()
    counts = {}
    for table in TABLES.values():
        if table.name not in present:
            continue
        count = 0
        path = str(folder / f"{table.name}.arrows")
        with contextlib.ExitStack() as stack:
            sink = stack.enter_context(pa.OSFile(path, "wb"))
            writer = stack.enter_context(pa.ipc.new_stream(sink, table.arrow_schema()))
            async for batch in storage.scan(table, batch_rows=_ROWS):
                await asyncio.to_thread(writer.write_batch, batch)
                count += batch.num_rows
                progress(table.name, batch.num_rows)
        counts[table.name] = count
    text = json.dumps({"format": 1, "written_at": utc_now().isoformat(), "records": counts}, indent=2)
    await asyncio.to_thread((folder / MANIFEST).write_text, text, encoding="utf-8")
    return counts


def _make_folder(folder: Path) -> Path:
    if folder.exists():
        folder = folder.with_name(f"{folder.name}-{utc_now():%Y%m%dT%H%M%S%f}")
    folder.mkdir(parents=True)
    return folder


async def restore(storage: Storage, folder: Path, progress: Progress = _ignore) -> dict[str, int]:
    """Read a backup into a database that has the tables and holds none of the records.

    Args:
        storage: The database.
        folder: A folder that `back_up` wrote.
        progress: Called with a table's name and the rows read since the last call.

    Returns:
        How many records of each table were read.

    Raises:
        StorageError: The folder holds no whole backup.
        AlreadyExistsError: The database holds one of the records.
    """
    import pyarrow as pa

    try:
        manifest = json.loads(await asyncio.to_thread((folder / MANIFEST).read_text, encoding="utf-8"))
        expected: dict[str, int] = manifest["records"]
    except (OSError, ValueError, KeyError) as error:
        message = f"{folder} holds no whole backup: its {MANIFEST} cannot be read ({error}). Choose another one."
        raise StorageError(message) from error
    counts = {}
    for name, count in expected.items():
        table, read = TABLES[name], 0
        with pa.OSFile(str(folder / f"{name}.arrows"), "rb") as source, pa.ipc.open_stream(source) as reader:
            for batch in reader:
                rows = _rows(table, batch)
                await storage.commit([Insert(table, row) for row in rows])
                read += len(rows)
                progress(name, len(rows))
        if read != count:
            raise StorageError(f"{folder}: {name} holds {read} records and its manifest says {count}")
        counts[name] = read
    return counts


def _rows(table: Table, batch: pa.RecordBatch) -> list[Row]:
    json_columns = [each.name for each in table.columns if each.kind in (Kind.OBJECT, Kind.OBJECTS)]
    rows: list[dict[str, Any]] = batch.to_pylist()
    for row in rows:
        for name in json_columns:
            if row[name] is not None:
                row[name] = json.loads(row[name])
        if table.vector is not None and row[table.vector.name] is not None:
            row[table.vector.name] = np.array(row[table.vector.name], dtype=np.float32)
    return rows
