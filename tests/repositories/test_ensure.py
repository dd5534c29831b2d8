"""`ensure`, for programs that run more than once, and memories by label."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pattern_core.database import Database, Repositories
from pattern_core.errors import NotFoundError, ValidationError

pytestmark = pytest.mark.anyio

ARCHIVE: dict[str, Any] = {"user_id": "ada", "agent_type": "archive", "name": "Archive"}


async def test_a_program_that_runs_twice(db: Database) -> None:
    """A second run gets the records of the first one, unchanged, and writes nothing."""

    async def program(name: str) -> tuple[Any, Any]:
        user = await db.users.ensure("ada", metadata={"name": name})
        return user, await db.agents.ensure(**{**ARCHIVE, "name": name, "system_prompt": name})

    first, second = await program("first"), await program("second")

    assert first == second
    assert (second[0].metadata, second[1].name, second[1].revision) == ({"name": "first"}, "first", 1)
    assert (await db.users.count(), await db.agents.count()) == (1, 1)


async def test_concurrent_calls(db: Database) -> None:
    """Of several concurrent calls, one creates the record, and all return it."""
    users = await asyncio.gather(*(db.users.ensure("ada") for _ in range(10)))
    agents = await asyncio.gather(*(db.agents.ensure(**ARCHIVE) for _ in range(10)))

    assert len({user.id for user in users}) == len({agent.id for agent in agents}) == 1
    assert (await db.users.count(), await db.agents.count()) == (1, 1)


async def test_in_a_transaction(db: Database) -> None:
    """`ensure` works in a transaction, and finds the records that the transaction has created."""

    async def work(tx: Repositories) -> str:
        await tx.users.ensure("ada")
        agent = await tx.agents.ensure(**ARCHIVE)
        assert await tx.agents.ensure(**ARCHIVE) == agent
        return agent.id

    ids = [await db.run(work) for _ in range(2)]
    assert ids == [ids[0]] * 2
    with pytest.raises(NotFoundError, match="nobody"):
        await db.agents.ensure(**{**ARCHIVE, "user_id": "nobody"})


async def test_a_deactivated_agent_is_returned(db: Database) -> None:
    """A deactivated agent is returned, and not created again."""
    await db.users.ensure("ada")
    agent = await db.agents.ensure(**ARCHIVE)
    await db.agents.deactivate(agent.id)

    assert not (await db.agents.ensure(**ARCHIVE)).is_active
    with pytest.raises(ValidationError):
        await db.users.ensure("")


@pytest.mark.usefixtures("people")
class TestLabels:
    async def test_found_and_missing(self, db: Database) -> None:
        """`by_label` raises an error that names label and agent of a missing memory; `find_by_label` returns None."""
        memory = await db.memories.create(agent_id="archive", label="tea", content="Green.")

        assert await db.memories.by_label("archive", "tea") == memory
        assert await db.memories.find_by_label("archive", "tea") == memory
        assert await db.memories.find_by_label("planner", "tea") is None
        with pytest.raises(NotFoundError, match=r"agent_id = 'planner' and label = 'tea'.*find_by_label") as caught:
            await db.memories.by_label("planner", "tea")
        assert caught.value.key == {"agent_id": "planner", "label": "tea"}

    async def test_delete_by_label(self, db: Database) -> None:
        """A memory is deleted by agent and label; a second deletion does nothing."""
        await db.memories.create(agent_id="archive", label="tea", content="Green.")
        await db.memories.create(agent_id="planner", label="tea", content="Black.")

        assert await db.memories.delete_by_label("archive", "tea") == {"memory_blocks": 1}
        assert await db.memories.delete_by_label("archive", "tea") == {}
        assert await db.memories.search("green tea", agent_id="archive") == []
        assert await db.memories.count() == 1
