"""The repository of agents."""

from __future__ import annotations

from pattern_core.filters import Field
from pattern_core.models import Agent, Json, Page
from pattern_core.schema import TABLES
from pattern_core.support.validators import check_id, check_text

from .append import PAGE_SIZE, active
from .base import Repository

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
            user_id: The user that it works for.
            agent_type: The type of the agent; unique for the user.
            name: The name to show.
            system_prompt: The instructions that it gets before every conversation.
            config: Its configuration (JSON).
            state: Its state between runs (JSON).
            is_active: False for a deactivated agent.
            id: The id; None for a new one.

        Returns:
            The agent.

        Raises:
            NotFoundError: There is no such user.
            AlreadyExistsError: The user has an agent of this type, or an agent has the id.
            ValidationError: A value is not valid.
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

    async def ensure(
        self,
        *,
        user_id: str,
        agent_type: str,
        name: str,
        system_prompt: str = "",
        config: Json | None = None,
        state: Json | None = None,
    ) -> Agent:
        """Return the agent of a user with a type, and create it if it is missing.

        A program that runs again continues with the agent of the first run. Several processes may call it at once.

        Args:
            user_id: The user.
            agent_type: The type of the agent.
            name: The name of a new agent.
            system_prompt: The instructions of a new agent.
            config: The configuration of a new agent (JSON).
            state: The state of a new agent (JSON).

        Returns:
            The agent. An existing agent is returned as it is, even if it is deactivated.

        Raises:
            NotFoundError: There is no such user.
            ValidationError: A value is not valid.
        """
        check_id(user_id, "Agent", "user_id")
        where = (Field("user_id") == user_id) & (Field("agent_type") == check_text(agent_type, "Agent", "agent_type"))

        async def find() -> Agent | None:
            rows = await self._session.find(self.table, where, limit=1)
            return self._load(rows[0]) if rows else None

        async def create() -> Agent:
            return await self.create(
                user_id=user_id,
                agent_type=agent_type,
                name=name,
                system_prompt=system_prompt,
                config=config,
                state=state,
            )

        return await self._ensure(find, create)

    async def deactivate(self, agent_id: str) -> Agent:
        """Deactivate an agent, and keep everything it has (soft deletion). It is idempotent.

        Args:
            agent_id: The agent.

        Returns:
            The agent.

        Raises:
            NotFoundError: There is no such agent.
        """
        return await self.update(agent_id, is_active=False)

    async def reactivate(self, agent_id: str) -> Agent:
        """Activate an agent again. It is idempotent.

        Args:
            agent_id: The agent.

        Returns:
            The agent.

        Raises:
            NotFoundError: There is no such agent.
        """
        return await self.update(agent_id, is_active=True)

    async def save_state(self, agent: Agent | str, state: Json) -> Agent:
        """Replace the state of an agent.

        Args:
            agent: An agent as it was read: the state is saved only if the agent has not changed since. Or an id.
            state: The whole new state (JSON).

        Returns:
            The agent.

        Raises:
            NotFoundError: There is no such agent.
            ConflictError: The given agent has changed since it was read.
        """
        return await self.update(agent, state=state)

    async def by_user(
        self, user_id: str, *, include_inactive: bool = False, limit: int = PAGE_SIZE, cursor: str | None = None
    ) -> Page[Agent]:
        """Return the agents of a user, oldest first.

        Args:
            user_id: The user.
            include_inactive: Whether to include deactivated agents.
            limit: The most agents to return.
            cursor: The ``cursor`` of the page before.

        Returns:
            The agents; empty if there is no such user.
        """
        where = active(Field("user_id") == user_id, include_inactive=include_inactive)
        return await self.list(where, limit=limit, cursor=cursor)

    async def by_type(
        self, agent_type: str, *, include_inactive: bool = False, limit: int = PAGE_SIZE, cursor: str | None = None
    ) -> Page[Agent]:
        """Return the agents of a type, of all users, oldest first.

        Args:
            agent_type: The type.
            include_inactive: Whether to include deactivated agents.
            limit: The most agents to return.
            cursor: The ``cursor`` of the page before.

        Returns:
            The agents.
        """
        where = active(Field("agent_type") == agent_type, include_inactive=include_inactive)
        return await self.list(where, limit=limit, cursor=cursor)
