"""Tasks: subtasks, the times of a status, and the queries of a planner."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from pattern_core.database import Database
from pattern_core.errors import NotFoundError, ReferencedError, ValidationError
from pattern_core.filters import Field
from pattern_core.models import Energy, Priority, TaskStatus

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("people")]

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


class TestStatus:
    async def test_the_status_sets_times(self, db: Database) -> None:
        """Starting and completing set times. Starting again clears the completion and keeps the start."""
        task = await db.tasks.create(user_id="ada", title="Write")
        started = await db.tasks.start(task.id)
        done = await db.tasks.complete(task.id, actual_minutes=25)
        again = await db.tasks.start(task.id)
        cancelled = await db.tasks.cancel(task.id)

        assert (task.status, task.started_at, task.is_open) == (TaskStatus.PENDING, None, True)
        assert (started.status, started.started_at is not None) == (TaskStatus.IN_PROGRESS, True)
        assert (done.status, done.completed_at is not None, done.actual_minutes) == (TaskStatus.COMPLETED, True, 25)
        assert not done.is_open
        assert (again.completed_at, again.started_at) == (None, started.started_at)
        assert cancelled.status is TaskStatus.CANCELLED

    async def test_a_given_time_is_kept(self, db: Database) -> None:
        """A time given with the status is kept; a second completion keeps the first time."""
        task = await db.tasks.create(user_id="ada", title="Write")
        done = await db.tasks.update(task, status="completed", completed_at=NOW)

        assert done.completed_at == NOW
        assert await db.tasks.complete(task.id) == done


class TestSubtasks:
    async def test_tree(self, db: Database) -> None:
        """A task and its subtasks can be created together. A task cannot be its own ancestor."""
        made = await db.tasks.create_many(
            [
                {"user_id": "ada", "title": "Move house", "id": "move"},
                {"user_id": "ada", "title": "Pack", "parent_id": "move", "id": "pack"},
                {"user_id": "ada", "title": "Books", "parent_id": "pack", "id": "books"},
            ]
        )

        assert [task.title for task in await db.tasks.subtasks("move")] == ["Pack"]
        assert [task.parent_id for task in made] == [None, "move", "pack"]
        with pytest.raises(ValidationError, match="itself"):
            await db.tasks.update("move", parent_id="books")
        with pytest.raises(ValidationError, match="itself"):
            await db.tasks.update("move", parent_id="move")
        assert (await db.tasks.update("books", parent_id="move")).parent_id == "move"
        assert (await db.tasks.update("books", parent_id=None)).parent_id is None

    async def test_concurrent_updates_make_no_circle(self, db: Database) -> None:
        """Of two concurrent updates that would make a circle, only one succeeds."""
        one, two = await db.tasks.create_many([{"user_id": "ada", "title": "one"}, {"user_id": "ada", "title": "two"}])
        await asyncio.gather(
            db.tasks.update(one.id, parent_id=two.id), db.tasks.update(two.id, parent_id=one.id), return_exceptions=True
        )
        parents = [(await db.tasks.get(task.id)).parent_id for task in (one, two)]

        assert parents in ([two.id, None], [None, one.id])

    async def test_the_parent_must_have_the_same_user(self, db: Database) -> None:
        """A parent of another user, or a missing one, is rejected."""
        await db.users.create(id="bob")
        theirs = await db.tasks.create(user_id="bob", title="Theirs")
        mine = await db.tasks.create(user_id="ada", title="Mine")
        with pytest.raises(ValidationError, match="another user"):
            await db.tasks.create(user_id="ada", title="x", parent_id=theirs.id)
        with pytest.raises(ValidationError, match="another user"):
            await db.tasks.update(mine, parent_id=theirs.id)
        with pytest.raises(NotFoundError):
            await db.tasks.create(user_id="ada", title="x", parent_id="nowhere")
        with pytest.raises(NotFoundError):
            await db.tasks.update(mine, parent_id="nowhere")

        assert await db.tasks.count() == 2

    async def test_delete(self, db: Database) -> None:
        """A task with subtasks is deleted only with all of them."""
        top = await db.tasks.create(user_id="ada", title="top")
        middle = await db.tasks.create(user_id="ada", title="middle", parent_id=top.id)
        await db.tasks.create(user_id="ada", title="leaf", parent_id=middle.id)
        with pytest.raises(ReferencedError) as caught:
            await db.tasks.delete(top)
        assert caught.value.by == {"tasks": 2}

        assert await db.tasks.delete(top, cascade=True) == {"tasks": 3}
        assert await db.tasks.count() == 0


class TestPlanner:
    @pytest.fixture(autouse=True)
    async def tasks(self, db: Database, people: None) -> None:
        def task(id: str, **fields: object) -> dict[str, object]:
            return {"user_id": "ada", "title": id, "id": id, **fields}

        await db.users.create(id="bob")
        await db.tasks.create_many(
            [
                task("late", due_at=NOW - timedelta(days=1), priority="low"),
                task("soon", due_at=NOW + timedelta(hours=1), priority="high", energy_required="low"),
                task("later", due_at=NOW + timedelta(days=9), priority="high"),
                task("whenever", priority="high", tags=["house", "fun"]),
                task("big", priority="urgent", tags=["house"]),
                task("part", parent_id="big", energy_required="high"),
                task("done", due_at=NOW - timedelta(days=2), status="completed", tags=["house"]),
                task("running", status="in_progress", due_at=NOW),
                {"user_id": "bob", "title": "theirs", "due_at": NOW - timedelta(days=3), "priority": "urgent"},
            ]
        )

    async def test_due(self, db: Database) -> None:
        """`due` returns open tasks due at or before a time, earliest first."""
        assert [task.id for task in await db.tasks.due("ada", NOW)] == ["late", "running"]
        assert [task.id for task in await db.tasks.due("ada", NOW + timedelta(hours=2))] == ["late", "running", "soon"]

    async def test_overdue(self, db: Database) -> None:
        """`overdue` returns open tasks whose due time has passed."""
        assert [task.id for task in await db.tasks.overdue("ada", NOW)] == ["late"]
        assert {task.id for task in await db.tasks.overdue("ada")} >= {"late"}

    async def test_by_energy(self, db: Database) -> None:
        """`by_energy` returns the tasks that need an amount of energy."""
        assert [task.id for task in await db.tasks.by_energy("ada", "high")] == ["part"]
        assert [task.id for task in await db.tasks.by_energy("ada", Energy.LOW)] == ["soon"]
        with pytest.raises(ValidationError, match="Known: low, medium, high"):
            await db.tasks.by_energy("ada", "huge")

    async def test_by_tag(self, db: Database) -> None:
        """`by_tag` returns tasks with a tag, including closed ones."""
        assert [task.id for task in await db.tasks.by_tag("ada", "house")] == ["whenever", "big", "done"]
        assert len(await db.tasks.by_tag("bob", "house")) == 0

    async def test_next_actionable(self, db: Database) -> None:
        """`next_actionable` returns pending tasks without open subtasks, by priority, due time and age."""
        expected = ["soon", "later", "whenever", "part", "late"]
        assert [task.id for task in await db.tasks.next_actionable("ada", 9)] == expected
        assert [task.id for task in await db.tasks.next_actionable("ada", 2)] == expected[:2]
        assert [task.id for task in await db.tasks.next_actionable("ada", energy="high")] == ["part"]
        await db.tasks.complete("part")

        assert [task.id for task in await db.tasks.next_actionable("ada", 1)] == ["big"]

    async def test_search(self, db: Database) -> None:
        """A search finds tasks of the user by title and description."""
        await db.tasks.update("whenever", description="Plant the apple tree behind the shed")
        hits = await db.tasks.search("planting an apple tree", user_id="ada", limit=1)

        assert [hit.record.id for hit in hits] == ["whenever"]
        open_only = await db.tasks.search("theirs", user_id="ada", limit=20, where=Field("status") == "pending")
        assert {hit.record.status for hit in open_only} == {TaskStatus.PENDING}
        assert {hit.record.user_id for hit in open_only} == {"ada"}

    async def test_priorities_are_ordered(self) -> None:
        """Priorities are in ascending order, which the planner relies on."""
        assert list(Priority) == [Priority.LOW, Priority.MEDIUM, Priority.HIGH, Priority.URGENT]
