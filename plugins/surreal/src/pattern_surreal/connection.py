"""What the dialect needs of a connection, so that each transport touches the SDK in one module of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pattern_core.errors import ClosedError, StorageError

__all__ = ["Connection", "StatementError", "closed", "read_answer"]


class StatementError(StorageError):
    """Raised when the engine refuses a statement. A transaction that it stands in has no effect.

    Attributes:
        position: Which of the answers it was, counted from 0; -1 where the text as a whole was refused.
        answers: How many answers there were.
        kind: The engine's word for the kind of error.
        detail: The engine's own message. It can hold values of records.
    """

    def __init__(self, detail: str, *, kind: str, position: int = -1, answers: int = 0) -> None:
        super().__init__(f"SurrealDB refused a statement, and nothing of its transaction took effect: {detail}")
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
            variables: The values that are bound in them.

        Returns:
            The result of each statement.

        Raises:
            StatementError: The engine refused one of them.
            ClosedError: The connection is closed.
            StorageError: The engine failed, or cannot be reached.
        """

    async def aclose(self) -> None:
        """Close the connection."""


def read_answer(answer: Mapping[str, Any]) -> list[Any]:
    """Return the results in an answer of the SDK's ``query_raw``, or raise what went wrong.

    Where a statement of a transaction fails, the engine reports all others as not executed: the one that says
    something else is the cause.
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
    """Return the error for a call after the end."""
    return ClosedError("the database is closed; open it again")
