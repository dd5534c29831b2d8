"""Reads records of a snapshot: the rows of the memtable, and those of the Lance table that it does not hide."""

from __future__ import annotations

import asyncio
import copy
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

import pyarrow as pa
import pyarrow.compute as pc

from pattern_core.abc import Row
from pattern_core.filters import Filter, matches
from pattern_core.schema import Order, Table

from .dialect import MAX_VALUES, Prefilter, any_of, columns_of, is_unicode, translate
from .engine import engine_errors
from .snapshot import Snapshot
from .values import decode
from .wal import WalWrite

__all__ = ["RecordReader"]

T = TypeVar("T")

_INLINE_ROWS: Final = 256
"""Up to so many rows are handled on the event loop; more in a thread."""
_SMALL_ROWS: Final = 16
"""Tables of up to so many rows, such as the internal tables, are read whole and cached: every commit reads them."""
_MAX_SMALL_TABLES: Final = 16
_ROW_ID: Final = "_rowid"
_POSITION: Final = "_position"


class RecordReader:
    """Reads records. It caches the decoded rows of the WAL for as long as a snapshot holds them."""

    def __init__(self) -> None:
        self._decoded: WeakKeyDictionary[WalWrite, list[Row]] = WeakKeyDictionary()
        self._small_tables: OrderedDict[tuple[Any, ...], dict[str, Row]] = OrderedDict()

    async def schema(self, snapshot: Snapshot, table: Table) -> pa.Schema:
        """Return the columns of the Lance table."""
        lance = await snapshot.table(table.name)
        with engine_errors(f"read the schema of {table.name}"):
            return await lance.schema()

    async def get(self, snapshot: Snapshot, table: Table, ids: Iterable[str], names: Collection[str]) -> dict[str, Row]:
        """Read records by id.

        Args:
            snapshot: The snapshot.
            table: The table.
            ids: The ids.
            names: The columns to read, besides ``id``.

        Returns:
            The existing records by id.
        """
        entry, memtable = snapshot.entry(table.name), snapshot.memtable(table.name)
        found: dict[str, Row] = {}
        rest = []
        for id in dict.fromkeys(ids):
            if id in memtable.ids:
                if (at := memtable.get(id)) is not None:
                    rows = await self._rows_of(table, at[0])
                    found[id] = _copy(rows[at[1]], names)
            elif is_unicode(id):
                rest.append(id)
        if rest and 0 < entry.rows <= _SMALL_ROWS:
            rows_by_id = await self._small_table(snapshot, table)
            found.update((id, _copy(rows_by_id[id], {"id", *names})) for id in rest if id in rows_by_id)
        elif entry.rows:
            for start in range(0, len(rest), MAX_VALUES):
                wanted = Prefilter(condition=any_of("id", rest[start : start + MAX_VALUES]))
                batch = await _read(snapshot, table, wanted, {"id", *names})
                decoded = await _run(batch.num_rows, decode, table, batch, {"id", *names})
                found.update((row["id"], row) for row in decoded)
        return found

    async def find(
        self,
        snapshot: Snapshot,
        table: Table,
        where: Filter | None,
        names: Collection[str],
        *,
        order: Sequence[Order] = (),
        limit: int | None = None,
    ) -> list[Row]:
        """Read the records that satisfy a filter, as `pattern_core.abc.Storage.find` describes."""
        names = {"id", *names}
        recent = await self._find_recent(snapshot, table, where)
        keys = {"id", *(key.column for key in order)}
        stored = await _find_stored(snapshot, table, where, keys if limit is not None else keys | names)
        positions = await _run(stored.num_rows + len(recent), _sorted_positions, table, stored, recent, order, limit)
        chosen = stored.take(pa.array([position for position in positions if position >= 0], pa.int64()))
        if limit is None:
            rows = await _run(chosen.num_rows, decode, table, chosen, names)
        else:
            by_id = await _fetch(snapshot, table, chosen[_ROW_ID].to_pylist(), names)
            rows = [by_id[id] for id in chosen["id"].to_pylist()]
        following = iter(rows)
        return [next(following) if position >= 0 else _copy(recent[-position - 1], names) for position in positions]

    async def count(self, snapshot: Snapshot, table: Table, where: Filter | None) -> int:
        """Return the number of records that satisfy a filter."""
        recent = await self._find_recent(snapshot, table, where)
        stored = await _find_stored(snapshot, table, where, {"id"})
        return len(recent) + int(stored.num_rows)

    async def scan(
        self, snapshot: Snapshot, table: Table, where: Filter | None, names: Collection[str], batch_rows: int
    ) -> AsyncIterator[pa.RecordBatch]:
        """Stream records in the order of their ids, in the form of ``table.arrow_schema(names)``."""
        schema = table.arrow_schema(names)
        recent = await self._find_recent(snapshot, table, where)
        stored = await _find_stored(snapshot, table, where, {"id"})
        memtable = snapshot.memtable(table.name)
        positions = await _run(stored.num_rows + len(recent), _sorted_positions, table, stored, recent, (), None)
        for start in range(0, len(positions), batch_rows):
            batch = positions[start : start + batch_rows]
            parts = []
            if in_lance := [position for position in batch if position >= 0]:
                row_ids = stored[_ROW_ID].take(pa.array(in_lance, pa.int64())).to_pylist()
                parts.append(await _take(snapshot, table, row_ids, {"id", *schema.names}))
            for position in batch:
                if position < 0:
                    at = memtable.get(recent[-position - 1]["id"])
                    if at is not None and at[0].rows is not None:
                        parts.append(pa.Table.from_batches([at[0].rows.slice(at[1], 1)]))
            yield await _run(len(batch), _join, parts, schema)

    async def owners(
        self, snapshot: Snapshot, table: Table, key: tuple[str, ...], wanted: Collection[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], str]:
        """Return the ids of the records with some values of a unique key, by value."""
        wanted = {values for values in wanted if all(is_unicode(value) for value in values)}
        memtable = snapshot.memtable(table.name)
        owners = {}
        for write, positions in memtable.positions.items():
            rows = await self._rows_of(table, write)
            for position in positions:
                values = tuple(rows[position][name] for name in key)
                if values in wanted:
                    owners[values] = rows[position]["id"]
        if snapshot.entry(table.name).rows:
            batch = sorted(wanted)
            for start in range(0, len(batch), MAX_VALUES):
                part = batch[start : start + MAX_VALUES]
                sets = [any_of(name, {values[at] for values in part}) for at, name in enumerate(key)]
                condition = sets[0]
                for each in sets[1:]:
                    condition &= each
                found = await _read(snapshot, table, Prefilter(condition=condition), {"id", *key})
                stored = zip(*(found[name].to_pylist() for name in key), strict=True)
                pairs = zip(stored, found["id"].to_pylist(), strict=True)
                owners |= {values: id for values, id in pairs if values in wanted and id not in memtable.ids}
        return owners

    async def _small_table(self, snapshot: Snapshot, table: Table) -> dict[str, Row]:
        """Return the rows of a small Lance table by id, cached for its version."""
        entry = snapshot.entry(table.name)
        columns = tuple(column.name for column in table.columns)
        key = (entry.lance_name, entry.version, columns)
        if key not in self._small_tables:
            found = await _read(snapshot, table, Prefilter(), set(columns))
            self._small_tables[key] = {row["id"]: row for row in decode(table, found, set(columns))}
            while len(self._small_tables) > _MAX_SMALL_TABLES:
                self._small_tables.popitem(last=False)
        return self._small_tables[key]

    async def _find_recent(self, snapshot: Snapshot, table: Table, where: Filter | None) -> list[Row]:
        """Return the rows of the memtable that satisfy a filter. They are shared: do not change them."""
        found = []
        for write, positions in snapshot.memtable(table.name).positions.items():
            rows = await self._rows_of(table, write)
            found += [rows[position] for position in positions if matches(where, rows[position])]
        return found

    async def _rows_of(self, table: Table, write: WalWrite) -> list[Row]:
        rows = self._decoded.get(write)
        if rows is None:
            names = {column.name for column in table.columns}
            rows = await _run(write.size, decode, table, write.rows, names) if write.rows is not None else []
            self._decoded[write] = rows
        return rows


