"""Deletion: within one scope, counted, all or nothing, without orphans."""

from __future__ import annotations

import asyncio

import pytest

from pattern_core.database import Database
from pattern_core.errors import NotFoundError, PatternError, ReferencedError
from pattern_core.filters import Field
from pattern_core.schema import TABLES

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("people")]


@pytest.fixture
async def full(db: Database, people: None) -> None:
    """Two users with records in every table."""
    await db.users.create(id="bob")
    await db.agents.create(user_id="bob", agent_type="archive", name="B", id="bobs")
    for user, agent in (("ada", "archive"), ("bob", "bobs")):
        await db.memories.create_many(
            [{"agent_id": agent, "label": str(n), "content": f"espresso {n}"} for n in range(3)]
        )
        thread = await db.conversations.create(user_id=user, agent_id=agent)
        await db.messages.create_many(
            [{"conversation_id": thread.id, "role": "user", "content": f"m {n}"} for n in range(4)]
        )
        await db.tool_calls.create(agent_id=agent, conversation_id=thread.id, tool_name="x")
        top = await db.tasks.create(user_id=user, title="top")
        await db.tasks.create(user_id=user, title="part", parent_id=top.id)


async def test_a_cascade_deletes_one_user(db: Database, full: None) -> None:
    """A cascade deletes all records of one user, returns exact counts, and deletes nothing of others."""
    counts = await db.users.delete("ada", cascade=True)

    assert counts == {
        "users": 1,
        "agents": 2,
        "memory_blocks": 3,
        "conversations": 1,
        "messages": 4,
        "tool_calls": 1,
        "tasks": 2,
    }
    with pytest.raises(NotFoundError):
        await db.memories.search_semantic("archive", "espresso")
    assert len(await db.memories.search_semantic("bobs", "espresso")) == 3
    remaining = {name: await db.storage.count(table) for name, table in TABLES.items()}
    assert remaining == {"system_metadata": 1, **counts, "agents": 1}


async def test_a_record_in_use_is_not_deleted(db: Database, full: None) -> None:
    """Deleting a record that others belong to is an error with their counts, and deletes nothing."""
    with pytest.raises(ReferencedError, match="cascade=True") as caught:
        await db.agents.delete("archive")

    assert caught.value.by == {"memory_blocks": 3, "conversations": 1, "messages": 4, "tool_calls": 1}
    assert await db.memories.count(Field("agent_id") == "archive") == 3


async def test_a_cascade_leaves_no_orphans(db: Database) -> None:
    """A child that is created during a cascade is either deleted or rejected."""

    async def add(n: int) -> bool:
        try:
            await db.memories.create(agent_id="archive", label=str(n), content=f"text {n}")
        except NotFoundError:
            return False
        return True

    await asyncio.gather(
        *(add(n) for n in range(10)), db.agents.delete("archive", cascade=True), *(add(n) for n in range(10, 20))
    )

    assert await db.memories.count() == 0
    assert await db.agents.find("archive") is None


async def test_counts_are_exact(db: Database) -> None:
    """Of several concurrent deletions of one record, one counts it."""
    counts = await asyncio.gather(*(db.agents.delete("planner") for _ in range(8)))

    assert sorted(counts, key=len) == [{}] * 7 + [{"agents": 1}]


async def test_a_deletion_leaves_no_orphans(db: Database) -> None:
    """A concurrent deletion of a parent and creation of a child leave both or neither."""
    for n in range(6):
        agent = await db.agents.create(user_id="ada", agent_type=f"t{n}", name="A")
        create = db.memories.create(agent_id=agent.id, label="x", content="y")
        await asyncio.gather(create, db.agents.delete(agent.id), return_exceptions=True)
        children = await db.memories.count(Field("agent_id") == agent.id)
        assert (await db.agents.find(agent.id) is not None) or children == 0


async def test_a_record_of_another_table(db: Database) -> None:
    """A record of another table is rejected as an argument."""
    agent = await db.agents.get("archive")
    with pytest.raises(PatternError, match="expected a User or its id, got a Agent"):
        await db.users.delete(agent)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(PatternError, match="expected a User or its id"):
        await db.users.update(agent, settings={})  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize("id", ["", 5, None, "x" * 513, "\ud800"])
async def test_an_invalid_id(db: Database, id: str) -> None:
    """An invalid id is rejected by every call, and deletes nothing."""
    for call in (db.users.get, db.users.find, db.users.delete, db.users.update):
        with pytest.raises(PatternError, match="users.id"):
            await call(id)

    assert await db.users.count() == 1
