"""Conversations."""

from __future__ import annotations

from pattern_core.models import Conversation, Json
from pattern_core.schema import TABLES
from pattern_core.support.clock import utc_now

from .base import Repository

__all__ = ["ConversationRepository"]


class ConversationRepository(Repository[Conversation]):
    """Threads of messages between users and agents."""

    table = TABLES["conversations"]
    record = Conversation
    fixed = frozenset({"user_id", "agent_id"})

    async def create(
        self,
        *,
        user_id: str,
        agent_id: str,
        title: str | None = None,
        context: Json | None = None,
        id: str | None = None,
    ) -> Conversation:
        """Begin a conversation.

        Args:
            user_id: The user.
            agent_id: The agent.
            title: What it is about.
            context: What both sides know from the start (JSON).
            id: Its id; None makes one.

        Returns:
            The conversation.

        Raises:
            NotFoundError: There is no such user or agent.
            AlreadyExistsError: There is a conversation with the id.
            ValidationError: A value does not fit.
        """
        return await self._create(user_id=user_id, agent_id=agent_id, title=title, context=context, id=id)

    async def end(self, conversation_id: str) -> Conversation:
        """End a conversation; nothing can be appended to it any more. Ending it twice keeps the first time.

        Args:
            conversation_id: The conversation.

        Returns:
            The conversation as it is now.

        Raises:
            NotFoundError: There is no such conversation.
        """

        async def work() -> Conversation:
            conversation = await self.get(conversation_id)
            if conversation.ended_at is not None:
                return conversation
            return await self.update(conversation, ended_at=utc_now())

        return await self._session.retry(work)
