"""Lists: filters, orders, limits and cursors work the same for every record and storage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from pattern_core.database import Database
from pattern_core.errors import FilterError, NotFoundError, ValidationError
from pattern_core.filters import Field
from pattern_core.models import TaskStatus

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("people")]

NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
async def tasks(db: Database, people: None) -> None:
    """Twenty tasks, some without a due date, some with the same."""
    await db.tasks.create_many(
        [
            {
                "user_id": "ada",
                "id": f"t{n:02}",
                "title": f"task {n % 4}",
                "due_at": None if n % 3 == 0 else NOW + timedelta(days=n % 5),
                "estimated_minutes": n,
            }
            for n in range(20)
        ]
    )


@pytest.mark.usefixtures("tasks")
class TestList:
    @pytest.mark.parametrize("order", ["id", "-id", "due_at", "-due_at", ("title", "-due_at"), ("-title", "id")])
    @pytest.mark.parametrize("limit", [1, 3, 20, 50])
    async def test_pages_make_up_the_list(self, db: Database, order: str | tuple[str, ...], limit: int) -> None:
        """In any order, with nulls and ties, the pages together are the list, with each record once."""
        everything = await db.tasks.list(order=order, limit=1000)
        assert everything.cursor is None
        pages, cursor = [], None
        while True:
            page = await db.tasks.list(order=order, limit=limit, cursor=cursor)
            pages += list(page)
            assert len(page) <= limit
            cursor = page.cursor
            if cursor is None:
                break

        assert pages == list(everything)
        assert len({task.id for task in pages}) == 20

    async def test_writes_between_pages(self, db: Database) -> None:
        """Records that are created or deleted between two pages do not make others repeat or disappear."""
        first = await db.tasks.list(order="id", limit=5)
        await db.tasks.delete("t01")
        await db.tasks.create(user_id="ada", title="new", id="t00a")
        second = await db.tasks.list(order="id", limit=5, cursor=first.cursor)

        assert [task.id for task in second] == ["t05", "t06", "t07", "t08", "t09"]

    async def test_nulls_come_first(self, db: Database) -> None:
        """Null sorts before every value: first ascending, last descending."""
        ascending = [task.due_at for task in await db.tasks.list(order="due_at")]
        descending = [task.due_at for task in await db.tasks.list(order="-due_at")]

        assert ascending[:7] == [None] * 7
        assert descending[-7:] == [None] * 7

    async def test_filter_and_count(self, db: Database) -> None:
        """A filter applies before the limit; a count ignores limits."""
        long = (Field("estimated_minutes") >= 10) & ~Field("due_at").is_null()

        assert await db.tasks.count(long) == len(await db.tasks.list(long, limit=100)) == 7
        assert len(await db.tasks.list(long, limit=2)) == 2
        assert await db.tasks.count() == 20

    async def test_iterate(self, db: Database) -> None:
        """`iterate` returns all records, page by page."""
        seen = [task.id async for task in db.tasks.iterate(order="-id", page=6)]

        assert seen == [f"t{n:02}" for n in reversed(range(20))]

    async def test_a_page_is_a_sequence(self, db: Database) -> None:
        """A page supports indexes, slices, `len` and `in`."""
        page = await db.tasks.list(order="id", limit=3)

        assert (page[0].id, page[-1].id, len(page)) == ("t00", "t02", 3)
        assert [task.id for task in page[1:]] == ["t01", "t02"]
        assert page[0] in page


class TestErrors:
    @pytest.mark.parametrize("limit", [0, -3, "7"])
    async def test_limit(self, db: Database, limit: int) -> None:
        """A limit below 1, or that is no number, is an error."""
        with pytest.raises(ValidationError, match="limit"):
            await db.tasks.list(limit=limit)

    @pytest.mark.parametrize("order", ["nmae", "-metadata", "tags", "embedding", "", "id; DROP TABLE tasks"])
    async def test_order(self, db: Database, order: str) -> None:
        """An unknown field, or one without an order, is an error."""
        with pytest.raises(FilterError):
            await db.tasks.list(order=order)

    @pytest.mark.parametrize("cursor", ["", "x", "!!!", "e30=", "W10=", "W1sxLDJdXQ==", "bnVsbA=="])
    async def test_an_invalid_cursor(self, db: Database, cursor: str) -> None:
        """A text that is no cursor is an error."""
        with pytest.raises(FilterError, match="cursor"):
            await db.tasks.list(cursor=cursor)

    async def test_a_cursor_of_another_order(self, db: Database) -> None:
        """A cursor of another order is an error."""
        await db.tasks.create_many([{"user_id": "ada", "title": str(n)} for n in range(3)])
        page = await db.tasks.list(order="title", limit=1)
        with pytest.raises(FilterError, match="another order"):
            await db.tasks.list(order="-title", cursor=page.cursor)

    async def test_a_boolean_is_no_filter(self, db: Database) -> None:
        """A boolean instead of a filter, such as the result of `and`, is an error."""
        with pytest.raises(FilterError, match="expected a filter"):
            await db.tasks.list(True)  # type: ignore[arg-type]  # the mistake under test
        with pytest.raises(TypeError, match="no truth value"):
            await db.tasks.list((Field("title") == "a") and (Field("id") == "b"))


@pytest.mark.usefixtures("tasks")
class TestEquality:
    """Fields as keywords mean equality."""

    async def test_keywords_are_filters(self, db: Database) -> None:
        """Keywords and a filter are combined with and."""
        where = Field("title") == "task 1"
        expected = list(await db.tasks.list(where & (Field("estimated_minutes") == 5)))

        assert [task.id for task in expected] == ["t05"]
        assert list(await db.tasks.list(title="task 1", estimated_minutes=5)) == expected
        assert list(await db.tasks.list(where, estimated_minutes=5)) == expected
        assert [task async for task in db.tasks.iterate(where, estimated_minutes=5, page=1)] == expected
        assert await db.tasks.count(where, estimated_minutes=5) == 1
        assert await db.tasks.count(user_id="ada", due_at=None) == 7

    async def test_enums_and_pages(self, db: Database) -> None:
        """A member of an enum is equal to its text, and a cursor continues a list with keywords."""
        await db.tasks.complete("t03")
        assert await db.tasks.count(status=TaskStatus.COMPLETED) == await db.tasks.count(status="completed") == 1
        first = await db.tasks.list(status="pending", limit=10)
        second = await db.tasks.list(status="pending", limit=10, cursor=first.cursor)
        assert [task.id for task in (*first, *second)] == [f"t{n:02}" for n in range(20) if n != 3]

    @pytest.mark.parametrize("verb", ["list", "count"])
    async def test_unknown_keywords(self, db: Database, verb: str) -> None:
        """An unknown keyword is an error that suggests the closest field."""
        with pytest.raises(FilterError, match="Did you mean 'title'"):
            await getattr(db.tasks, verb)(titel="task 1")
        with pytest.raises(FilterError, match="not a valid choice"):
            await getattr(db.tasks, verb)(status="done")


class TestGetMany:
    async def test_in_the_order_given(self, db: Database) -> None:
        """Records come in the order of the ids, repeats included."""
        found = await db.agents.get_many(["planner", "archive", "planner"])

        assert [agent.id for agent in found] == ["planner", "archive", "planner"]
        assert await db.agents.get_many([]) == []

    async def test_a_missing_record(self, db: Database) -> None:
        """A missing record is an error that names it."""
        with pytest.raises(NotFoundError, match="nobody"):
            await db.agents.get_many(["archive", "nobody"])

    async def test_with_embeddings(self, db: Database) -> None:
        """Embeddings are read on request."""
        made = await db.memories.create_many(
            [{"agent_id": "archive", "label": f"{n}", "content": f"number {n}"} for n in range(3)]
        )
        plain = await db.memories.get_many([each.id for each in made])
        full = await db.memories.get_many([each.id for each in made], with_embedding=True)

        assert plain == full == made
        assert [each.embedding for each in plain] == [None] * 3
        for each in full:
            single = await db.memories.get(each.id, with_embedding=True)
            assert each.embedding is not None
            assert single.embedding is not None
            assert np.array_equal(each.embedding.vectors, single.embedding.vectors)
