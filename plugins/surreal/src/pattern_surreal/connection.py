"""The connection that the dialect needs. Each transport implements it, and uses the SDK in one module only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pattern_core.errors import ClosedError, StorageError

__all__ = ["Connection", "StatementError", "closed", "read_answer"]


class StatementError(StorageError):
    """Raised when the engine rejects a statement. Its transaction has no effect.

    Attributes:
        position: The number of the failing answer, from 0; -1 if the whole text was rejected.
        answers: The number of answers.
        kind: The kind of error, as the engine names it.
        detail: The message of the engine. It can hold values of records.
    """

    def __init__(self, detail: str, *, kind: str, position: int = -1, answers: int = 0) -> None:
        super().__init__(f"SurrealDB rejected a statement, and nothing of its transaction took effect: {detail}")
        self.position = position
        self.answers = answers
        self.kind = kind
        self.detail = detail


class Connection(Protocol):
    """A connection to a database, opened by a transport.

    Attributes:
        engine: The engine's name and version.
    """

    @property
    def engine(self) -> str:
        """The engine's name and version."""

    async def query(self, text: str, variables: Mapping[str, Any]) -> list[Any]:
        """Run statements.

        Args:
            text: The statements.
            variables: The bound values.

        Returns:
            The result of each statement.

        Raises:
            StatementError: The engine rejected one of them.
            ClosedError: The connection is closed.
            StorageError: The engine failed, or cannot be reached.
        """

    async def aclose(self) -> None:
        """Close the connection."""


def read_answer(answer: Mapping[str, Any]) -> list[Any]:
    """Return the results in an answer of the SDK's ``query_raw``, or raise `StatementError`.

    If a statement of a transaction fails, the engine reports all others as not executed. The one with another message
    is the cause.
    """
    if "error" in answer:
        error = answer["error"]
        raise StatementError(str(error.get("message", error)), kind=str(error.get("kind", "")))
    statements = answer["result"]
    failed = [place for place, each in enumerate(statements) if each["status"] != "OK"]
    if not failed:
        return [each["result"] for each in statements]
    place = next((place for place in failed if statements[place].get("kind") != "Query"), failed[0])
    raise StatementError(
        str(statements[place]["result"]),
        kind=str(statements[place].get("kind", "")),
        position=place,
        answers=len(statements),
    )


def closed() -> ClosedError:
    """Return the error for a call after `aclose`."""
    return ClosedError("the database is closed. Open it again.")