async def _run(rows: int, work: Callable[..., T], *arguments: Any) -> T:
    """Call a function, in a thread if it handles many rows."""
    return await asyncio.to_thread(work, *arguments) if rows > _INLINE_ROWS else work(*arguments)


def _copy(row: Row, names: Collection[str]) -> Row:
    return {name: copy.deepcopy(value) for name, value in row.items() if name in names}


async def _read(snapshot: Snapshot, table: Table, wanted: Prefilter, names: Collection[str]) -> pa.Table:
    """Return columns of the rows of the Lance table, with their row ids, also of those that the memtable hides."""
    query = (await snapshot.table(table.name)).query()
    for text in wanted.nulls:
        query = query.where(text)
    if not isinstance(wanted.condition, bool):
        query = query.where(wanted.condition)
    with engine_errors(f"read {table.name}"):
        return await query.select(sorted(names)).with_row_id().to_arrow()


async def _find_stored(snapshot: Snapshot, table: Table, where: Filter | None, names: Collection[str]) -> pa.Table:
    """Return columns of the rows of the Lance table that satisfy a filter and that the memtable does not hide."""
    wanted = translate(table, where)
    if wanted.condition is False or not snapshot.entry(table.name).rows:
        schema = table.arrow_schema(names)
        return pa.schema([*schema, pa.field(_ROW_ID, pa.uint64())]).empty_table()
    filtered = set[str]() if wanted.exact else columns_of(where)
    found = await _read(snapshot, table, wanted, {*names, *filtered})
    memtable = snapshot.memtable(table.name)
    if memtable:
        hidden = pc.is_in(found["id"], value_set=pa.array([*memtable.ids], pa.string()))
        found = found.filter(pc.invert(hidden))
    if filtered:
        found = await _run(found.num_rows, _matching, table, where, found, filtered)
    return found


