"""Tool calls."""

from __future__ import annotations

from pattern_core.models import Json, ToolCall
from pattern_core.schema import TABLES

from .base import AppendRepository

__all__ = ["ToolCallRepository"]


class ToolCallRepository(AppendRepository[ToolCall]):
    """The audit trail of tool use. It is only ever appended to, and goes only with the agent or the conversation."""

    table = TABLES["tool_calls"]
    record = ToolCall

    async def create(
        self,
        *,
        agent_id: str,
        conversation_id: str,
        tool_name: str,
        parameters: Json | None = None,
        result: Json | None = None,
        error: str | None = None,
        duration_ms: int = 0,
        id: str | None = None,
    ) -> ToolCall:
        """Write a line of the audit trail.

        Args:
            agent_id: The agent that used the tool.
            conversation_id: The conversation in which it did.
            tool_name: The tool.
            parameters: What went in (JSON).
            result: What came out (JSON).
            error: What went wrong, if anything did.
            duration_ms: How long it took, in milliseconds.
            id: Its id; None makes one.

        Returns:
            The line.

        Raises:
            NotFoundError: There is no such agent or conversation.
            AlreadyExistsError: There is a line with the id.
            ValidationError: A value does not fit.
        """
        return await self._create(
            agent_id=agent_id,
            conversation_id=conversation_id,
            tool_name=tool_name,
            parameters=parameters,
            result=result,
            error=error,
            duration_ms=duration_ms,
            id=id,
        )
