"""The repository of users."""

from __future__ import annotations

from typing import Any

from pattern_core.filters import Field
from pattern_core.models import Agent, Json, User
from pattern_core.schema import TABLES, Order

from .append import active
from .base import Repository

__all__ = ["UserRepository"]


class UserRepository(Repository[User]):
    """The people that agents work for."""

    table = TABLES["users"]
    record = User

    async def create(
        self, *, id: str | None = None, settings: Json | None = None, metadata: Json | None = None
    ) -> User:
        """Create a user.

        Args:
            id: The id; None for a new one.
            settings: The settings of the user (JSON).
            metadata: Further facts (JSON).

        Returns:
            The user.

        Raises:
            AlreadyExistsError: A user has the id.
            ValidationError: A value is not valid.
        """
        return await self._create(id=id, settings=settings, metadata=metadata)

    async def ensure(self, id: str, *, settings: Json | None = None, metadata: Json | None = None) -> User:
        """Return the user with an id, and create it if it is missing.

        A program that runs again continues with the user of the first run. Several processes may call it at once.

        Args:
            id: The id: any text that identifies the user, such as a login name.
            settings: The settings of a new user (JSON).
            metadata: Further facts about a new user (JSON).

        Returns:
            The user. An existing user is returned as it is.

        Raises:
            ValidationError: A value is not valid.
        """
        return await self._ensure(
            lambda: self.find(id), lambda: self.create(id=id, settings=settings, metadata=metadata)
        )

    async def agents(self, user_id: str, *, include_inactive: bool = False) -> list[Agent]:
        """Return all agents of a user.

        Args:
            user_id: The user.
            include_inactive: Whether to include deactivated agents.

        Returns:
            The agents, oldest first.

        Raises:
            NotFoundError: There is no such user.
        """
        await self.get(user_id)
        where = active(Field("user_id") == user_id, include_inactive=include_inactive)
        rows = await self._session.find(TABLES["agents"], where, order=[Order("created_at")])
        return [Agent(**row) for row in rows]

    async def set_settings(self, user_id: str, /, **settings: Any) -> User:
        """Set some settings of a user, and keep the others, also if other writers set others at the same time.

        Args:
            user_id: The user.
            **settings: The settings; None removes one.

        Returns:
            The user.

        Raises:
            NotFoundError: There is no such user.
        """
        return await self._merge(user_id, "settings", settings)

    async def set_metadata(self, user_id: str, /, **metadata: Any) -> User:
        """Set some metadata of a user, and keep the others, also if other writers set others at the same time.

        Args:
            user_id: The user.
            **metadata: The entries; None removes one.

        Returns:
            The user.

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
