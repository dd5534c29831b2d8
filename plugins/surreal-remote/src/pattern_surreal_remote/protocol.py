"""Requests and answers as SurrealDB's RPC protocol has them, in CBOR: the one module here that touches the SDK's codec.

The codec is written in Python, and takes a second for 15,000 rows; what is large is left to a thread.
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
"""How large an answer is that is decoded on the event loop, in about a millisecond."""
_INLINE_ROWS: Final = 100
"""How many rows are encoded on the event loop."""


class UnreadableError(StorageError):
    """Raised when a message is too large, or cannot be read. The connection that it came by is given up.

    Attributes:
        alone: Whether no other call was waiting for an answer there, so that it was this one's.
    """

    def __init__(self, message: str, *, alone: bool = True) -> None:
        super().__init__(message)
        self.alone = alone


class TokenExpiredError(AccessError):
    """Raised when the server no longer takes the token of a connection. Nothing was done."""


class Limits(Protocol):
    """How long and how much, as the options say."""

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
    """A way to a server, on which calls are made."""

    @property
    def load(self) -> int:
        """How many calls wait for an answer."""

    @property
    def usable(self) -> bool:
        """Whether new calls may be made."""

    @property
    def ended(self) -> bool:
        """Whether nothing of it is left."""

    async def call(self, method: str, params: Sequence[Any], *, within: float) -> Any:
        """Make a call.

        Args:
            method: The method.
            params: Its parameters.
            within: How long to wait for the answer, in seconds.

        Returns:
            The result.

        Raises:
            UnreachableError: The way has ended, or no answer came in time.
            UnreadableError: The answer cannot be read.
            AccessError: The server does not allow it.
            StatementError: The server refuses it.
            StorageError: It cannot be sent.
        """

    def present(self, token: str) -> None:
        """Present a token with each call from now on, where the way does not remember who has signed in."""

    def enter(self, namespace: str, database: str) -> None:
        """Name a namespace and a database with each call from now on, where the way does not remember them."""

    def retire(self) -> None:
        """Make no new calls; end when those that there are have ended."""

    async def aclose(self) -> None:
        """End the way."""


async def encode_request(id: str, method: str, params: Sequence[Any], *, limit: int) -> bytes:
    """Return a request as bytes; raise `StorageError`, before anything has left, where it cannot be sent."""

    def work() -> bytes:
        return encode({"id": id, "method": method, "params": list(params)})

    try:
        frame = work() if _is_small(params) else await asyncio.to_thread(work)
    except (TypeError, ValueError, RecursionError) as error:
        raise StorageError(f"a value cannot be sent to SurrealDB, and nothing was written: {error}") from error
    if len(frame) > limit:
        raise StorageError(
            f"a request of {len(frame):,} bytes is larger than max_frame, {limit:,} bytes, and was not sent; nothing was "
            f"written. Write less at once, or raise max_frame under [database], and the server's limit with it."
        )
    return frame


def _is_small(params: Iterable[Any]) -> bool:
    """Say whether something is encoded quickly, without looking at all of it."""
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
    """Return an answer: ``id``, and ``result`` or ``error``; raise `UnreadableError` where it is none."""
    try:
        answer = decode(frame) if len(frame) <= _INLINE_BYTES else await asyncio.to_thread(decode, frame)
    except Exception as error:  # whatever the codec makes of bytes that are no CBOR, or hold what it does not know
        raise UnreadableError(f"an answer of {len(frame):,} bytes cannot be read: {error}") from error
    if not isinstance(answer, dict):
        raise UnreadableError(
            f"an answer of {len(frame):,} bytes cannot be read: it is none of SurrealDB's RPC protocol"
        )
    return answer


def read_result(answer: Mapping[str, Any]) -> Any:
    """Return the result in an answer, or raise what the server says went wrong."""
    error = answer.get("error")
    if error is None:
        return answer.get("result")
    if not isinstance(error, dict):
        error = {"message": str(error)}
    _check_access(str(error.get("kind", "")), str(error.get("message", "")), error.get("details"))
    return read_answer({"error": error})


def read_statements(result: Any) -> list[Any]:
    """Return the results of the statements of a query, or raise what the one that failed says."""
    if not isinstance(result, list):
        raise UnreadableError("an answer to a query cannot be read: it is none of SurrealDB's RPC protocol")
    try:
        return read_answer({"result": result})
    except StatementError as error:
        _check_access(error.kind, error.detail)
        raise
    except (LookupError, TypeError, AttributeError) as error:
        raise UnreadableError("an answer to a query cannot be read: it is none of SurrealDB's RPC protocol") from error


def _check_access(kind: str, message: str, details: Any = None) -> None:
    """Raise `AccessError` for what the server does not allow."""
    if kind == "NotAllowed":
        if "Expired" in str(details) or "has expired" in message:
            raise TokenExpiredError("the token has expired, and the server no longer takes it", option="token")
        raise AccessError(f"the server does not allow it: {message}")


def is_conflict(error: StatementError) -> bool:
    """Say whether the server refused a transaction only because another one came first."""
    return "can be retried" in error.detail or "ransaction conflict" in error.detail
