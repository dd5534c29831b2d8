"""Do a piece of work again when somebody else's write got in its way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from .errors import ConflictError

__all__ = ["Retry"]

T = TypeVar("T")

FIRST_PAUSE: Final = 0.005
LONGEST_PAUSE: Final = 0.5


class Retry:
    """Repeats work that ends in a `ConflictError`, pausing longer each time.

    The pause is drawn between nothing and a bound that doubles ("full jitter": M. Brooker, "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015). Those of one process that repeat take turns, so that they do not defeat
    each other.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def run(self, work: Callable[[], Awaitable[T]], *, attempts: int) -> T:
        """Do the work until it succeeds.

        Args:
            work: What to do; called anew each time.
            attempts: How often to do it at most.

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
        async with self._turn:
            for attempt in range(attempts - 2):
                try:
                    return await work()
                except ConflictError:
                    bound = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)
                    await asyncio.sleep(random.uniform(0, bound))  # noqa: S311 - no secret depends on it
            return await work()
