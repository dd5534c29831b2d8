"""Do a piece of work again when somebody else's write got in its way."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Final, TypeVar

from .errors import ConflictError

__all__ = ["repeat"]

T = TypeVar("T")

FIRST_PAUSE: Final = 0.002
LONGEST_PAUSE: Final = 0.25
PATIENCE: Final = 1.0
"""How long somebody who repeats waits for the others who do, in seconds."""

_repeating: Final = ContextVar("_repeating", default=False)


async def repeat(work: Callable[[], Awaitable[T]], *, attempts: int, turn: asyncio.Lock) -> T:
    """Do work until it does not end in a `ConflictError`, pausing longer each time.

    The pause, in seconds, is drawn between nothing and a bound that doubles ("full jitter": M. Brooker, "Exponential
    Backoff And Jitter", AWS Architecture Blog, 2015). Those of one process who repeat take turns, so that many do not
    defeat each other; but nobody waits long, or for himself, since the work may be anything.

    Args:
        work: What to do; called anew each time.
        attempts: How often to do it at most.
        turn: What those hold who repeat.

    Returns:
        What the work returns.

    Raises:
        ConflictError: The last attempt met one, too.
    """
    try:
        return await work()
    except ConflictError:
        if attempts <= 1:
            raise
    async with _held(turn):
        for attempt in range(attempts - 2):
            try:
                return await work()
            except ConflictError:
                bound = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)
                await asyncio.sleep(random.uniform(0, bound))  # noqa: S311 - no secret depends on it
        return await work()


@contextlib.asynccontextmanager
async def _held(turn: asyncio.Lock) -> AsyncIterator[None]:
    if _repeating.get():  # this work is part of work that is being repeated
        yield
        return
    held = False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            held = await turn.acquire()
    mark = _repeating.set(True)
    try:
        yield
    finally:
        _repeating.reset(mark)
        if held:
            turn.release()
