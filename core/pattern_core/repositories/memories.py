"""The repository of memories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pattern_core.errors import AlreadyExistsError, ConflictError, NotFoundError
from pattern_core.filters import Field, Filter
from pattern_core.models import Hit, Json, Memory, Page
from pattern_core.schema import TABLES
from pattern_core.support.validators import check_id, check_text

from .append import PAGE_SIZE, active
from .embedded import EmbeddedRepository

__all__ = ["MemoryRepository"]


class MemoryRepository(EmbeddedRepository[Memory]):
    """The memories of agents. A label is unique for its agent."""

    table = TABLES["memory_blocks"]
    record = Memory
    fixed = frozenset({"agent_id"})

    async def create(
        self,
        *,
        agent_id: str,
        label: str,
        content: str,
        description: str | None = None,
        metadata: Json | None = None,
        is_active: bool = True,
        id: str | None = None,
    ) -> Memory:
        """Create a memory. Searches find it from now on.

        Args:
            agent_id: The agent.
            label: The name of the memory; unique for the agent.
            content: The text, which is embedded.
            description: What the memory is for.
            metadata: Further facts (JSON).
            is_active: False for a memory that searches skip.
            id: The id; None for a new one.

        Returns:
            The memory.

        Raises:
            NotFoundError: There is no such agent.
            AlreadyExistsError: The agent has a memory with this label, or a memory has the id.
            ValidationError: A value is not valid, or the text is over the model's token limit.
            EmbeddingError: The model failed.
        """
        return await self._create(
            agent_id=agent_id,
            label=label,
            content=content,
            description=description,
            metadata=metadata,
            is_active=is_active,
            id=id,
        )

    async def upsert(self, agent_id: str, label: str, content: str, **fields: Any) -> Memory:
        """Create a memory, or update the one with this label.

        Args:
            agent_id: The agent.
            label: The label.
            content: The text. It is embedded only if it is new.
            **fields: Other fields, as for `create`. Fields that are not given stay as they are.

        Returns:
            The memory.

        Raises:
            NotFoundError: There is no such agent.
            ValidationError: A value is not valid, or the text is over the model's token limit.
            EmbeddingError: The model failed.
        """
        (memory,) = await self.upsert_many(agent_id, [{"label": label, "content": content, **fields}])
        return memory

    async def upsert_many(self, agent_id: str, blocks: Iterable[Mapping[str, Any]]) -> list[Memory]:
        """Create or update memories by label, all or none, in one commit.

        Args:
            agent_id: The agent.
            blocks: For each memory ``label``, ``content`` and other fields, as for `create`. The last one with a label
                counts.

        Returns:
            The memories, one for each label. Memories that do not change are neither written nor embedded.

        Raises:
            NotFoundError: There is no such agent.
            ValidationError: A value is not valid, or a text is over the model's token limit.
            EmbeddingError: The model failed.
        """
        check_id(agent_id, "Memory", "agent_id")
        wanted = {
            made.label: (made, given) for given in blocks for made in [self._make({**given, "agent_id": agent_id})]
        }

        async def work() -> list[Memory]:
            try:
                return await self._upsert(agent_id, wanted)
            except AlreadyExistsError as error:
                if "id" in error.key:  # a retry would not find it free either
                    raise
                # Another writer has created one of them meanwhile.
                raise ConflictError(self.table.name, str(error.key), None) from error

        return await self._session.retry(work) if wanted else []

    async def _upsert(self, agent_id: str, wanted: Mapping[str, tuple[Memory, Mapping[str, Any]]]) -> list[Memory]:
        where = (Field("agent_id") == agent_id) & Field("label").in_(wanted)
        stored = {row["label"]: row for row in await self._session.find(self.table, where)}
        new = [made for label, (made, _) in wanted.items() if label not in stored]
        creations = await self._creations(new)
        edits = [*self._requirements([edit.after for edit in creations if edit.after]), *creations]
        for label, before in stored.items():
            changes = {name: value for name, value in wanted[label][1].items() if name not in ("agent_id", "id")}
            edits += await self._change(before, changes)
        written = {row["label"]: row for row in await self._session.edit(edits)} if edits else {}
        return [self._load({**stored, **written}[label]) for label in wanted]

    async def by_label(self, agent_id: str, label: str) -> Memory:
        """Return the memory of an agent with a label, which must exist.

        Args:
            agent_id: The agent.
            label: The label.

        Returns:
            The memory.

        Raises:
            NotFoundError: There is no such memory.
        """
        found = await self.find_by_label(agent_id, label)
        if found is None:
            raise NotFoundError(self.table.name, label, key={"agent_id": agent_id, "label": label})
        return found

    async def find_by_label(self, agent_id: str, label: str) -> Memory | None:
        """Return the memory of an agent with a label, which may exist.

        Args:
            agent_id: The agent.
            label: The label.

        Returns:
            The memory; None if there is none.
        """
        check_id(agent_id, self.table.name, "agent_id")
        check_text(label, self.table.name, "label")
        where = (Field("agent_id") == agent_id) & (Field("label") == label)
        rows = await self._session.find(self.table, where, limit=1)
        return self._load(rows[0]) if rows else None

    async def delete_by_label(self, agent_id: str, label: str) -> dict[str, int]:
        """Delete the memory of an agent with a label.

        Args:
            agent_id: The agent.
            label: The label.

        Returns:
            How many records of each table were deleted; empty if there was no such memory.
        """
        found = await self.find_by_label(agent_id, label)
        return {} if found is None else await self.delete(found.id)

    async def by_agent(
        self, agent_id: str, *, include_inactive: bool = False, limit: int = PAGE_SIZE, cursor: str | None = None
    ) -> Page[Memory]:
        """Return the memories of an agent, sorted by label.

        Args:
            agent_id: The agent.
            include_inactive: Whether to include inactive memories.
            limit: The most memories to return.
            cursor: The ``cursor`` of the page before.

        Returns:
            The memories; empty if there is no such agent.
        """
        where = active(Field("agent_id") == agent_id, include_inactive=include_inactive)
        return await self.list(where, order="label", limit=limit, cursor=cursor)

    async def search(
        self,
        text: str,
        *,
        agent_id: str,
        limit: int = 10,
        where: Filter | None = None,
        min_score: float | None = None,
        include_inactive: bool = False,
    ) -> list[Hit[Memory]]:
        """Find memories of an agent by meaning.

        Args:
            text: What to look for.
            agent_id: The agent; memories of other agents are never found.
            limit: The most hits to return. Fewer are returned only if no more match.
            where: A further filter, on any field.
            min_score: The least score of a hit; None for any.
            include_inactive: Whether to include inactive memories.

        Returns:
            The hits, best first, ties by id.

        Raises:
            NotFoundError: There is no such agent.
            ValidationError: The text is blank, or a value is not valid.
            FilterError: The filter does not suit the fields.
            EmbeddingError: The model failed.
        """
        check_id(agent_id, self.table.name, "agent_id")
        self.table.check_filter(where)
        where = active(where, include_inactive=include_inactive)
        hits = await self._search(text, partitions=[agent_id], limit=limit, where=where, min_score=min_score)
        if not hits:
            await self._check_exists("agents", agent_id)
        return hits

    async def search_semantic(
        self,
        agent_id: str,
        text: str,
        limit: int = 10,
        *,
        where: Filter | None = None,
        include_inactive: bool = False,
    ) -> list[Hit[Memory]]:
        """Find memories of an agent by meaning, as `search` does.

        Args:
            agent_id: The agent; memories of other agents are never found.
            text: What to look for.
            limit: The most hits to return.
            where: A further filter, on any field.
            include_inactive: Whether to include inactive memories.

        Returns:
            The hits, best first, ties by id.

        Raises:
            PatternError: See `search`.
        """
        return await self.search(text, agent_id=agent_id, limit=limit, where=where, include_inactive=include_inactive)
