"""Reading records of a snapshot: what the log says comes before what the Lance table holds."""

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

from .dialect import Prefilter, any_of, columns_of, is_unicode, translate
from .engine import engine_errors
from .head import Write
from .snapshot import Snapshot
from .values import decode

__all__ = ["Reader"]

T = TypeVar("T")

_PART: Final = 4096
"""The most ids in one condition."""
_FEW: Final = 256
"""As many rows are handled on the event loop; more in a thread."""
_SMALL: Final = 16
"""Tables of so few rows, such as the database's own, are read at once and kept: every commit looks into them."""
_MOST_SMALL: Final = 16
_ROW_ID: Final = "_rowid"
_PLACE: Final = "_place"


class Reader:
    """Reads records. It keeps the rows of the log as Python values, for as long as the log holds them."""

    def __init__(self) -> None:
        self._decoded: WeakKeyDictionary[Write, list[Row]] = WeakKeyDictionary()
        self._small: OrderedDict[tuple[Any, ...], dict[str, Row]] = OrderedDict()

    async def schema(self, snapshot: Snapshot, table: Table) -> pa.Schema:
        """Return the columns of a table in Lance."""
        lance = await snapshot.table(table.name)
        with engine_errors(f"read the schema of {table.name}"):
            return await lance.schema()

    async def get(self, snapshot: Snapshot, table: Table, ids: Iterable[str], names: Collection[str]) -> dict[str, Row]:
        """Read records by id.

        Args:
            snapshot: Where to read.
            table: The table.
            ids: The ids.
            names: The columns to read; ``id`` is read anyway.

        Returns:
            The rows that there are, by id.
        """
        entry, tail = snapshot.entry(table.name), snapshot.tail(table.name)
        found: dict[str, Row] = {}
        rest = []
        for id in dict.fromkeys(ids):
            if id in tail.ids:
                if (at := tail.get(id)) is not None:
                    rows = await self._rows(table, at[0])
                    found[id] = _share(rows[at[1]], names)
            elif is_unicode(id):
                rest.append(id)
        if rest and 0 < entry.rows <= _SMALL:
            whole = await self._whole(snapshot, table)
            found.update((id, _share(whole[id], {"id", *names})) for id in rest if id in whole)
        elif entry.rows:
            for start in range(0, len(rest), _PART):
                wanted = Prefilter(condition=any_of("id", rest[start : start + _PART]))
                batch = await _read(snapshot, table, wanted, {"id", *names})
                found.update(
                    (row["id"], row) for row in await _off(batch.num_rows, decode, table, batch, {"id", *names})
                )
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
        """Read the records that satisfy a filter, as `pattern_core.abc.Storage.find` says."""
        names = {"id", *names}
        logged = await self._logged(snapshot, table, where)
        keys = {"id", *(key.column for key in order)}
        held = await _held(snapshot, table, where, keys if limit is not None else keys | names)
        # The most common reads are answered by one of the two, in little.
        places = await _off(held.num_rows + len(logged), _sorted_places, table, held, logged, order, limit)
        base = [place for place in places if place >= 0]
        if limit is None:
            rows = await _off(len(base), decode, table, held.take(pa.array(base, pa.int64())), names)
        else:
            chosen = held.take(pa.array(base, pa.int64()))
            by_id = await _fetch(snapshot, table, chosen[_ROW_ID].to_pylist(), names)
            rows = [by_id[id] for id in chosen["id"].to_pylist()]
        following = iter(rows)
        return [next(following) if place >= 0 else _share(logged[-place - 1], names) for place in places]

    async def count(self, snapshot: Snapshot, table: Table, where: Filter | None) -> int:
        """Return how many records satisfy a filter."""
        logged = await self._logged(snapshot, table, where)
        held = await _held(snapshot, table, where, {"id"})
        return len(logged) + int(held.num_rows)

    async def scan(
        self, snapshot: Snapshot, table: Table, where: Filter | None, names: Collection[str], batch_rows: int
    ) -> AsyncIterator[pa.RecordBatch]:
        """Stream records by id, in the form of ``table.arrow_schema(names)``."""
        schema = table.arrow_schema(names)
        logged = await self._logged(snapshot, table, where)
        held = await _held(snapshot, table, where, {"id"})
        tail = snapshot.tail(table.name)
        places = await _off(held.num_rows + len(logged), _sorted_places, table, held, logged, (), None)
        for start in range(0, len(places), batch_rows):
            part = places[start : start + batch_rows]
            parts = []
            if base := [place for place in part if place >= 0]:
                row_ids = held[_ROW_ID].take(pa.array(base, pa.int64())).to_pylist()
                parts.append(await _take(snapshot, table, row_ids, {"id", *schema.names}))
            for place in part:
                if place < 0 and (at := tail.get(logged[-place - 1]["id"])) is not None and at[0].rows is not None:
                    parts.append(pa.Table.from_batches([at[0].rows.slice(at[1], 1)]))  # noqa: PERF401 - it asks twice
            yield await _off(len(part), _joined, parts, schema)

    async def owners(
        self, snapshot: Snapshot, table: Table, key: tuple[str, ...], wanted: Collection[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], str]:
        """Return the ids of the records that have some values of a unique key, by value."""
        wanted = {values for values in wanted if all(is_unicode(value) for value in values)}
        tail = snapshot.tail(table.name)
        owners = {}
        for write, places in tail.written.items():
            rows = await self._rows(table, write)
            for place in places:
                values = tuple(rows[place][name] for name in key)
                if values in wanted:
                    owners[values] = rows[place]["id"]
        if snapshot.entry(table.name).rows:
            batch = sorted(wanted)
            for start in range(0, len(batch), _PART):
                part = batch[start : start + _PART]
                sets = [any_of(name, {values[at] for values in part}) for at, name in enumerate(key)]
                condition = sets[0]
                for each in sets[1:]:
                    condition &= each
                found = await _read(snapshot, table, Prefilter(condition=condition), {"id", *key})
                held = zip(*(found[name].to_pylist() for name in key), strict=True)
                pairs = zip(held, found["id"].to_pylist(), strict=True)
                owners |= {values: id for values, id in pairs if values in wanted and id not in tail.ids}
        return owners

    async def _whole(self, snapshot: Snapshot, table: Table) -> dict[str, Row]:
        """Return all rows of a small Lance table, by id, kept as long as the table stays at its version."""
        entry = snapshot.entry(table.name)
        columns = tuple(column.name for column in table.columns)
        key = (entry.place, entry.version, columns)
        if key not in self._small:
            found = await _read(snapshot, table, Prefilter(), set(columns))
            self._small[key] = {row["id"]: row for row in decode(table, found, set(columns))}
            while len(self._small) > _MOST_SMALL:
                self._small.popitem(last=False)
        return self._small[key]

    async def _logged(self, snapshot: Snapshot, table: Table, where: Filter | None) -> list[Row]:
        """Return the rows of the log that satisfy a filter. They are not to be changed."""
        found = []
        for write, places in snapshot.tail(table.name).written.items():
            rows = await self._rows(table, write)
            found += [rows[place] for place in places if matches(where, rows[place])]
        return found

    async def _rows(self, table: Table, write: Write) -> list[Row]:
        rows = self._decoded.get(write)
        if rows is None:
            names = {column.name for column in table.columns}
            rows = await _off(write.size, decode, table, write.rows, names) if write.rows is not None else []
            self._decoded[write] = rows
        return rows


