"""Memory blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pattern_core.errors import AlreadyExistsError, ConflictError, NotFoundError
from pattern_core.filters import Field, Filter
from pattern_core.models import Hit, Json, Memory, Page
from pattern_core.schema import TABLES
from pattern_core.support.validators import check_id, check_text

from .base import PAGE, active
from .embedded import EmbeddedRepository

__all__ = ["MemoryRepository"]


class MemoryRepository(EmbeddedRepository[Memory]):
    """What agents remember. A label is unique for its agent."""

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
        """Remember something.

        Args:
            agent_id: The agent who remembers it.
            label: Its name; unique for the agent.
            content: The text, which is embedded.
            description: What the block is for.
            metadata: Anything else (JSON).
            is_active: False for a block that search passes over.
            id: Its id; None makes one.

        Returns:
            The memory, found by search from now on.

        Raises:
            NotFoundError: There is no such agent.
            AlreadyExistsError: The agent has a memory with this label, or there is one with the id.
            ValidationError: A value does not fit, or the text is longer than the model reads.
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
        """Remember something under a label, over what stood there.

        Args:
            agent_id: The agent.
            label: The label.
            content: The text. It is embedded only where it is new.
            **fields: Other fields, as for `create`; those that are not given stay as they are.

        Returns:
            The memory as it is now.

        Raises:
            NotFoundError: There is no such agent.
            ValidationError: A value does not fit, or the text is longer than the model reads.
            EmbeddingError: The model failed.
        """
        (memory,) = await self.upsert_many(agent_id, [{"label": label, "content": content, **fields}])
        return memory

    async def upsert_many(self, agent_id: str, blocks: Iterable[Mapping[str, Any]]) -> list[Memory]:
        """Remember many things under their labels, all or none, in one commit.

        Args:
            agent_id: The agent.
            blocks: For each block ``label``, ``content`` and other fields, as for `create`. Of two with one label, the
                later one counts.

        Returns:
            The memories, one for each label. Blocks that were there just so are neither written nor embedded.

        Raises:
            NotFoundError: There is no such agent.
            ValidationError: A value does not fit, or a text is longer than the model reads.
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
                if "id" in error.key:  # no other attempt will find it free
                    raise
                # Somebody else made one of them since we looked.
                raise ConflictError(self.table.name, str(error.key), None) from error

        return await self._session.retry(work) if wanted else []

    async def _upsert(self, agent_id: str, wanted: Mapping[str, tuple[Memory, Mapping[str, Any]]]) -> list[Memory]:
        where = (Field("agent_id") == agent_id) & Field("label").in_(wanted)
        known = {row["label"]: row for row in await self._session.find(self.table, where)}
        new = [made for label, (made, _) in wanted.items() if label not in known]
        creations = await self._creations(new)
        edits = [*self._requirements([edit.after for edit in creations if edit.after]), *creations]
        for label, before in known.items():
            changes = {name: value for name, value in wanted[label][1].items() if name not in ("agent_id", "id")}
            edits += await self._change(before, changes)
        written = {row["label"]: row for row in await self._session.edit(edits)} if edits else {}
        return [self._load({**known, **written}[label]) for label in wanted]

    async def by_label(self, agent_id: str, label: str) -> Memory:
        """Read the memory that an agent has under a label.

        Args:
            agent_id: The agent.
            label: The label.

        Returns:
            The memory.

        Raises:
            NotFoundError: There is none.
        """
        check_id(agent_id, self.table.name, "agent_id")
        check_text(label, self.table.name, "label")
        where = (Field("agent_id") == agent_id) & (Field("label") == label)
        rows = await self._session.find(self.table, where, limit=1)
        if not rows:
            raise NotFoundError(self.table.name, label)
        return self._load(rows[0])

    async def by_agent(
        self, agent_id: str, *, include_inactive: bool = False, limit: int = PAGE, cursor: str | None = None
    ) -> Page[Memory]:
        """Read the memories of an agent, by label.

        Args:
            agent_id: The agent.
            include_inactive: Whether to return the inactive ones, too.
            limit: The most memories to return.
            cursor: The ``cursor`` of the page before.

        Returns:
            The memories; empty where there is no such agent.
        """
        where = active(Field("agent_id") == agent_id, include_inactive=include_inactive)
        return await self.list(where, order="label", limit=limit, cursor=cursor)

    async def search_semantic(
        self,
        agent_id: str,
        text: str,
        limit: int = 10,
        *,
        where: Filter | None = None,
        include_inactive: bool = False,
    ) -> list[Hit[Memory]]:
        """Find an agent's memories by what they mean.

        Args:
            agent_id: The agent; no other agent's memories are looked at.
            text: What to look for.
            limit: The most hits to return. Fewer come only where the agent has fewer that fit.
            where: A further filter, on any field.
            include_inactive: Whether to find inactive blocks, too.

        Returns:
            The hits, best first, ties by id.

        Raises:
            NotFoundError: There is no such agent.
            ValidationError: The text is blank, or the filter does not fit.
            EmbeddingError: The model failed.
        """
        check_id(agent_id, self.table.name, "agent_id")
        if not include_inactive:
            active = Field("is_active") == True
            self.table.check_filter(where)
            where = active if where is None else where & active
        hits = await self._search(text, partitions=[agent_id], limit=limit, where=where)
        if not hits:
            await self._exists("agents", agent_id)
        return hits
