"""Users."""

from __future__ import annotations

from typing import Any

from pattern_core.filters import Field
from pattern_core.models import Agent, Json, User
from pattern_core.schema import TABLES, Order

from .base import Repository, active

__all__ = ["UserRepository"]


class UserRepository(Repository[User]):
    """The people whom agents work for."""

    table = TABLES["users"]
    record = User

    async def create(
        self, *, id: str | None = None, settings: Json | None = None, metadata: Json | None = None
    ) -> User:
        """Create a user.

        Args:
            id: Its id; None makes one.
            settings: The person's settings (JSON).
            metadata: Anything else about the person (JSON).

        Returns:
            The user.

        Raises:
            AlreadyExistsError: There is a user with the id.
            ValidationError: A value does not fit.
        """
        return await self._create(id=id, settings=settings, metadata=metadata)

    async def agents(self, user_id: str, *, include_inactive: bool = False) -> list[Agent]:
        """Read all agents of a user.

        Args:
            user_id: The user.
            include_inactive: Whether to return the deactivated ones, too.

        Returns:
            The agents, oldest first. Empty for a user without agents.

        Raises:
            NotFoundError: There is no such user.
        """
        await self.get(user_id)
        where = active(Field("user_id") == user_id, include_inactive=include_inactive)
        rows = await self._session.find(TABLES["agents"], where, order=[Order("created_at")])
        return [Agent(**row) for row in rows]

    async def set_settings(self, user_id: str, /, **settings: Any) -> User:
        """Set some of a user's settings and keep the others; also where somebody else sets others at the same time.

        Args:
            user_id: The user.
            **settings: The settings; None removes one.

        Returns:
            The user as it is now.

        Raises:
            NotFoundError: There is no such user.
        """
        return await self._merge(user_id, "settings", settings)

    async def set_metadata(self, user_id: str, /, **metadata: Any) -> User:
        """Set some of a user's metadata and keep the others; also where somebody else sets others at the same time.

        Args:
            user_id: The user.
            **metadata: The entries; None removes one.

        Returns:
            The user as it is now.

        Raises:
            NotFoundError: There is no such user.
        """
        return await self._merge(user_id, "metadata", metadata)

    async def _merge(self, user_id: str, field: str, entries: Json) -> User:
        async def work() -> User:
            user = await self.get(user_id)
            merged = {**getattr(user, field), **entries}
            return await self.update(user, **{field: {key: each for key, each in merged.items() if each is not None}})

        return await self._session.retry(work)
