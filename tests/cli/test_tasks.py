"""``pattern task``."""

from __future__ import annotations

import json
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest

Pattern = Callable[..., CompletedProcess[str]]


def _json(answer: CompletedProcess[str]) -> Any:
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def _ids(answer: CompletedProcess[str]) -> list[str]:
    return [each["id"] for each in _json(answer)["items"]]


@pytest.fixture(autouse=True)
def ada(project: object, pattern: Pattern) -> None:
    """A project with the user Ada."""
    assert pattern("user", "add", "Ada", "--id", "ada").returncode == 0


def test_add(pattern: Pattern) -> None:
    """`add` sets every field; a date without a time is due at the end of that day."""
    pattern("task", "add", "Garden", "--id", "t1")
    options = (
        *("--description", "Two rows.", "--priority", "high", "--energy", "low", "--minutes", "30"),
        *("--complexity", "2.5", "--tag", "garden", "--tag", "spring", "--due", "2026-05-01", "--metadata", "rows=2"),
    )

    added = _json(pattern("task", "add", "Sow the beans", "--parent", "Garden", *options, "--json"))

    assert (added["user_id"], added["parent_id"], added["status"]) == ("ada", "t1", "pending")
    assert (added["description"], added["priority"], added["energy_required"]) == ("Two rows.", "high", "low")
    assert (added["estimated_minutes"], added["complexity_score"]) == (30, 2.5)
    assert (added["tags"], added["metadata"]) == (["garden", "spring"], {"rows": 2})
    assert added["due_at"] is not None
    assert "2026-05-01 23:59" in pattern("task", "show", "Sow the beans").stdout


@pytest.mark.parametrize("options", [("--due", "tomorrow"), ("--priority", "huge"), ("--user", "Bob")])
def test_invalid_task(pattern: Pattern, options: tuple[str, str]) -> None:
    """`add` rejects an invalid time or choice, and an unknown user."""
    assert pattern("task", "add", "Sow the beans", *options).returncode in (1, 2)
    assert _ids(pattern("task", "list", "--json")) == []


def test_list(pattern: Pattern) -> None:
    """`list` shows open tasks, narrowed by tag, energy, parent, due time or a condition; --all adds closed ones."""
    pattern("task", "add", "Garden", "--id", "t1", "--tag", "garden", "--due", "2099-01-01")
    pattern("task", "add", "Sow", "--id", "t2", "--parent", "Garden", "--energy", "low", "--due", "2020-01-01")
    pattern("task", "add", "Dig", "--id", "t3", "--parent", "Garden", "--priority", "high")
    pattern("task", "cancel", "Dig")

    def ids(*options: str) -> list[str]:
        return _ids(pattern("task", "list", *options, "--json"))

    assert ids() == ["t1", "t2"]
    assert ids("--all") == ["t1", "t2", "t3"]
    assert ids("--all", "--parent", "Garden") == ["t2", "t3"]
    assert ids("--tag", "garden") == ["t1"]
    assert ids("--energy", "low") == ["t2"]
    assert ids("--overdue") == ["t2"]
    assert ids("--due", "2099-01-01") == ["t2", "t1"]
    assert ids("--all", "--where", "priority=high", "--user", "Ada") == ["t3"]
    assert "With --all: 1 closed." in pattern("task", "list", "--where", "priority=high").stderr


def test_next(pattern: Pattern) -> None:
    """`next` shows pending tasks without open subtasks, the highest priority first."""
    assert "There is nothing to do." in pattern("task", "next").stderr
    pattern("task", "add", "Garden", "--id", "t1", "--priority", "urgent")
    pattern("task", "add", "Sow", "--id", "t2", "--parent", "Garden", "--energy", "low")
    pattern("task", "add", "Dig", "--id", "t3", "--parent", "Garden", "--priority", "high")

    assert _ids(pattern("task", "next", "--json")) == ["t3", "t2"]
    assert _ids(pattern("task", "next", "--energy", "low", "--limit", "1", "--json")) == ["t2"]
    pattern("task", "complete", "Dig")
    pattern("task", "cancel", "Sow")
    assert _ids(pattern("task", "next", "--json")) == ["t1"]


