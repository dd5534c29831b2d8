"""Child processes, for rules that kill a process or run several at once."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Awaitable, Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, Final

import attrs
import pytest

from pattern_core.errors import PatternError

from .contract import Contract

__all__ = ["Child", "ChildProcessRules", "Start"]

TIMEOUT_S: Final = 60
"""The longest wait for a message of a child, in seconds."""


@attrs.define
class Child:
    """A child process.

    Attributes:
        process: The process.
        pipe: The connection to it.
    """

    process: Any
    pipe: Connection

    async def receive(self) -> Any:
        """Return the next message of the child; raise `EOFError` if it has ended."""
        if not await asyncio.to_thread(self.pipe.poll, TIMEOUT_S):
            pytest.fail(f"the child process sent nothing for {TIMEOUT_S} s")
        return self.pipe.recv()

    async def kill(self) -> list[Any]:
        """Kill the child (SIGKILL), and return the messages that were not received yet."""
        self.process.kill()
        await asyncio.to_thread(self.process.join)
        messages = []
        try:
            while self.pipe.poll():
                messages.append(self.pipe.recv())
        except EOFError:
            pass
        return messages


Start = Callable[..., Child]


async def _run(work: Callable[..., Awaitable[None]], pipe: Connection, arguments: tuple[Any, ...]) -> None:
    try:
        await work(pipe, *arguments)
    except PatternError as error:
        pipe.send(type(error).__name__)


def _main(work: Callable[..., Awaitable[None]], pipe: Connection, arguments: tuple[Any, ...]) -> None:
    """Run in the child process."""
    asyncio.run(_run(work, pipe, arguments))


class ChildProcessRules(Contract):
    """Rules that start processes."""

    @pytest.fixture
    def start(self) -> Iterator[Start]:
        """Start a child process: ``start(work, *arguments)`` runs ``work(pipe, *arguments)`` in it.

        A `PatternError` ends it; its last message is the name of the error. The arguments must be picklable.
        """
        context = multiprocessing.get_context("spawn")
        children: list[Child] = []

        def start(work: Callable[..., Awaitable[None]], *arguments: Any) -> Child:
            parent_end, child_end = context.Pipe()
            process = context.Process(target=_main, args=(work, child_end, arguments), daemon=True)
            process.start()
            child_end.close()
            children.append(Child(process, parent_end))
            return children[-1]

        yield start
        for child in children:
            child.process.kill()
            child.process.join()
            child.process.close()
            child.pipe.close()
