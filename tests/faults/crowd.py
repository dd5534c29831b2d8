"""Several client processes of one database, and their reports."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

import pattern_core

__all__ = ["Client", "Crowd", "gathered", "prepare"]

CLIENT: Final = Path(__file__).with_name("client.py")
PATIENCE_S: Final = 120

Line = dict[str, Any]


@attrs.define
class Client:
    """One process.

    Attributes:
        name: What it calls itself.
        process: The process.
        said: What it has said so far.
        complaints: What it has written to standard error.
    """

    name: str
    process: asyncio.subprocess.Process
    said: list[Line] = attrs.field(factory=list)
    complaints: str = ""

    @property
    def pending(self) -> Line | None:
        """Its last reported attempt."""
        return self.said[-1] if self.said and "trying" in self.said[-1] else None


class Crowd:
    """Client processes that run at once.

    Attributes:
        clients: All that were started.
    """

    def __init__(self, clients: Sequence[Client]) -> None:
        self.clients = clients
        self._news = asyncio.Condition()
        self._listeners = [asyncio.create_task(self._listen(client)) for client in clients]

    async def _listen(self, client: Client) -> None:
        assert client.process.stdout is not None
        assert client.process.stderr is not None
        complaints = asyncio.create_task(client.process.stderr.read())
        async for line in client.process.stdout:
            if line.endswith(b"}\n"):
                client.said.append(json.loads(line))
            async with self._news:
                self._news.notify_all()
        client.complaints = (await complaints).decode()
        await client.process.wait()
        async with self._news:
            self._news.notify_all()

    def lines(self, *words: str, by: Iterable[Client] | None = None) -> list[Line]:
        """Return the reports with one of some words, such as ``done`` or ``failed``."""
        clients = self.clients if by is None else by
        return [line for client in clients for line in client.said if any(word in line for word in words)]

    async def until(self, so: Callable[[], bool]) -> None:
        """Wait for a condition, which is checked after each report."""
        async with self._news, asyncio.timeout(PATIENCE_S):
            while not so():
                for client in self.clients:
                    assert client.process.returncode in {None, 0, -9}, client.complaints
                await self._news.wait()

    async def go_on_for(self, steps: int) -> None:
        """Wait until so many more writes are acknowledged."""
        before = len(self.lines("done"))
        await self.until(lambda: len(self.lines("done")) >= before + steps)

    async def finish(self) -> None:
        """Let the living clients write once more and end; fail if one cannot."""
        for client in self.clients:
            if client.process.returncode is None and client.process.stdin is not None:
                client.process.stdin.close()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*self._listeners)
        for client in self.clients:
            assert client.process.returncode in {0, -9}, client.complaints
            assert client.process.returncode or client.said[-1] == {"closed": True}

    async def kill(self, client: Client) -> None:
        """Kill a client with SIGKILL, and read its last reports."""
        client.process.kill()
        await self._listeners[list(self.clients).index(client)]

    async def aclose(self) -> None:
        """End all clients."""
        for client in self.clients:
            if client.process.returncode is None:
                client.process.kill()
        await asyncio.gather(*self._listeners)


async def _start(config: dict[str, Any], name: str, times: int) -> Client:
    pipe = asyncio.subprocess.PIPE
    command = [str(CLIENT), json.dumps(config), name, str(times)]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdin=pipe, stdout=pipe, stderr=pipe)
    return Client(name, process)


async def prepare(config: dict[str, Any], clients: int) -> None:
    """Create the records that the clients write to."""
    async with pattern_core.open(config) as db, db.transaction() as tx:
        await tx.users.create(id="u", metadata={"by": "the test"})
        for name in ("a", "shared", *(f"of {n}" for n in range(clients))):
            await tx.agents.create(user_id="u", agent_type=name, name=name, id=name)


@contextlib.asynccontextmanager
async def gathered(config: dict[str, Any], clients: int, *, times: int = 0) -> AsyncIterator[Crowd]:
    """Start clients and wait until each has opened the database.

    Args:
        config: The configuration that all of them use.
        clients: How many there are.
        times: How often each adds to the shared count; 0 to write, of all kinds, until told to end.
    """
    crowd = Crowd([await _start(config, f"{n}", times) for n in range(clients)])
    try:
        await crowd.until(lambda: all(client.said for client in crowd.clients))
        yield crowd
    finally:
        await crowd.aclose()