def test_status(pattern: Pattern) -> None:
    """`start`, `complete`, `cancel` and `reopen` set the status, and its times."""
    pattern("task", "add", "Sow", "--id", "t1")

    started = _json(pattern("task", "start", "Sow", "--json"))
    completed = _json(pattern("task", "complete", "Sow", "--minutes", "20", "--json"))
    reopened = _json(pattern("task", "reopen", "Sow", "--json"))

    assert started["status"] == "in_progress"
    assert started["started_at"] is not None
    assert (completed["status"], completed["actual_minutes"]) == ("completed", 20)
    assert completed["completed_at"] is not None
    assert (reopened["status"], reopened["completed_at"]) == ("pending", None)
    assert pattern("task", "cancel", "Sow").stdout == "Canceled the task Sow (t1).\n"
    assert _json(pattern("task", "show", "t1", "--json"))["status"] == "cancelled"


def test_edit(pattern: Pattern) -> None:
    """`edit` changes the given fields, keeps the others, and embeds a new title."""
    pattern("task", "add", "Sow", "--id", "t1", "--tag", "garden", "--metadata", "rows=2")
    pattern("task", "add", "Garden", "--id", "t2")

    options = ("--title", "Buy umbrellas", "--parent", "Garden", "--metadata", "shop=Bath", "--due", "2026-05-01T18:00")
    changed = _json(pattern("task", "edit", "Sow", *options, "--json"))

    assert (changed["title"], changed["parent_id"], changed["tags"]) == ("Buy umbrellas", "t2", ["garden"])
    assert changed["metadata"] == {"rows": 2, "shop": "Bath"}
    assert _json(pattern("task", "search", "umbrellas", "--json"))["items"][0]["task"]["id"] == "t1"
    assert pattern("task", "edit", "Garden").returncode == 2
    assert pattern("task", "edit", "Garden", "--parent", "Buy umbrellas").returncode == 1


def test_search(pattern: Pattern) -> None:
    """`search` finds tasks of a user by title and description."""
    pattern("task", "add", "Sow the beans", "--id", "t1")
    pattern("task", "add", "Shopping", "--id", "t2", "--description", "Beans and tea.")
    pattern("task", "cancel", "t2")

    def ids(*options: str) -> set[str]:
        return {hit["task"]["id"] for hit in _json(pattern("task", "search", "beans", *options, "--json"))["items"]}

    assert ids() == {"t1", "t2"}
    assert ids("--where", "status=pending", "--user", "ada") == {"t1"}
    assert ids("--min-score", "0.99") == set()
    assert "Shopping Beans and tea." in pattern("task", "search", "beans").stdout


def test_several_users(pattern: Pattern) -> None:
    """With several users, a task needs --user; a subtask belongs to its parent's user."""
    pattern("user", "add", "Bob", "--id", "bob")

    assert "Name one with --user" in pattern("task", "list").stderr
    assert _json(pattern("task", "add", "Sow", "--user", "Bob", "--json"))["user_id"] == "bob"
    assert _json(pattern("task", "add", "Dig", "--parent", "Sow", "--json"))["user_id"] == "bob"


def test_rm(pattern: Pattern) -> None:
    """`rm` deletes a task with subtasks only with --cascade."""
    pattern("task", "add", "Garden", "--id", "t1")
    pattern("task", "add", "Sow", "--parent", "Garden")

    assert pattern("task", "rm", "Garden").returncode == 2
    assert "still has 1 task." in pattern("task", "rm", "Garden", "--yes").stderr
    assert pattern("task", "rm", "Garden", "--yes", "--cascade").stdout == "Deleted: 2 tasks.\n"
    assert "There is no task" in pattern("task", "show", "Garden").stderr
