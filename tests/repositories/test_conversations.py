"""Conversations, messages in order, and the audit trail of tool calls."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pattern_core.database import Database
from pattern_core.errors import NotFoundError, ValidationError
from pattern_core.filters import Field
from pattern_core.models import Role

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("people")]


@pytest.fixture
async def thread(db: Database, people: None) -> str:
    return (await db.conversations.create(user_id="ada", agent_id="archive", title="Breakfast")).id


class TestConversations:
    async def test_end(self, db: Database, thread: str) -> None:
        """A conversation ends once, and then accepts no message."""
        assert (await db.conversations.get(thread)).ended_at is None
        ended = await db.conversations.end(thread)
        assert ended.ended_at is not None

        assert await db.conversations.end(thread) == ended
        with pytest.raises(ValidationError, match="ended"):
            await db.messages.create(conversation_id=thread, role="user", content="Hello?")
        assert await db.messages.count() == 0

    async def test_ended_concurrently(self, db: Database, thread: str) -> None:
        """Concurrent calls end a conversation at one time, and no message is appended after it."""
        ends = await asyncio.gather(*(db.conversations.end(thread) for _ in range(5)))
        appended = await asyncio.gather(
            db.messages.create(conversation_id=thread, role="user", content="late"), return_exceptions=True
        )

        assert len({conversation.ended_at for conversation in ends}) == 1
        assert isinstance(appended[0], ValidationError)

    async def test_needs_user_and_agent(self, db: Database) -> None:
        """A conversation of a missing user or agent is rejected."""
        with pytest.raises(NotFoundError, match="users"):
            await db.conversations.create(user_id="nobody", agent_id="archive")
        with pytest.raises(NotFoundError, match="agents"):
            await db.conversations.create(user_id="ada", agent_id="nobody")


class TestMessages:
    async def test_order(self, db: Database, thread: str) -> None:
        """Messages keep the order in which they were appended, one by one or in batches."""
        for n in range(5):
            await db.messages.create(conversation_id=thread, role="user", content=f"single {n}")
        await db.messages.create_many(
            [{"conversation_id": thread, "role": "assistant", "content": f"together {n}"} for n in range(5)]
        )
        expected = [f"single {n}" for n in range(5)] + [f"together {n}" for n in range(5)]

        assert [each.content for each in await db.messages.by_conversation(thread)] == expected
        assert [each.content for each in await db.messages.recent(thread, 3)] == expected[-3:]

    async def test_order_when_the_clock_was_set_back(self, db: Database, thread: str) -> None:
        """A new message comes last, also if the clock was set back. Imported messages keep their times."""
        past, future = (datetime.now(UTC) + timedelta(days=days) for days in (-1000, 1))
        await db.messages.create_many(
            [{"conversation_id": thread, "role": "user", "content": "first", "created_at": future}]
        )
        await db.messages.create(conversation_id=thread, role="user", content="second")
        await db.messages.create(conversation_id=thread, role="user", content="third")

        await db.messages.create_many(
            [{"conversation_id": thread, "role": "user", "content": "history", "created_at": past}]
        )
        contents = [each.content for each in await db.messages.by_conversation(thread)]

        assert contents == ["history", "first", "second", "third"]

    async def test_content(self, db: Database, thread: str) -> None:
        """A message may be empty; searches do not find it. Its tool calls are kept unchanged."""
        calls = [{"name": "search", "arguments": {"q": None}}]
        made = await db.messages.create(conversation_id=thread, role=Role.ASSISTANT, content="", tool_calls=calls)
        read = await db.messages.get(made.id, with_embedding=True)

        assert (read.role, read.tool_calls, read.embedding) == (Role.ASSISTANT, calls, None)
        assert await db.messages.search("search", conversation_id=thread) == []

    async def test_text_that_is_added_and_removed(self, db: Database, thread: str) -> None:
        """Searches find a message while it has a text."""
        made = await db.messages.create(conversation_id=thread, role="user", content="")
        filled = await db.messages.update(made, content="espresso")
        assert [hit.record.id for hit in await db.messages.search("espresso", conversation_id=thread)] == [made.id]
        await db.messages.update(filled, content="")
        emptied = await db.messages.get(made.id, with_embedding=True)

        assert await db.messages.search("espresso", conversation_id=thread) == []
        assert emptied.embedding is None

    async def test_search_by_conversation_and_by_agent(self, db: Database, thread: str) -> None:
        """A search is limited to one conversation, or to the conversations of one agent."""
        second = await db.conversations.create(user_id="ada", agent_id="archive")
        foreign = await db.conversations.create(user_id="ada", agent_id="planner")
        for conversation in (thread, second.id, foreign.id):
            for word in ("espresso", "train"):
                await db.messages.create(conversation_id=conversation, role="user", content=f"About the {word}")
        in_thread = await db.messages.search("espresso", conversation_id=thread)
        of_agent = await db.messages.search("espresso", agent_id="archive", limit=3)

        assert [(hit.record.conversation_id, hit.record.content) for hit in in_thread] == [
            (thread, "About the espresso"),
            (thread, "About the train"),
        ]
        assert {hit.record.conversation_id for hit in of_agent} == {thread, second.id}
        assert [hit.record.content for hit in of_agent[:2]] == ["About the espresso"] * 2
        with pytest.raises(NotFoundError, match="agents"):
            await db.messages.search("espresso", agent_id="nobody")
        with pytest.raises(NotFoundError, match="conversations"):
            await db.messages.search("espresso", conversation_id="nowhere")
        with_filter = await db.messages.search("x", agent_id="archive", where=Field("role") == "tool")
        assert with_filter == []

    async def test_search_needs_one_scope(self, db: Database, thread: str) -> None:
        """A search without a scope, or with two, is rejected."""
        with pytest.raises(ValidationError, match="either"):
            await db.messages.search("x")
        with pytest.raises(ValidationError, match="either"):
            await db.messages.search("x", conversation_id=thread, agent_id="archive")

    async def test_invalid_values(self, db: Database, thread: str) -> None:
        """An unknown role and a missing conversation are rejected."""
        with pytest.raises(ValidationError, match="Did you mean 'user'"):
            await db.messages.create(conversation_id=thread, role="usr", content="x")
        with pytest.raises(NotFoundError, match="conversations"):
            await db.messages.create(conversation_id="nowhere", role="user", content="x")
        assert await db.messages.create_many([]) == []

    async def test_concurrent_appends(self, db: Database, thread: str) -> None:
        """Concurrent appends are all kept, and pages contain each message once."""
        sends = [db.messages.create(conversation_id=thread, role="user", content=f"m{n}") for n in range(20)]
        await asyncio.gather(*sends)
        seen = [each.content async for each in db.messages.iterate(Field("conversation_id") == thread, page=7)]

        assert sorted(seen) == sorted(f"m{n}" for n in range(20))


class TestToolCalls:
    async def test_append_only(self, db: Database, thread: str) -> None:
        """A tool call can be created and read, and not changed or deleted."""
        made = await db.tool_calls.create(
            agent_id="archive",
            conversation_id=thread,
            tool_name="search",
            parameters={"q": "tea"},
            result={"hits": []},
            error="timeout",
            duration_ms=1200,
        )

        assert await db.tool_calls.get(made.id) == made
        assert not hasattr(db.tool_calls, "update")
        assert not hasattr(db.tool_calls, "delete")

    async def test_needs_agent_and_conversation(self, db: Database, thread: str) -> None:
        """A tool call of a missing agent or conversation, or with a negative duration, is rejected."""
        with pytest.raises(NotFoundError, match="agents"):
            await db.tool_calls.create(agent_id="nobody", conversation_id=thread, tool_name="x")
        with pytest.raises(NotFoundError, match="conversations"):
            await db.tool_calls.create(agent_id="archive", conversation_id="nowhere", tool_name="x")
        with pytest.raises(ValidationError, match="duration_ms"):
            await db.tool_calls.create(agent_id="archive", conversation_id=thread, tool_name="x", duration_ms=-1)
        assert await db.tool_calls.count() == 0

    @pytest.mark.parametrize(
        "result", [None, 3, 1.5, True, "text", "", [], [1, {"a": None}], {}, {"$value": 1}, {"$value": {"$value": 2}}]
    )
    async def test_any_json_value_is_a_result(self, db: Database, thread: str, result: Any) -> None:
        """The result is any JSON value, and is read with the same value and type."""
        made = await db.tool_calls.create(
            agent_id="archive", conversation_id=thread, tool_name="x", **({} if result is None else {"result": result})
        )
        (read,) = await db.tool_calls.list(conversation_id=thread)

        assert made.result == read.result == result
        assert type(read.result) is type(result)

    @pytest.mark.parametrize("result", [float("nan"), {1: 2}, object(), [2**64]])
    async def test_other_results_are_rejected(self, db: Database, thread: str, result: Any) -> None:
        """A result that is not JSON is an error that names the field."""
        with pytest.raises(ValidationError, match="result"):
            await db.tool_calls.create(agent_id="archive", conversation_id=thread, tool_name="x", result=result)
