"""Do a piece of work again: when somebody else's write got in its way, or when a service asks to be left alone for a while."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

from pattern_core.errors import ConflictError

__all__ = ["repeat", "retry_after"]

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


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Read how long an HTTP answer asks to be left alone: for embedders that speak to a service.

    Args:
        headers: The answer's headers. ``Retry-After`` holds seconds or a date (RFC 9110, section 10.2.3); some services
            send ``Retry-After-Ms``, too.

    Returns:
        The time in seconds, for `EmbeddingError`; None where nothing is asked.
    """
    given = {name.lower(): value for name, value in headers.items()}
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(given[name]) * unit)
        except (KeyError, ValueError):
            continue
    try:
        return max(0.0, (parsedate_to_datetime(given["retry-after"]) - datetime.now(UTC)).total_seconds())
    except (KeyError, ValueError, TypeError):
        return None
