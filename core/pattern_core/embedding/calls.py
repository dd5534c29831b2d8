"""Calls of an embedder: errors are translated, and transient ones retried until a deadline."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from pattern_core.abc import Signature
from pattern_core.errors import EmbeddingError, PatternError

__all__ = ["Calls"]

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0

T = TypeVar("T")


class Calls:
    """Calls an embedder, and retries what fails with a transient error.

    The pause is drawn with full jitter (see `pattern_core.sessions.retry`), but is never shorter than the service asks
    for. The service's request also holds back other calls that run at the same time.

    Args:
        deadline: How long a call is retried at most, in seconds.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._not_before = 0.0  # by the event loop's clock

    async def call(self, signature: Signature, work: Callable[[], Awaitable[T]]) -> T:
        """Await work, and again after a transient failure.

        Args:
            signature: The embedder's signature, for errors.
            work: Makes the call; called once for each attempt.

        Returns:
            What the work returns.

        Raises:
            EmbeddingError: The call failed, and the failure is not transient or the deadline has passed.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._deadline
        backoff = wait_random_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S)

        async def attempt() -> T:
            await asyncio.sleep(max(0.0, self._not_before - clock()))
            with _as_embedding_error(signature):
                return await work()

        def wait(state: RetryCallState) -> float:
            return max(backoff(state), _retry_after(state) or 0.0)

        def stop(state: RetryCallState) -> bool:
            resume = clock() + state.upcoming_sleep
            if resume > deadline:
                return True
            if _retry_after(state) is not None:
                self._not_before = max(self._not_before, resume)
            return False

        retrying = AsyncRetrying(
            retry=retry_if_exception(_is_transient), wait=wait, stop=stop, sleep=asyncio.sleep, reraise=True
        )
        return await retrying(attempt)


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, EmbeddingError) and error.transient


def _retry_after(state: RetryCallState) -> float | None:
    error = state.outcome.exception() if state.outcome is not None else None
    return error.retry_after if isinstance(error, EmbeddingError) else None


@contextlib.contextmanager
def _as_embedding_error(signature: Signature) -> Iterator[None]:
    """Raise any other exception of an embedder as an `EmbeddingError`, with the exception as its cause."""
    try:
        yield
    except (PatternError, NotImplementedError):
        raise
    except Exception as error:
        message = f"{signature} failed: {type(error).__name__}: {error}. Nothing was written. Try again."
        raise EmbeddingError(message, provider=signature.provider, model=signature.model) from error
