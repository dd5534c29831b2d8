"""Work that is shielded from cancellation."""

from __future__ import annotations

import asyncio

import pytest

from pattern_core.support.cancellation import shielded

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancelled_caller_waits_for_the_work(*, fails: bool) -> None:
    """A cancelled caller waits until the work ends, and then gets `CancelledError`, also if the work failed."""
    begun, release, done = asyncio.Event(), asyncio.Event(), False

    async def work() -> None:
        nonlocal done
        begun.set()
        await release.wait()
        done = True
        if fails:
            raise ValueError

    task = asyncio.create_task(shielded(work()))
    await begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    release.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert done
    assert isinstance(caught.value.__cause__, ValueError) == fails


async def test_an_error_is_raised() -> None:
    """Without a cancellation, the caller gets the error of the work."""

    async def work() -> None:
        raise ValueError

    with pytest.raises(ValueError, match="^$"):
        await shielded(work())
