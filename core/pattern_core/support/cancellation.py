"""Work that is shielded from cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["shielded"]


async def shielded(work: Coroutine[Any, Any, object]) -> None:
    """Await work that runs to its end, however often the caller is cancelled meanwhile; anyio repeats cancellations.

    The cancellation is raised afterwards, even if the work fails, since the caller's caller waits for it.

    Args:
        work: The coroutine to run.

    Raises:
        CancelledError: The caller was cancelled. An error of the work is its cause.
    """
    task, cancelled = asyncio.create_task(work), None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from task.exception()
    task.result()