async def _off(size: int, work: Callable[..., T], *arguments: Any) -> T:
    """Do what takes time in a thread, and what does not at once."""
    return await asyncio.to_thread(work, *arguments) if size > _FEW else work(*arguments)


def _share(row: Row, names: Collection[str]) -> Row:
    return {name: copy.deepcopy(value) for name, value in row.items() if name in names}


async def _read(snapshot: Snapshot, table: Table, wanted: Prefilter, names: Collection[str]) -> pa.Table:
    """Return columns of the rows that the Lance table holds, with their row ids; the log has its say later."""
    query = (await snapshot.table(table.name)).query()
    for text in wanted.nulls:
        query = query.where(text)
    if not isinstance(wanted.condition, bool):
        query = query.where(wanted.condition)
    with engine_errors(f"read {table.name}"):
        return await query.select(sorted(names)).with_row_id().to_arrow()


async def _held(snapshot: Snapshot, table: Table, where: Filter | None, names: Collection[str]) -> pa.Table:
    """Return columns of the rows of the Lance table that satisfy a filter and that the log has not overruled."""
    wanted = translate(table, where)
    if wanted.condition is False or not snapshot.entry(table.name).rows:
        schema = table.arrow_schema(names)
        return pa.schema([*schema, pa.field(_ROW_ID, pa.uint64())]).empty_table()
    looked_at = set[str]() if wanted.exact else columns_of(where)
    found = await _read(snapshot, table, wanted, {*names, *looked_at})
    tail = snapshot.tail(table.name)
    if tail:
        overruled = pc.is_in(found["id"], value_set=pa.array([*tail.ids], pa.string()))
        found = found.filter(pc.invert(overruled))
    if looked_at:
        found = await _off(found.num_rows, _decided, table, where, found, looked_at)
    return found


