"""The rules of `Storage.get`, `find`, `count` and `scan`, without filters."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
import pytest

from pattern_core.abc import Delete, Insert, Patch, Row, Storage
from pattern_core.filters import Field
from pattern_core.repositories.paging import cursor_after, parse_order, resume
from pattern_core.schema import TABLES, Kind, Order

from .contract import Contract
from .rows import DIMENSIONS, KIT_TABLES, NOON, TASKS, VECTORS, sample_row, sample_vector

__all__ = ["ReadRules"]

USERS = TABLES["users"]


async def _insert_tasks(storage: Storage, rows: list[Row]) -> None:
    await storage.commit([Insert(TASKS, row) for row in rows])


async def _ids(storage: Storage, *order: Order, limit: int | None = None) -> list[str]:
    return [row["id"] for row in await storage.find(TASKS, order=order, limit=limit)]


class ReadRules(Contract):
    """Reads: rows, orders, scans and pages."""

    async def test_get_returns_rows_in_the_order_of_the_ids(self, storage: Storage) -> None:
        """`get` returns the row or None for each id, in the order of the ids.

        If it fails: build a dict by id from the engine's rows, then look up each id.
        """
        await storage.commit([Insert(USERS, sample_row(USERS, id)) for id in ("a", "b", "c")])
        found = await storage.get(USERS, ["c", "missing", "a", "c"])
        assert [row and row["id"] for row in found] == ["c", None, "a", "c"]
        assert await storage.get(USERS, []) == []

    async def test_get_accepts_many_ids(self, storage: Storage) -> None:
        """`get` accepts a thousand ids.

        If it fails: if the engine limits the number of parameters, read in several queries.
        """
        ids = [f"u{n:04}" for n in range(1000)]
        await storage.commit([Insert(USERS, sample_row(USERS, id)) for id in ids])
        found = await storage.get(USERS, ids[::-1])
        assert [row and row["id"] for row in found] == ids[::-1]

    async def test_rows_have_all_columns_and_vectors_on_request(self, storage: Storage) -> None:
        """A row has all columns of its table; the vector column only with ``vectors=True``.

        If it fails: return None for a null column. Without ``vectors=True``, leave the vector column out of the row.
        """
        await storage.commit([Insert(VECTORS, sample_row(VECTORS, "m1"))])
        names = {column.name for column in VECTORS.columns}
        for vectors, expected in ((False, names - {"embedding"}), (True, names)):
            (row,) = await storage.get(VECTORS, ["m1"], vectors=vectors)
            assert row is not None
            assert row.keys() == expected
            (row,) = await storage.find(VECTORS, vectors=vectors)
            assert row.keys() == expected

    async def test_rows_belong_to_the_caller(self, storage: Storage) -> None:
        """Changing a returned row changes neither the storage nor other rows.

        If it fails: return deep copies of cached rows.
        """
        await storage.commit([Insert(USERS, sample_row(USERS, "u1", settings={"list": [1]}))])
        first, second = await storage.get(USERS, ["u1", "u1"])
        assert first is not None
        assert second is not None
        first["settings"]["list"].append(2)
        first["id"] = "changed"
        assert second["settings"] == {"list": [1]}
        (found,) = await storage.find(USERS)
        found["settings"]["list"].append(3)
        (again,) = await storage.get(USERS, ["u1"])
        assert again is not None
        assert again["settings"] == {"list": [1]}

    async def test_the_default_order_is_by_id(self, storage: Storage) -> None:
        """Without an order, rows are sorted by id, by code point.

        If it fails: append the id to every order. Compare by code point, without a collation.
        """
        ids = ["b", "a", "B", "A", "10", "9", "é", "z", "\uff5e", "😀"]
        await _insert_tasks(storage, [sample_row(TASKS, id) for id in ids])
        assert await _ids(storage) == sorted(ids)

    async def test_ties_are_sorted_by_id(self, storage: Storage) -> None:
        """Rows with equal sort keys are sorted by id, ascending, also if the keys are descending.

        If it fails: append ``id ASC`` to every order.
        """
        await _insert_tasks(storage, [sample_row(TASKS, id, title="same") for id in ("c", "a", "b")])
        assert await _ids(storage, Order("title")) == ["a", "b", "c"]
        assert await _ids(storage, Order("title", descending=True)) == ["a", "b", "c"]

    @pytest.mark.parametrize(
        ("column", "values"),
        [
            (
                "title",
                ["", "A", "Z", "a", "ab", "z", "é", "\uff5e", "😀"],
            ),  # U+FF5E sorts before U+1F600, not in UTF-16
            ("estimated_minutes", [-(2**53) - 1, -1, 0, 1, 2, 10, 2**53, 2**53 + 1, 2**63 - 1]),
            ("complexity_score", [-1e300, -1.5, 0.0, 1e-300, 0.5, 2.0, 10.0, 1e300]),
            ("due_at", [NOON + timedelta(microseconds=n) for n in (-86_400_000_000, -1, 0, 1, 999, 1_000_000)]),
        ],
    )
    async def test_order_by_each_kind(self, storage: Storage, column: str, values: list[object]) -> None:
        """Texts sort by code point, numbers by value, times by instant; descending is the exact reverse.

        If it fails: look for texts compared by a collation or in UTF-16, and for numbers or times stored as texts.
        """
        # The ids descend, so that an order by id fails.
        rows = [sample_row(TASKS, f"t{99 - n}", **{column: value}) for n, value in enumerate(values)]
        await _insert_tasks(storage, rows)
        ascending = [row["id"] for row in rows]
        assert await _ids(storage, Order(column)) == ascending
        assert await _ids(storage, Order(column, descending=True)) == ascending[::-1]

    @pytest.mark.parametrize("column", ["description", "estimated_minutes", "complexity_score", "due_at"])
    async def test_nulls_sort_first(self, storage: Storage, column: str) -> None:
        """Nulls come first in ascending and last in descending order, and are equal to each other.

        If it fails: use ``NULLS FIRST`` and ``NULLS LAST``, or sort by ``IS NULL`` before the value.
        """
        low = {"description": "", "estimated_minutes": -5, "complexity_score": -5.0, "due_at": NOON}[column]
        rows = [sample_row(TASKS, "c"), sample_row(TASKS, "b", **{column: low}), sample_row(TASKS, "a")]
        await _insert_tasks(storage, rows)
        assert await _ids(storage, Order(column)) == ["a", "c", "b"]
        assert await _ids(storage, Order(column, descending=True)) == ["b", "a", "c"]

    async def test_order_by_several_keys(self, storage: Storage) -> None:
        """A later key decides only between rows with equal earlier keys.

        If it fails: pass all keys to the engine, in order, each with its direction.
        """
        rows = [
            sample_row(TASKS, f"{title}{minutes}", title=title, estimated_minutes=minutes)
            for title in "ab"
            for minutes in (1, 2)
        ]
        await _insert_tasks(storage, rows)
        order = (Order("title", descending=True), Order("estimated_minutes"))
        assert await _ids(storage, *order) == ["b1", "b2", "a1", "a2"]
        order = (Order("title"), Order("estimated_minutes", descending=True))
        assert await _ids(storage, *order) == ["a2", "a1", "b2", "b1"]

    async def test_limit_applies_after_filter_and_order(self, storage: Storage) -> None:
        """``limit`` applies after filter and order; 0 returns no rows, a large limit returns all.

        If it fails: some engines apply the limit before the filter or the order. Change the query.
        """
        await _insert_tasks(storage, [sample_row(TASKS, f"t{n}", estimated_minutes=n) for n in range(9)])
        where = Field("estimated_minutes") >= 3
        order = [Order("estimated_minutes", descending=True)]
        for limit, expected in ((0, []), (2, ["t8", "t7"]), (99, ["t8", "t7", "t6", "t5", "t4", "t3"])):
            found = await storage.find(TASKS, where, order=order, limit=limit)
            assert [row["id"] for row in found] == expected
        assert await _ids(storage, limit=1) == ["t0"]

    async def test_count_agrees_with_find(self, storage: Storage) -> None:
        """`count` returns the number of rows that `find` returns without a limit, as an int.

        If it fails: translate the filter with the same code for both.
        """
        assert await storage.count(TASKS) == 0
        await _insert_tasks(storage, [sample_row(TASKS, f"t{n}", estimated_minutes=n) for n in range(9)])
        assert await storage.count(TASKS) == 9
        assert await storage.count(TASKS, Field("estimated_minutes") < 4) == 4
        assert await storage.count(TASKS, Field("estimated_minutes") < 0) == 0

    async def test_scan_yields_each_record_once_by_id(self, storage: Storage) -> None:
        """`scan` yields all records by id, in Arrow batches of the declared schema with at most ``batch_rows`` rows.

        If it fails: read pages with ``id > last id``, ordered by id. Build batches with ``table.arrow_schema()``.
        """
        rows = {f"m{n:03}": sample_row(TASKS, f"m{n:03}", embedding=sample_vector(f"{n}")) for n in range(150)}
        await storage.commit([Insert(TASKS, row) for row in list(rows.values())[::-1]])
        batches = [batch async for batch in storage.scan(TASKS, batch_rows=40)]
        assert all(batch.schema == TASKS.arrow_schema() for batch in batches)
        assert all(0 < batch.num_rows <= 40 for batch in batches)
        found = [row for batch in batches for row in batch.to_pylist()]
        assert [row["id"] for row in found] == sorted(rows)
        for row in found:
            expected = rows[row["id"]]
            assert json.loads(row["metadata"]) == expected["metadata"]
            assert np.array_equal(np.array(row["embedding"], dtype=np.float32), expected["embedding"])
            assert row["updated_at"] == NOON

    async def test_scan_of_nulls_and_lists(self, storage: Storage) -> None:
        """A scan yields nulls as null, lists of texts as lists, JSON as JSON text, and times in UTC.

        If it fails: pass the declared types to Arrow, so that it does not infer them from the first batch.
        """
        full = sample_row(
            TASKS,
            "a",
            tags=["x", "é", ""],
            metadata={"é": [1, 2.0, None, {}]},
            complexity_score=2.0,
            estimated_minutes=2**53 + 1,
            due_at=NOON,
            embedding=sample_vector("a"),
        )
        await _insert_tasks(storage, [full, sample_row(TASKS, "b")])
        batches = [batch async for batch in storage.scan(TASKS, batch_rows=1)]
        first, second = (batch.to_pylist()[0] for batch in batches)
        assert first["tags"] == full["tags"]
        assert json.loads(first["metadata"]) == full["metadata"]
        assert (first["complexity_score"], first["estimated_minutes"]) == (2.0, 2**53 + 1)
        assert first["due_at"] == NOON
        assert second["tags"] == []
        nulls = {column.name for column in TASKS.columns if column.optional}
        assert {name for name, value in second.items() if value is None} == nulls

    async def test_scan_of_some_columns_and_records(self, storage: Storage) -> None:
        """`scan` yields the requested columns, in the table's order, of the records that satisfy the filter.

        If it fails: build the schema with ``table.arrow_schema(columns)``, and select its names.
        """
        rows = [sample_row(VECTORS, f"m{n}", partition=f"agent{n % 3}") for n in range(9)]
        await storage.commit([Insert(VECTORS, row) for row in rows])
        columns = ["embedding", "partition", "id"]
        where = Field("partition").in_(["agent1", "agent2"])
        batches = [batch async for batch in storage.scan(VECTORS, where, columns=columns, batch_rows=4)]
        assert all(batch.schema == VECTORS.arrow_schema(columns) for batch in batches)
        found = [row for batch in batches for row in batch.to_pylist()]
        assert [row["id"] for row in found] == ["m1", "m2", "m4", "m5", "m7", "m8"]
        assert [row["partition"] for row in found] == ["agent1", "agent2"] * 3
        # The id and the vector may both be left out.
        batches = [batch async for batch in storage.scan(VECTORS, where, columns=["text_hash"], batch_rows=4)]
        assert [row for batch in batches for row in batch.to_pylist()] == [
            {"text_hash": f"text_hash of m{n}"} for n in (1, 2, 4, 5, 7, 8)
        ]

    async def test_scan_of_an_empty_table(self, storage: Storage) -> None:
        """A scan of an empty table yields no records.

        If it fails: stop at an empty page.
        """
        assert sum([batch.num_rows async for batch in storage.scan(USERS)]) == 0

    async def test_scan_while_others_write(self, storage: Storage) -> None:
        """A record that exists throughout a scan comes exactly once, whatever is written meanwhile.

        If it fails: read pages with ``id > last id``. A numeric offset skips or repeats rows if others are written.
        """
        steady = [f"u{n:03}" for n in range(0, 200, 2)]
        doomed = [f"u{n:03}" for n in range(1, 200, 2)]
        await storage.commit([Insert(USERS, sample_row(USERS, id)) for id in steady + doomed])
        seen: list[str] = []
        step = 0
        async for batch in storage.scan(USERS, batch_rows=16):
            seen += batch.column("id").to_pylist()
            await storage.commit(
                [
                    *(Delete(USERS, id) for id in (doomed[2 * step], doomed[2 * step + 1], doomed[-step - 1])),
                    Insert(USERS, sample_row(USERS, f"t{step}")),
                    Patch(USERS, steady[step], {"revision": 2}),
                ]
            )
            step += 1
        assert seen == sorted(set(seen))
        assert set(seen) >= set(steady)

    @pytest.mark.parametrize("order", ["id", "-due_at", ("estimated_minutes", "-id"), ("-complexity_score", "title")])
    async def test_paging_while_others_write(self, storage: Storage, order: str | tuple[str, ...]) -> None:
        """A record that exists throughout paging by cursors comes exactly once, in order, also with nulls in the keys.

        If it fails: a cursor is a filter of `<`, `>`, `is_null` and `or`. Check that nulls sort first, and ties by id.
        """
        keys = parse_order(TASKS, order)

        def row(id: str, n: int) -> Row:
            moment = NOON.replace(minute=n % 7) if n % 3 else None
            numbers = {"estimated_minutes": n % 4 if n % 5 else None, "complexity_score": n / 8 if n % 2 else None}
            return sample_row(TASKS, id, title=f"title {n % 6}", due_at=moment, **numbers)

        await storage.commit([Insert(TASKS, row(f"t{n:02}", n)) for n in range(40)])
        expected = [each["id"] for each in await storage.find(TASKS, order=keys)]
        seen: list[str] = []
        where = None
        while page := await storage.find(TASKS, where, order=keys, limit=7):
            seen += [each["id"] for each in page]
            where = resume(TASKS, keys, cursor_after(keys, page[-1]))
            await storage.commit([Insert(TASKS, row(f"new {len(seen)} {n}", n)) for n in range(3)])
            assert len(seen) <= 200, "paging does not end"
        assert [id for id in seen if id.startswith("t")] == expected
        assert len(seen) == len(set(seen))

    async def test_a_scan_can_be_abandoned(self, storage: Storage) -> None:
        """A scan that is abandoned before its end does not affect later calls.

        If it fails: release cursors and locks in ``finally``.
        """
        await storage.commit([Insert(USERS, sample_row(USERS, f"u{n}")) for n in range(10)])
        scan = storage.scan(USERS, batch_rows=2)
        first = await anext(aiter(scan))
        assert first.num_rows == 2
        del scan
        await storage.commit([Insert(USERS, sample_row(USERS, "u99"))])
        assert await storage.count(USERS) == 11

    async def test_vectors_can_be_read(self, storage: Storage) -> None:
        """With ``vectors=True``, the vector of a row is a float32 array of shape ``[dimensions]``, or None.

        If it fails: convert the engine's value with ``numpy.asarray(…, dtype=numpy.float32)``.
        """
        await _insert_tasks(
            storage, [sample_row(TASKS, "a", embedding=sample_vector("a")), sample_row(TASKS, "b", embedding=None)]
        )
        first, second = await storage.find(TASKS, vectors=True)
        assert isinstance(first["embedding"], np.ndarray)
        assert (first["embedding"].dtype, first["embedding"].shape) == (np.float32, (DIMENSIONS,))
        assert second["embedding"] is None

    async def test_optional_columns_accept_null_and_a_value(self, storage: Storage) -> None:
        """Every table accepts a row with all optional columns null, and a row with none of them null.

        If it fails: compare the columns in the engine with `pattern_core.schema.TABLES`.
        """
        values = {
            Kind.TEXT: "t",
            Kind.INTEGER: 2,
            Kind.NUMBER: 0.5,
            Kind.TIME: NOON,
            Kind.OBJECTS: [{"a": 1}],
            Kind.VECTOR: sample_vector("v"),
        }
        for table in KIT_TABLES:
            full = {column.name: values[column.kind] for column in table.columns if column.optional}
            await storage.commit([Insert(table, sample_row(table, "a")), Insert(table, sample_row(table, "b", **full))])
            empty, filled = await storage.find(table, vectors=True)
            for name, value in full.items():
                assert empty[name] is None, (table.name, name)
                if isinstance(value, np.ndarray):
                    assert np.array_equal(filled[name], value), (table.name, name)
                else:
                    assert filled[name] == value, (table.name, name)
