"""Do a piece of work again when somebody else's write got in its way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from .errors import ConflictError

__all__ = ["repeat"]

T = TypeVar("T")

FIRST_PAUSE: Final = 0.002
LONGEST_PAUSE: Final = 0.25


async def repeat(work: Callable[[], Awaitable[T]], *, attempts: int) -> T:
    """Do work until it does not end in a `ConflictError`, pausing longer each time.

    The pause, in seconds, is drawn between nothing and a bound that doubles ("full jitter": M. Brooker, "Exponential
    Backoff And Jitter", AWS Architecture Blog, 2015).

    Args:
        work: What to do; called anew each time.
        attempts: How often to do it at most.

    Returns:
        What the work returns.

    Raises:
        ConflictError: The last attempt met one, too.
    """
    for attempt in range(attempts - 1):
        try:
            return await work()
        except ConflictError:
            bound = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)
            await asyncio.sleep(random.uniform(0, bound))  # noqa: S311 - no secret depends on it
    return await work()
