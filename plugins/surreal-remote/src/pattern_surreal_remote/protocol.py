"""SurrealDB's RPC protocol: requests and answers in CBOR. The only module that uses the SDK's codec.

The codec is written in Python, and takes a second for 15,000 rows. Large messages are handled in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from surrealdb.data.cbor import decode, encode

from pattern_core.errors import AccessError, StorageError
from pattern_surreal import StatementError, read_answer

__all__ = [
    "Channel",
    "Limits",
    "TokenExpiredError",
    "UnreadableError",
    "decode_answer",
    "encode_request",
    "is_conflict",
    "read_result",
    "read_statements",
]

_INLINE_BYTES: Final = 1 << 15
"""Answers up to this size are decoded on the event loop, in about a millisecond."""
_INLINE_ROWS: Final = 100
"""Up to so many rows are encoded on the event loop."""


class UnreadableError(StorageError):
    """Raised when an answer is too large, or cannot be decoded. Its connection is closed.

    Attributes:
        alone: Whether no other call was waiting on the connection, so that the answer was for this call.
    """

    def __init__(self, message: str, *, alone: bool = True) -> None:
        super().__init__(message)
        self.alone = alone


class TokenExpiredError(AccessError):
    """Raised when the token of a connection has expired. Nothing was done."""


class Limits(Protocol):
    """The limits that the options set."""

    @property
    def connect_timeout(self) -> float: ...
    @property
    def timeout(self) -> float: ...
    @property
    def idle_timeout(self) -> float: ...
    @property
    def pool_size(self) -> int: ...
    @property
    def max_frame(self) -> int: ...
    @property
    def max_answer(self) -> int: ...


class Channel(Protocol):
    """A channel to a server, for calls."""

    @property
    def load(self) -> int:
        """The number of calls that wait for an answer."""

    @property
    def usable(self) -> bool:
        """Whether the channel accepts new calls."""

    @property
    def ended(self) -> bool:
        """Whether the channel is closed."""

    async def call(self, method: str, params: Sequence[Any], *, within: float) -> Any:
        """Make a call.

        Args:
            method: The method.
            params: Its parameters.
            within: How long to wait for the answer, in seconds.

        Returns:
            The result.

        Raises:
            UnreachableError: The connection was lost, or no answer came in time.
            UnreadableError: The answer cannot be decoded.
            AccessError: The server does not allow it.
            StatementError: The server rejects it.
            StorageError: The request cannot be encoded, or is too large.
        """

    def present(self, token: str) -> None:
        """Send a token with each call, if the channel does not keep the sign-in."""

    def enter(self, namespace: str, database: str) -> None:
        """Name the namespace and the database in each call, if the channel does not keep them."""

    def retire(self) -> None:
        """Accept no new calls, and close when the running ones have ended."""

    async def aclose(self) -> None:
        """Close the channel."""


async def encode_request(id: str, method: str, params: Sequence[Any], *, limit: int) -> bytes:
    """Encode a request; raise `StorageError`, before anything is sent, if that is not possible."""

    def work() -> bytes:
        return encode({"id": id, "method": method, "params": list(params)})

    try:
        frame = work() if _is_small(params) else await asyncio.to_thread(work)
    except (TypeError, ValueError, RecursionError) as error:
        raise StorageError(f"a value cannot be sent to SurrealDB: {error}. Nothing was written.") from error
    if len(frame) > limit:
        raise StorageError(
            f"a request of {len(frame):,} bytes is larger than max_frame, {limit:,} bytes. Nothing was sent or written. "
            f"Write less at once, or raise max_frame under [database], and the server's limit as well."
        )
    return frame


def _is_small(params: Iterable[Any]) -> bool:
    """Return whether values are encoded quickly, without visiting all of them."""
    left = _INLINE_ROWS
    stack: list[Any] = list(params)
    while stack:
        each = stack.pop()
        left -= 1
        if left < 0 or (isinstance(each, str | bytes) and len(each) > 1 << 20):
            return False
        if isinstance(each, Mapping):
            stack.extend(value for value in each.values() if isinstance(value, dict | list | str | bytes))
        elif isinstance(each, list):
            left -= len(each)
            stack.extend(each[:1])
    return True


async def decode_answer(frame: bytes) -> Mapping[str, Any]:
    """Decode an answer: ``id``, and ``result`` or ``error``; raise `UnreadableError` if that is not possible."""
    try:
        answer = decode(frame) if len(frame) <= _INLINE_BYTES else await asyncio.to_thread(decode, frame)
    except Exception as error:  # the codec raises any error for bytes that are not CBOR
        raise UnreadableError(f"an answer of {len(frame):,} bytes cannot be read: {error}") from error
    if not isinstance(answer, dict):
        raise UnreadableError(
            f"an answer of {len(frame):,} bytes cannot be read: it does not follow SurrealDB's RPC protocol"
        )
    return answer


def read_result(answer: Mapping[str, Any]) -> Any:
    """Return the result of an answer, or raise its error."""
    error = answer.get("error")
    if error is None:
        return answer.get("result")
    if not isinstance(error, dict):
        error = {"message": str(error)}
    _check_access(str(error.get("kind", "")), str(error.get("message", "")), error.get("details"))
    return read_answer({"error": error})


def read_statements(result: Any) -> list[Any]:
    """Return the results of the statements of a query, or raise the error of the one that failed."""
    if not isinstance(result, list):
        raise UnreadableError("an answer to a query cannot be read: it does not follow SurrealDB's RPC protocol")
    try:
        return read_answer({"result": result})
    except StatementError as error:
        _check_access(error.kind, error.detail)
        raise
    except (LookupError, TypeError, AttributeError) as error:
        raise UnreadableError(
            "an answer to a query cannot be read: it does not follow SurrealDB's RPC protocol"
        ) from error


def _check_access(kind: str, message: str, details: Any = None) -> None:
    """Raise `AccessError` for a call that the server does not allow."""
    if kind == "NotAllowed":
        if "Expired" in str(details) or "has expired" in message:
            raise TokenExpiredError("the token has expired", option="token")
        raise AccessError(f"the server does not allow it: {message}")


def is_conflict(error: StatementError) -> bool:
    """Return whether the server rejected a transaction because another one came first."""
    return "can be retried" in error.detail or "ransaction conflict" in error.detail
