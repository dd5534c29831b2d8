"""The repository of messages."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pattern_core.abc import Row
from pattern_core.errors import NotFoundError, ValidationError
from pattern_core.filters import Field, Filter
from pattern_core.models import Hit, Json, Message, Page, Role
from pattern_core.schema import TABLES, Order
from pattern_core.sessions.edits import Edit
from pattern_core.support.clock import utc_now
from pattern_core.support.validators import check_id

from .append import PAGE_SIZE
from .embedded import EmbeddedRepository

__all__ = ["MessageRepository"]


class MessageRepository(EmbeddedRepository[Message]):
    """The messages of conversations. They are appended, and keep their order."""

    table = TABLES["messages"]
    record = Message
    fixed = frozenset({"conversation_id"})

    async def create(
        self,
        *,
        conversation_id: str,
        role: Role | str,
        content: str,
        metadata: Json | None = None,
        tool_calls: list[Json] | None = None,
        id: str | None = None,
    ) -> Message:
        """Append a message to a conversation.

        Args:
            conversation_id: The conversation.
            role: The speaker: ``system``, ``user``, ``assistant`` or ``tool``.
            content: The text, which is embedded. It may be empty.
            metadata: Further facts (JSON).
            tool_calls: The tool calls that an assistant's message asks for (a list of JSON objects).
            id: The id; None for a new one.

        Returns:
            The message, after all others of the conversation.

        Raises:
            NotFoundError: There is no such conversation.
            AlreadyExistsError: A message has the id.
            ValidationError: A value is not valid, the conversation has ended, or the text is over the model's token limit.
            EmbeddingError: The model failed.
        """
        return await self._create(
            conversation_id=conversation_id,
            role=role,
            content=content,
            metadata=metadata,
            tool_calls=tool_calls,
            id=id,
        )

    async def create_many(self, records: Iterable[Mapping[str, Any]]) -> list[Message]:
        """Append messages to one conversation or several, all or none, in one commit.

        Args:
            records: For each message the arguments of `create`, in order.

        Returns:
            The messages, in the order given.

        Raises:
            ValidationError: A value is not valid; see also the errors of `create`. Nothing was written.
        """
        given = list(records) if isinstance(records, Iterable) else records
        made = self._make_many(given)
        dated = {message.id for message, values in zip(made, given, strict=True) if "created_at" in values}
        if not made:
            return []
        creations = await self._creations(made)  # first, since embedding takes long, and times follow the commits

        async def work() -> list[Message]:
            edits = await self._embedded(creations)
            async with contextlib.AsyncExitStack() as locks:
                for id in sorted({message.conversation_id for message in made}):
                    await locks.enter_async_context(self._session.lock(id))
                return await self._append(edits, dated)

        return await self._session.retry(work)

    async def _append(self, creations: list[Edit], dated: set[str]) -> list[Message]:
        """Write messages after those that are there. Messages with a given time, such as imported history, keep it."""
        threads = []
        last: dict[str, datetime] = {}
        for row in (edit.after for edit in creations if edit.after is not None):
            thread = row["conversation_id"]
            if thread not in last:
                conversation = await self._open_conversation(thread)
                threads.append(Edit(TABLES["conversations"], thread, conversation, conversation))
                last[thread] = await self._last_time(thread)
            if row["id"] not in dated:
                row["created_at"] = row["updated_at"] = max(utc_now(), last[thread] + timedelta(microseconds=1))
            last[thread] = max(last[thread], row["created_at"])
        written = await self._session.edit([*threads, *creations])
        return [self._load(row) for row in written[len(threads) :]]

    async def _open_conversation(self, conversation_id: str) -> Row:
        (conversation,) = await self._session.get(TABLES["conversations"], [conversation_id])
        if conversation is None:
            raise NotFoundError("conversations", conversation_id)
        if conversation["ended_at"] is not None:
            message = f"the conversation {conversation_id} ended at {conversation['ended_at']:%Y-%m-%d %H:%M} UTC. Create another one."
            raise ValidationError(message, where="Message", field="conversation_id")
        return conversation

    async def _last_time(self, conversation_id: str) -> datetime:
        where = Field("conversation_id") == conversation_id
        rows = await self._session.find(self.table, where, order=[Order("created_at", descending=True)], limit=1)
        return rows[0]["created_at"] if rows else datetime.min.replace(tzinfo=UTC)

    async def by_conversation(
        self, conversation_id: str, *, limit: int = PAGE_SIZE, cursor: str | None = None
    ) -> Page[Message]:
        """Return the messages of a conversation, oldest first.

        Args:
            conversation_id: The conversation.
            limit: The most messages to return.
            cursor: The ``cursor`` of the page before.

        Returns:
            The messages; empty if there is no such conversation.
        """
        return await self.list(Field("conversation_id") == conversation_id, limit=limit, cursor=cursor)

    async def recent(self, conversation_id: str, limit: int = 20) -> list[Message]:
        """Return the last messages of a conversation, as an agent needs them for its next turn.

        Args:
            conversation_id: The conversation.
            limit: The most messages to return.

        Returns:
            The messages, oldest first.
        """
        page = await self.list(Field("conversation_id") == conversation_id, order="-created_at", limit=limit)
        return list(reversed(page.records))

    async def search(
        self,
        text: str,
        *,
        conversation_id: str | None = None,
        agent_id: str | None = None,
        limit: int = 10,
        where: Filter | None = None,
        min_score: float | None = None,
        include_inactive: bool = False,  # noqa: ARG002 - every search has it; messages have no inactive state
    ) -> list[Hit[Message]]:
        """Find messages by meaning, in one conversation or in all conversations of an agent.

        Args:
            text: What to look for.
            conversation_id: The conversation to search.
            agent_id: The agent whose conversations to search.
            limit: The most hits to return. Fewer are returned only if no more match.
            where: A further filter, on any field.
            min_score: The least score of a hit; None for any.
            include_inactive: As for every search. Messages have no inactive state, so it changes nothing.

        Returns:
            The hits, best first, ties by id.

        Raises:
            NotFoundError: There is no such conversation or agent.
            ValidationError: The text is blank, a value is not valid, or not exactly one scope is given.
            FilterError: The filter does not suit the fields.
            EmbeddingError: The model failed.
        """
        if (conversation_id is None) == (agent_id is None):
            raise ValidationError("give either conversation_id or agent_id", where="messages.search")
        table, id = ("conversations", conversation_id) if conversation_id is not None else ("agents", agent_id)
        scope = check_id(id, self.table.name, "conversation_id" if table == "conversations" else "agent_id")
        partitions = [scope]
        if table == "agents":
            threads = await self._session.find(TABLES["conversations"], Field("agent_id") == scope)
            partitions = [row["id"] for row in threads]
        hits = await self._search(text, partitions=partitions, limit=limit, where=where, min_score=min_score)
        if not hits:
            await self._check_exists(table, scope)
        return hits

    async def search_semantic(
        self,
        text: str,
        *,
        conversation_id: str | None = None,
        agent_id: str | None = None,
        limit: int = 10,
        where: Filter | None = None,
    ) -> list[Hit[Message]]:
        """Find messages by meaning. Deprecated: use `search`."""
        warnings.warn("messages.search_semantic is now messages.search", DeprecationWarning, stacklevel=2)
        return await self.search(text, conversation_id=conversation_id, agent_id=agent_id, limit=limit, where=where)