def _decided(table: Table, where: Filter | None, found: pa.Table, looked_at: Collection[str]) -> pa.Table:
    rows = decode(table, found, looked_at)
    return found.filter(pa.array([matches(where, row) for row in rows], pa.bool_()))


def _sorted_places(
    table: Table, held: pa.Table, logged: Sequence[Row], order: Sequence[Order], limit: int | None
) -> list[int]:
    """Return where the rows stand, in order: 0, 1, … in the Lance table's, -1, -2, … in the log's."""
    places = [*range(held.num_rows), *range(-1, -len(logged) - 1, -1)]
    keys = pa.table({_PLACE: pa.array(places, pa.int64())})
    for field in table.arrow_schema({"id", *(key.column for key in order)}):
        values = pa.array([row[field.name] for row in logged], field.type)
        keys = keys.append_column(field.name, pa.chunked_array([*held[field.name].chunks, values]))
    sort = []
    for number, key in enumerate(order):
        direction = "descending" if key.descending else "ascending"
        keys = keys.append_column(f"_{number}", pc.is_valid(keys[key.column]))  # null is less than everything
        sort += [(f"_{number}", direction), (key.column, direction)]
    chosen = pc.sort_indices(keys, sort_keys=[*sort, ("id", "ascending")])[:limit]
    chosen_places: list[int] = keys[_PLACE].take(chosen).to_pylist()
    return chosen_places


async def _take(snapshot: Snapshot, table: Table, row_ids: Sequence[int], names: Collection[str]) -> pa.Table:
    lance = await snapshot.table(table.name)
    with engine_errors(f"read {table.name}"):
        return await lance.take_row_ids([*row_ids]).select(sorted(names)).to_arrow()


async def _fetch(snapshot: Snapshot, table: Table, row_ids: Sequence[int], names: Collection[str]) -> dict[str, Row]:
    if not row_ids:
        return {}
    found = await _take(snapshot, table, row_ids, names)
    return {row["id"]: row for row in await _off(found.num_rows, decode, table, found, names)}


def _joined(parts: Sequence[pa.Table], schema: pa.Schema) -> pa.RecordBatch:
    """Join rows, sort them by id, and give them the form that was asked for."""
    ids = pa.chunked_array([chunk for part in parts for chunk in part["id"].chunks])
    order = pc.sort_indices(ids)
    arrays = [pa.concat_arrays([chunk for part in parts for chunk in part[name].chunks]) for name in schema.names]
    return pa.record_batch(
        [array.take(order).cast(field.type) for array, field in zip(arrays, schema, strict=True)], schema=schema
    )
