"""The repository of tool calls."""

from __future__ import annotations

from typing import Any, Final

from pattern_core.abc import Row
from pattern_core.models import Json, ToolCall
from pattern_core.schema import TABLES

from .append import AppendRepository

__all__ = ["ToolCallRepository"]

_VALUE: Final = "$value"
"""The key under which the column ``result``, a JSON object, holds any other JSON value."""


class ToolCallRepository(AppendRepository[ToolCall]):
    """The audit trail of tool use. It is append-only; a record goes only with its agent or conversation."""

    table = TABLES["tool_calls"]
    record = ToolCall

    async def create(
        self,
        *,
        agent_id: str,
        conversation_id: str,
        tool_name: str,
        parameters: Json | None = None,
        result: Any = None,
        error: str | None = None,
        duration_ms: int = 0,
        id: str | None = None,
    ) -> ToolCall:
        """Record a tool call.

        Args:
            agent_id: The agent that used the tool.
            conversation_id: The conversation.
            tool_name: The tool.
            parameters: The input (JSON object).
            result: The output: any JSON value.
            error: The error message; None if the call succeeded.
            duration_ms: The duration, in milliseconds.
            id: The id; None for a new one.

        Returns:
            The record.

        Raises:
            NotFoundError: There is no such agent or conversation.
            AlreadyExistsError: A tool call has the id.
            ValidationError: A value is not valid.
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

    def _row(self, record: ToolCall) -> Row:
        result = record.result
        if not isinstance(result, dict) or result.keys() == {_VALUE}:
            result = {_VALUE: result}
        return {**super()._row(record), "result": result}

    def _load(self, row: Row) -> ToolCall:
        result = row["result"]
        return super()._load({**row, "result": result[_VALUE] if result.keys() == {_VALUE} else result})
