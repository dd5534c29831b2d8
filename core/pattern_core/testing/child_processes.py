"""Processes of their own for the rules that need one to die, or several to work at once."""

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

PATIENCE_S: Final = 60
"""How long a child may be silent before it is taken for stuck, in seconds."""


@attrs.define
class Child:
    """A process of its own.

    Attributes:
        process: The process.
        pipe: What the two say to each other.
    """

    process: Any
    pipe: Connection

    async def hear(self) -> Any:
        """Return the next thing that the child says; raise `EOFError` where it has ended."""
        if not await asyncio.to_thread(self.pipe.poll, PATIENCE_S):
            pytest.fail(f"the child process said nothing for {PATIENCE_S} s")
        return self.pipe.recv()

    async def kill(self) -> list[Any]:
        """Kill the child (SIGKILL), and return what it had said that was not heard yet."""
        self.process.kill()
        await asyncio.to_thread(self.process.join)
        said = []
        try:
            while self.pipe.poll():
                said.append(self.pipe.recv())
        except EOFError:
            pass
        return said


Start = Callable[..., Child]


async def _run(work: Callable[..., Awaitable[None]], pipe: Connection, arguments: tuple[Any, ...]) -> None:
    try:
        await work(pipe, *arguments)
    except PatternError as error:
        pipe.send(type(error).__name__)


def _main(work: Callable[..., Awaitable[None]], pipe: Connection, arguments: tuple[Any, ...]) -> None:
    """What a child process does."""
    asyncio.run(_run(work, pipe, arguments))


class ChildProcessRules(Contract):
    """Rules that start processes."""

    @pytest.fixture
    def start(self) -> Iterator[Start]:
        """Start a child process: ``start(work, *arguments)`` runs ``work(pipe, *arguments)`` there.

        An error of ours ends it, and its name is the last thing it says. All that is passed has to be picklable.
        """
        context = multiprocessing.get_context("spawn")
        children: list[Child] = []

        def start(work: Callable[..., Awaitable[None]], *arguments: Any) -> Child:
            mine, its = context.Pipe()
            process = context.Process(target=_main, args=(work, its, arguments), daemon=True)
            process.start()
            its.close()
            children.append(Child(process, mine))
            return children[-1]

        yield start
        for child in children:
            child.process.kill()
            child.process.join()
            child.process.close()
            child.pipe.close()
