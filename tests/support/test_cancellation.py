"""Work that nobody can cut off."""

from __future__ import annotations

import asyncio

import pytest

from pattern_core.support.cancellation import shielded

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("fails", [False, True])
async def test_cancelled_meanwhile(*, fails: bool) -> None:
    """The work is done to its end, and then whoever awaits it is cancelled, whether the work failed or not."""
    begun, go_on, done = asyncio.Event(), asyncio.Event(), False

    async def work() -> None:
        nonlocal done
        begun.set()
        await go_on.wait()
        done = True
        if fails:
            raise ValueError

    task = asyncio.create_task(shielded(work()))
    await begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert done
    assert isinstance(caught.value.__cause__, ValueError) == fails


async def test_an_error_comes_out() -> None:
    """Where nobody is cancelled, an error of the work is told."""

    async def work() -> None:
        raise ValueError

    with pytest.raises(ValueError, match="^$"):
        await shielded(work())
