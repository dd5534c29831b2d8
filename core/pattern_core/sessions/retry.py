"""Retries of an operation after a write conflict, with jittered backoff."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Final, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from pattern_core.errors import ConflictError

__all__ = ["retry_on_conflict"]

T = TypeVar("T")

FIRST_PAUSE_S: Final = 0.002
LONGEST_PAUSE_S: Final = 0.25
LONGEST_WAIT_S: Final = 1.0
"""How long a retry waits for other retries of this process, in seconds."""

_retrying: Final = ContextVar("_retrying", default=False)


async def retry_on_conflict(work: Callable[[], Awaitable[T]], *, attempts: int, lock: asyncio.Lock) -> T:
    """Await work, and again while it ends in a `ConflictError`, pausing longer each time.

    The pause is drawn between 0 and a bound that doubles ("full jitter": M. Brooker, "Exponential Backoff And Jitter",
    AWS Architecture Blog, 2015). Retries of one process hold a lock, so that many do not defeat each other. They wait
    for it only a while, and never for themselves, since the work may be anything.

    Args:
        work: The operation; called once for each attempt.
        attempts: How often to try at most.
        lock: The lock that retries hold.

    Returns:
        What the work returns.

    Raises:
        ConflictError: The last attempt ended in a conflict.
    """
    try:
        return await work()
    except ConflictError:
        if attempts <= 1:
            raise
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(ConflictError),
        stop=stop_after_attempt(attempts - 1),
        wait=wait_random_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S),
        sleep=asyncio.sleep,
        reraise=True,
    )

    async def attempt() -> T:  # tenacity awaits only what is declared as a coroutine function
        return await work()

    async with _hold(lock):
        return await retrying(attempt)


@contextlib.asynccontextmanager
async def _hold(lock: asyncio.Lock) -> AsyncIterator[None]:
    if _retrying.get():  # this work is part of work that is being retried
        yield
        return
    held = False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LONGEST_WAIT_S):
            held = await lock.acquire()
    token = _retrying.set(True)
    try:
        yield
    finally:
        _retrying.reset(token)
        if held:
            lock.release()