def _matching(table: Table, where: Filter | None, found: pa.Table, names: Collection[str]) -> pa.Table:
    rows = decode(table, found, names)
    return found.filter(pa.array([matches(where, row) for row in rows], pa.bool_()))


def _sorted_positions(
    table: Table, stored: pa.Table, recent: Sequence[Row], order: Sequence[Order], limit: int | None
) -> list[int]:
    """Return the positions of the rows in order: 0, 1, … of stored ones, -1, -2, … of recent ones."""
    positions = [*range(stored.num_rows), *range(-1, -len(recent) - 1, -1)]
    keys = pa.table({_POSITION: pa.array(positions, pa.int64())})
    for field in table.arrow_schema({"id", *(key.column for key in order)}):
        values = pa.array([row[field.name] for row in recent], field.type)
        keys = keys.append_column(field.name, pa.chunked_array([*stored[field.name].chunks, values]))
    sort = []
    for number, key in enumerate(order):
        direction = "descending" if key.descending else "ascending"
        keys = keys.append_column(f"_{number}", pc.is_valid(keys[key.column]))  # null sorts below every value
        sort += [(f"_{number}", direction), (key.column, direction)]
    chosen = pc.sort_indices(keys, sort_keys=[*sort, ("id", "ascending")])[:limit]
    chosen_positions: list[int] = keys[_POSITION].take(chosen).to_pylist()
    return chosen_positions


async def _take(snapshot: Snapshot, table: Table, row_ids: Sequence[int], names: Collection[str]) -> pa.Table:
    lance = await snapshot.table(table.name)
    with engine_errors(f"read {table.name}"):
        return await lance.take_row_ids([*row_ids]).select(sorted(names)).to_arrow()


async def _fetch(snapshot: Snapshot, table: Table, row_ids: Sequence[int], names: Collection[str]) -> dict[str, Row]:
    if not row_ids:
        return {}
    found = await _take(snapshot, table, row_ids, names)
    return {row["id"]: row for row in await _run(found.num_rows, decode, table, found, names)}


def _join(parts: Sequence[pa.Table], schema: pa.Schema) -> pa.RecordBatch:
    """Return rows in one batch with the wanted columns, sorted by id."""
    ids = pa.chunked_array([chunk for part in parts for chunk in part["id"].chunks])
    order = pc.sort_indices(ids)
    arrays = [pa.concat_arrays([chunk for part in parts for chunk in part[name].chunks]) for name in schema.names]
    return pa.record_batch(
        [array.take(order).cast(field.type) for array, field in zip(arrays, schema, strict=True)], schema=schema
    )
