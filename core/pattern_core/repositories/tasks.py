"""The repository of tasks."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from pattern_core.abc import Row
from pattern_core.errors import NotFoundError, ValidationError
from pattern_core.filters import Field, Filter
from pattern_core.models import Energy, Hit, Json, Page, Priority, Task, TaskStatus
from pattern_core.schema import TABLES
from pattern_core.sessions.edits import Edit
from pattern_core.support.clock import utc_now
from pattern_core.support.validators import check_id

from .append import PAGE_SIZE
from .embedded import EmbeddedRepository

__all__ = ["TaskRepository"]

_OPEN: Final = (TaskStatus.PENDING.value, TaskStatus.IN_PROGRESS.value)


class TaskRepository(EmbeddedRepository[Task]):
    """The tasks of users, with the queries of an ADHD-aware planner."""

    table = TABLES["tasks"]
    record = Task
    fixed = frozenset({"user_id"})

    async def create(
        self,
        *,
        user_id: str,
        title: str,
        description: str | None = None,
        parent_id: str | None = None,
        status: TaskStatus | str = TaskStatus.PENDING,
        priority: Priority | str = Priority.MEDIUM,
        estimated_minutes: int | None = None,
        complexity_score: float | None = None,
        energy_required: Energy | str = Energy.MEDIUM,
        tags: list[str] | None = None,
        metadata: Json | None = None,
        due_at: datetime | None = None,
        id: str | None = None,
    ) -> Task:
        """Create a task.

        Args:
            user_id: The user.
            title: The title; embedded together with the description.
            description: The details.
            parent_id: The parent task, of the same user.
            status: ``pending``, ``in_progress``, ``completed`` or ``cancelled``.
            priority: ``low``, ``medium``, ``high`` or ``urgent``.
            estimated_minutes: The estimated duration, in minutes.
            complexity_score: The complexity, on the caller's own scale from 0 up.
            energy_required: ``low``, ``medium`` or ``high``.
            tags: Words to find it by.
            metadata: Further facts (JSON).
            due_at: The due time, with a time zone.
            id: The id; None for a new one.

        Returns:
            The task.

        Raises:
            NotFoundError: There is no such user or parent.
            AlreadyExistsError: A task has the id.
            ValidationError: A value is not valid, or the parent belongs to another user.
            EmbeddingError: The model failed.
        """
        return await self._create(
            user_id=user_id,
            title=title,
            description=description,
            parent_id=parent_id,
            status=status,
            priority=priority,
            estimated_minutes=estimated_minutes,
            complexity_score=complexity_score,
            energy_required=energy_required,
            tags=tags,
            metadata=metadata,
            due_at=due_at,
            id=id,
        )

    async def create_many(self, records: Iterable[Mapping[str, Any]]) -> list[Task]:
        """Create tasks, all or none, in one commit. A task may be the parent of a later one.

        Args:
            records: For each task the arguments of `create`.

        Returns:
            The tasks, in the order given.

        Raises:
            ValidationError: A value is not valid; see also the errors of `create`. Nothing was written.
        """
        made = self._make_many(records)
        owners: dict[str, str] = {}
        for task in made:
            if task.parent_id is not None:
                owner = owners.get(task.parent_id) or (await self.get(task.parent_id)).user_id
                _check_owner(task.user_id, owner)
            owners[task.id] = task.user_id
        return await self._insert(made) if made else []

    async def start(self, task_id: str) -> Task:
        """Set a task to in progress. Its start time is set the first time.

        Args:
            task_id: The task.

        Returns:
            The task.

        Raises:
            NotFoundError: There is no such task.
        """
        return await self.update(task_id, status=TaskStatus.IN_PROGRESS)

    async def complete(self, task_id: str, *, actual_minutes: int | None = None) -> Task:
        """Set a task to completed, with the current time.

        Args:
            task_id: The task.
            actual_minutes: The actual duration, in minutes; None keeps the recorded one.

        Returns:
            The task.

        Raises:
            NotFoundError: There is no such task.
        """
        took = {} if actual_minutes is None else {"actual_minutes": actual_minutes}
        return await self.update(task_id, status=TaskStatus.COMPLETED, **took)

    async def cancel(self, task_id: str) -> Task:
        """Set a task to cancelled.

        Args:
            task_id: The task.

        Returns:
            The task.

        Raises:
            NotFoundError: There is no such task.
        """
        return await self.update(task_id, status=TaskStatus.CANCELLED)

    async def _change(self, row: Row, changes: Mapping[str, Any]) -> list[Edit]:
        edits = await super()._change(row, {**_times(row, changes), **changes})
        if edits and changes.get("parent_id") is not None:
            above = await self._above(row, changes["parent_id"])
            # Unchanged since they were read; else two tasks could become subtasks of each other at the same time.
            return [*(Edit(self.table, each["id"], each, each) for each in above), *edits]
        return edits

    async def _above(self, row: Row, parent_id: str) -> list[Row]:
        """Return a parent and its ancestors; raise an error for another user's task, the task itself, or its subtasks."""
        found: list[Row] = []
        above: str | None = parent_id
        while above is not None:
            if above == row["id"] or above in {each["id"] for each in found}:
                raise ValidationError(
                    "a task cannot be a subtask of itself or of its own subtasks", where="Task", field="parent_id"
                )
            (parent,) = await self._session.get(self.table, [above])
            if parent is None:
                raise NotFoundError(self.table.name, above)
            _check_owner(row["user_id"], parent["user_id"])
            found.append(parent)
            above = parent["parent_id"]
        return found

    async def subtasks(self, task_id: str, *, limit: int = PAGE_SIZE, cursor: str | None = None) -> Page[Task]:
        """Return the direct subtasks of a task, oldest first.

        Args:
            task_id: The task.
            limit: The most tasks to return.
            cursor: The ``cursor`` of the page before.

        Returns:
            The tasks; empty if there is no such task.
        """
        return await self.list(Field("parent_id") == task_id, limit=limit, cursor=cursor)

    async def due(
        self, user_id: str, until: datetime, *, limit: int = PAGE_SIZE, cursor: str | None = None
    ) -> Page[Task]:
        """Return the open tasks that are due by a time, earliest first.

        Args:
            user_id: The user.
            until: The time, with a time zone; inclusive.
            limit: The most tasks to return.
            cursor: The ``cursor`` of the page before.

        Returns:
            The tasks, overdue ones included.
        """
        return await self.list(_open(user_id) & (Field("due_at") <= until), order="due_at", limit=limit, cursor=cursor)

    async def overdue(
        self, user_id: str, now: datetime | None = None, *, limit: int = PAGE_SIZE, cursor: str | None = None
    ) -> Page[Task]:
        """Return the open tasks that are overdue, earliest first.

        Args:
            user_id: The user.
            now: The time to compare with; None for the current time.
            limit: The most tasks to return.
            cursor: The ``cursor`` of the page before.

        Returns:
            The tasks.
        """
        passed = Field("due_at") < (now or utc_now())
        return await self.list(_open(user_id) & passed, order="due_at", limit=limit, cursor=cursor)

    async def by_energy(
        self, user_id: str, energy: Energy | str, *, limit: int = PAGE_SIZE, cursor: str | None = None
    ) -> Page[Task]:
        """Return the open tasks that take a given energy, oldest first.

        Args:
            user_id: The user.
            energy: ``low``, ``medium`` or ``high``.
            limit: The most tasks to return.
            cursor: The ``cursor`` of the page before.

        Returns:
            The tasks.
        """
        where = _open(user_id) & (Field("energy_required") == _energy_value(energy))
        return await self.list(where, limit=limit, cursor=cursor)

    async def by_tag(self, user_id: str, tag: str, *, limit: int = PAGE_SIZE, cursor: str | None = None) -> Page[Task]:
        """Return the tasks with a tag, oldest first.

        Args:
            user_id: The user.
            tag: The tag.
            limit: The most tasks to return.
            cursor: The ``cursor`` of the page before.

        Returns:
            The tasks, closed ones included.
        """
        where = (Field("user_id") == user_id) & Field("tags").contains(tag)
        return await self.list(where, limit=limit, cursor=cursor)

    async def next_actionable(self, user_id: str, limit: int = 5, *, energy: Energy | str | None = None) -> list[Task]:
        """Return what to do next: pending tasks without open direct subtasks.

        Args:
            user_id: The user.
            limit: The most tasks to return.
            energy: Only tasks that take this energy; None for any energy.

        Returns:
            The tasks, the highest priority first, then the earliest due, then the oldest.
        """
        where = (Field("user_id") == user_id) & (Field("status") == TaskStatus.PENDING.value)
        if energy is not None:
            where &= Field("energy_required") == _energy_value(energy)
        chosen: list[Task] = []
        for priority in reversed(Priority):
            rows = await self._session.find(self.table, where & (Field("priority") == priority.value))
            ids = [row["id"] for row in rows]
            subtasks = Field("parent_id").in_(ids) & Field("status").in_(_OPEN)
            blocked = {row["parent_id"] for row in await self._session.find(self.table, subtasks)} if ids else set()
            ready = [self._load(row) for row in rows if row["id"] not in blocked]
            chosen += sorted(ready, key=_urgency)
            if len(chosen) >= limit:
                break
        return chosen[:limit]

    async def search(
        self,
        text: str,
        *,
        user_id: str,
        limit: int = 10,
        where: Filter | None = None,
        min_score: float | None = None,
        include_inactive: bool = False,  # noqa: ARG002 - every search has it; tasks have no inactive state
    ) -> list[Hit[Task]]:
        """Find tasks of a user by meaning.

        Args:
            text: What to look for.
            user_id: The user; tasks of other users are never found.
            limit: The most hits to return. Fewer are returned only if no more match.
            where: A further filter, on any field: ``Field("status") == "pending"``.
            min_score: The least score of a hit; None for any.
            include_inactive: As for every search. Tasks have no inactive state, so it changes nothing.

        Returns:
            The hits, best first, ties by id.

        Raises:
            NotFoundError: There is no such user.
            ValidationError: The text is blank, or a value is not valid.
            FilterError: The filter does not suit the fields.
            EmbeddingError: The model failed.
        """
        check_id(user_id, self.table.name, "user_id")
        hits = await self._search(text, partitions=[user_id], limit=limit, where=where, min_score=min_score)
        if not hits:
            await self._check_exists("users", user_id)
        return hits

    async def search_semantic(
        self, user_id: str, text: str, limit: int = 10, *, where: Filter | None = None
    ) -> list[Hit[Task]]:
        """Find tasks of a user by meaning. Deprecated: use `search`."""
        warnings.warn("tasks.search_semantic is now tasks.search", DeprecationWarning, stacklevel=2)
        return await self.search(text, user_id=user_id, limit=limit, where=where)


def _open(user_id: str) -> Filter:
    return (Field("user_id") == user_id) & Field("status").in_(_OPEN)


def _energy_value(energy: Energy | str) -> str:
    try:
        return Energy(energy).value
    except ValueError:
        known = ", ".join(each.value for each in Energy)
        raise ValidationError(
            f"{energy!r} is not a valid choice. Known: {known}.", where="Task", field="energy_required"
        ) from None


def _urgency(task: Task) -> tuple[bool, datetime, datetime, str]:
    return task.due_at is None, task.due_at or task.created_at, task.created_at, task.id


def _check_owner(user_id: str, parent_user_id: str) -> None:
    if user_id != parent_user_id:
        raise ValidationError("the parent belongs to another user", where="Task", field="parent_id")


def _times(row: Row, changes: Mapping[str, Any]) -> dict[str, datetime | None]:
    """Return the times that follow from a change of status."""
    status = changes.get("status")
    if status is None or status == row["status"]:
        return {}
    if status == TaskStatus.COMPLETED:
        return {"completed_at": utc_now()}
    begun = {"started_at": utc_now()} if status == TaskStatus.IN_PROGRESS and row["started_at"] is None else {}
    return {"completed_at": None, **begun}
