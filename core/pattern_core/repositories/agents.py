"""Agents."""

from __future__ import annotations

from pattern_core.filters import Field
from pattern_core.models import Agent, Json, Page
from pattern_core.schema import TABLES

from .base import PAGE, Repository, active

__all__ = ["AgentRepository"]


class AgentRepository(Repository[Agent]):
    """The agents of users. A user has one agent of each type."""

    table = TABLES["agents"]
    record = Agent
    fixed = frozenset({"user_id"})

    async def create(
        self,
        *,
        user_id: str,
        agent_type: str,
        name: str,
        system_prompt: str = "",
        config: Json | None = None,
        state: Json | None = None,
        is_active: bool = True,
        id: str | None = None,
    ) -> Agent:
        """Create an agent.

        Args:
            user_id: The user whom it works for.
            agent_type: What kind of agent it is; unique for the user.
            name: The name to show.
            system_prompt: What it is told before every conversation.
            config: How it is set up (JSON).
            state: What it keeps between runs (JSON).
            is_active: False creates it deactivated.
            id: Its id; None makes one.

        Returns:
            The agent.

        Raises:
            NotFoundError: There is no such user.
            AlreadyExistsError: The user has an agent of this type, or there is one with the id.
            ValidationError: A value does not fit.
        """
        return await self._create(
            user_id=user_id,
            agent_type=agent_type,
            name=name,
            system_prompt=system_prompt,
            config=config,
            state=state,
            is_active=is_active,
            id=id,
        )

    async def deactivate(self, agent_id: str) -> Agent:
        """Switch an agent off and keep everything it has: soft deletion. Doing it twice is no error.

        Args:
            agent_id: The agent.

        Returns:
            The agent as it is now.

        Raises:
            NotFoundError: There is no such agent.
        """
        return await self.update(agent_id, is_active=False)

    async def reactivate(self, agent_id: str) -> Agent:
        """Switch an agent on again. Doing it twice is no error.

        Args:
            agent_id: The agent.

        Returns:
            The agent as it is now.

        Raises:
            NotFoundError: There is no such agent.
        """
        return await self.update(agent_id, is_active=True)

    async def save_state(self, agent: Agent | str, state: Json) -> Agent:
        """Replace what an agent keeps between runs.

        Args:
            agent: An agent as it was read: the state is saved only if nobody has changed it since. Or an id.
            state: The whole new state (JSON).

        Returns:
            The agent as it is now.

        Raises:
            NotFoundError: There is no such agent.
            ConflictError: The given agent has changed since it was read.
        """
        return await self.update(agent, state=state)

    async def by_user(
        self, user_id: str, *, include_inactive: bool = False, limit: int = PAGE, cursor: str | None = None
    ) -> Page[Agent]:
        """Read the agents of a user, oldest first.

        Args:
            user_id: The user.
            include_inactive: Whether to return the deactivated ones, too.
            limit: The most agents to return.
            cursor: The ``cursor`` of the page before.

        Returns:
            The agents; empty where there is no such user.
        """
        where = active(Field("user_id") == user_id, include_inactive=include_inactive)
        return await self.list(where, limit=limit, cursor=cursor)

    async def by_type(
        self, agent_type: str, *, include_inactive: bool = False, limit: int = PAGE, cursor: str | None = None
    ) -> Page[Agent]:
        """Read the agents of a type, of all users, oldest first.

        Args:
            agent_type: The type.
            include_inactive: Whether to return the deactivated ones, too.
            limit: The most agents to return.
            cursor: The ``cursor`` of the page before.

        Returns:
            The agents.
        """
        where = active(Field("agent_type") == agent_type, include_inactive=include_inactive)
        return await self.list(where, limit=limit, cursor=cursor)
