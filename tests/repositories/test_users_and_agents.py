"""Users and agents: settings, activation, state and unique keys."""

from __future__ import annotations

import asyncio

import pytest

from pattern_core.database import Database
from pattern_core.errors import AlreadyExistsError, ConflictError, NotFoundError, ValidationError

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("people")]


class TestUsers:
    async def test_create_and_get(self, db: Database) -> None:
        """A user is read as it was created, with an id, a revision and times."""
        made = await db.users.create(settings={"n": None, "list": [1, 2.0, {"deep": True}]}, metadata={"": ""})

        assert made == await db.users.get(made.id)
        assert made.revision == 1
        assert made.created_at == made.updated_at
        assert made.settings == {"n": None, "list": [1, 2.0, {"deep": True}]}

    async def test_a_missing_user(self, db: Database) -> None:
        """For a missing user, `get` and `update` raise an error, and `find` returns None."""
        assert await db.users.find("nobody") is None
        with pytest.raises(NotFoundError, match="users has no record 'nobody'") as caught:
            await db.users.get("nobody")
        assert (caught.value.table, caught.value.id) == ("users", "nobody")
        with pytest.raises(NotFoundError):
            await db.users.update("nobody", settings={})

    async def test_settings_are_merged(self, db: Database) -> None:
        """`set_settings` keeps other settings, removes those that are None, and loses none to concurrent calls."""
        await asyncio.gather(*(db.users.set_settings("ada", **{f"k{n}": n}) for n in range(12)))
        user = await db.users.set_settings("ada", theme=None)

        assert {f"k{n}": n for n in range(12)} == user.settings

    async def test_metadata_is_merged(self, db: Database) -> None:
        """`set_metadata` keeps other metadata and all settings."""
        await db.users.set_metadata("ada", born=1815)
        user = await db.users.set_metadata("ada", died=1852)

        assert user.metadata == {"born": 1815, "died": 1852}
        assert user.settings == {"theme": "dark"}

    async def test_agents_of_a_user(self, db: Database) -> None:
        """The agents of a user come oldest first, deactivated ones only on request."""
        await db.agents.deactivate("archive")

        assert [agent.id for agent in await db.users.agents("ada")] == ["planner"]
        assert [agent.id for agent in await db.users.agents("ada", include_inactive=True)] == ["archive", "planner"]
        with pytest.raises(NotFoundError):
            await db.users.agents("nobody")


class TestAgents:
    async def test_one_of_each_type(self, db: Database) -> None:
        """The type of an agent is unique for its user."""
        with pytest.raises(AlreadyExistsError) as caught:
            await db.agents.create(user_id="ada", agent_type="archive", name="Another")
        assert caught.value.key == {"user_id": "ada", "agent_type": "archive"}
        bob = await db.users.create()
        await db.agents.create(user_id=bob.id, agent_type="archive", name="Another")

        assert await db.agents.count() == 3

    async def test_a_missing_user_of_an_agent(self, db: Database) -> None:
        """An agent of a missing user is rejected, and nothing is written."""
        with pytest.raises(NotFoundError) as caught:
            await db.agents.create(user_id="nobody", agent_type="x", name="X")

        assert caught.value.table == "users"
        assert await db.agents.count() == 2

    async def test_deactivate_and_reactivate(self, db: Database) -> None:
        """An agent can be deactivated and reactivated; doing either twice writes nothing."""
        off = await db.agents.deactivate("archive")
        again = await db.agents.deactivate("archive")
        on = await db.agents.reactivate("archive")

        assert (off.is_active, again, on.is_active) == (False, off, True)
        assert on.revision == 3

    async def test_by_user_and_by_type(self, db: Database) -> None:
        """Agents are listed by user and by type, inactive ones only on request."""
        await db.agents.deactivate("planner")

        assert [each.id for each in await db.agents.by_user("ada")] == ["archive"]
        assert [each.id for each in await db.agents.by_user("ada", include_inactive=True)] == ["archive", "planner"]
        assert [each.id for each in await db.agents.by_type("archive")] == ["archive"]
        assert [each.id for each in await db.agents.by_type("planner")] == []
        assert len(await db.agents.by_user("nobody")) == 0

    async def test_state(self, db: Database) -> None:
        """The state is replaced as a whole; saving it to an outdated agent is a conflict."""
        agent = await db.agents.get("archive")
        await db.agents.save_state(agent, {"step": 1, "deep": {"a": 1}})
        saved = await db.agents.save_state("archive", {"step": 2})

        assert saved.state == {"step": 2}
        with pytest.raises(ConflictError) as caught:
            await db.agents.save_state(agent, {"step": 9})
        assert (caught.value.table, caught.value.id, caught.value.expected) == ("agents", "archive", 1)
        assert (await db.agents.get("archive")).state == {"step": 2}

    async def test_concurrent_updates(self, db: Database) -> None:
        """Of concurrent updates of different fields by id, none is lost."""
        await asyncio.gather(
            db.agents.update("archive", name="New"),
            db.agents.update("archive", system_prompt="Remember."),
            db.agents.update("archive", config={"temperature": 0.5}),
        )
        agent = await db.agents.get("archive")

        assert (agent.name, agent.system_prompt, agent.config) == ("New", "Remember.", {"temperature": 0.5})
        assert agent.revision == 4

    async def test_an_update_without_a_change(self, db: Database) -> None:
        """An update without a change writes nothing; True instead of 1 is a change."""
        before = await db.agents.save_state("archive", {"n": 1})

        assert await db.agents.save_state("archive", {"n": 1}) == before
        assert (await db.agents.save_state("archive", {"n": True})).revision == before.revision + 1
        assert (await db.agents.get("archive")).state["n"] is True

    @pytest.mark.parametrize("field", ["nmae", "user_id", "id", "revision", "created_at"])
    async def test_fields_that_cannot_be_updated(self, db: Database, field: str) -> None:
        """Setting an unknown, managed or fixed field is an error that names it and the fields that can be set."""
        with pytest.raises(ValidationError, match=field) as caught:
            await db.agents.update("archive", **{field: "x"})

        assert "system_prompt" in str(caught.value)
        assert (await db.agents.get("archive")).revision == 1

    async def test_a_taken_type(self, db: Database) -> None:
        """An update cannot set a type that another agent of the user has."""
        with pytest.raises(AlreadyExistsError):
            await db.agents.update("planner", agent_type="archive")

        assert (await db.agents.get("planner")).agent_type == "planner"
