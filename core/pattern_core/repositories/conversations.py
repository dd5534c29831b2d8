"""The repository of conversations."""

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
        """Create a conversation.

        Args:
            user_id: The user.
            agent_id: The agent.
            title: Its subject.
            context: Facts that both sides know from the start (JSON).
            id: The id; None for a new one.

        Returns:
            The conversation.

        Raises:
            NotFoundError: There is no such user or agent.
            AlreadyExistsError: A conversation has the id.
            ValidationError: A value is not valid.
        """
        return await self._create(user_id=user_id, agent_id=agent_id, title=title, context=context, id=id)

    async def end(self, conversation_id: str) -> Conversation:
        """End a conversation. No message can be appended to it afterwards. A second call keeps the first time.

        Args:
            conversation_id: The conversation.

        Returns:
            The conversation.

        Raises:
            NotFoundError: There is no such conversation.
        """

        async def work() -> Conversation:
            conversation = await self.get(conversation_id)
            if conversation.ended_at is not None:
                return conversation
            return await self.update(conversation, ended_at=utc_now())

        return await self._session.retry(work)
