"""A pool of connections to one server: opened on demand, signed in, and replaced when they break."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from pattern_core.errors import StorageError, UnreachableError
from pattern_surreal import StatementError
from pattern_surreal.connection import closed

from .account import Account, Version
from .protocol import Channel, Limits, TokenExpiredError, UnreadableError, is_conflict, read_statements

__all__ = ["Open", "RemoteConnection"]

Open = Callable[[float], Awaitable[Channel]]
"""Opens a channel to the server: ``await open(within)``."""

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0


class RemoteConnection:
    """A pool of connections; the `pattern_surreal.Connection` of this plugin.

    Args:
        open: Opens a channel.
        account: The account to sign in with.
        limits: The limits of the options.
        url: The server's URL, without user name and password.

    Attributes:
        version: The server's version, as of the last connection.
        account: The account.
        limits: The limits of the options.
        url: The server's URL.
    """

    def __init__(self, open: Open, account: Account, limits: Limits, *, url: str) -> None:
        self.version: Version = (0, 0, 0)
        self.account = account
        self.limits = limits
        self.url = url
        self._open = open
        self._channels: list[Channel] = []
        self._leaving: list[Channel] = []
        self._opening = asyncio.Lock()
        self._growth: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def engine(self) -> str:
        """The server's name and version."""
        return f"SurrealDB {'.'.join(map(str, self.version))} (server)"

    @property
    def size(self) -> int:
        """The number of open connections."""
        return sum(each.usable for each in self._channels)

    async def connect(self) -> None:
        """Connect for the first time, without retries.

        Raises:
            AccessError: The server rejects the account.
            UnreachableError: The server cannot be reached.
            StorageError: The server is too old.
        """
        async with self._opening:
            await self._add(self.limits.connect_timeout)

    async def query(self, text: str, variables: Mapping[str, Any]) -> list[Any]:
        """Run statements that only read; repeat them if a connection breaks."""
        return await self.send(text, variables, deadline=self.deadline(), repeat=True)

    def deadline(self) -> float:
        """Return the deadline of a call that begins now, by the loop's clock."""
        return asyncio.get_running_loop().time() + self.limits.timeout

    async def send(
        self, text: str, variables: Mapping[str, Any], *, deadline: float, repeat: bool, alone: bool = False
    ) -> list[Any]:
        """Run statements.

        Args:
            text: The statements.
            variables: The bound values.
            deadline: The deadline, by the loop's clock.
            repeat: Whether they may be repeated if it is unknown whether they ran.
            alone: Whether to use a connection that no other call uses.

        Returns:
            The result of each statement.

        Raises:
            UnreachableError: The server cannot be reached, or the connection was lost; ``may_have_written`` tells more.
            UnreadableError: The answer cannot be decoded; the statements may have run.
            AccessError: The account lacks the right.
            StatementError: The server rejected a statement.
            ClosedError: This object is closed.
        """
        expired = False
        pause = _FIRST_PAUSE
        while True:
            channel = await self._channel(deadline, alone=alone)
            try:
                if (left := _left(deadline)) <= 0:
                    raise self._late()
                result = await channel.call("query", [text, dict(variables)], within=left)
                return read_statements(result)
            except TokenExpiredError:
                self._retire(channel)
                if expired:
                    raise
                expired = True  # nothing was done; the next connection signs in
            except UnreadableError as error:
                self._retire(channel)
                if error.alone or not repeat:
                    raise
                alone = True  # the answer may belong to another call; alone, it is known
            except UnreachableError as error:
                if not channel.usable:
                    self._retire(channel)
                if self._closed:
                    raise closed() from error
                if error.may_have_written and not repeat:
                    message = f"{error}. The statements may have taken effect."
                    raise UnreachableError(message, may_have_written=True) from error
                pause = min(_LONGEST_PAUSE, pause * 2)
                if not await _pause(pause if channel.usable else 0, deadline):
                    raise UnreachableError(str(error)) from error
            finally:
                if channel not in self._channels:
                    self._retire(channel)

    async def _channel(self, deadline: float, *, alone: bool) -> Channel:
        """Return an open connection, or a new one if there is none."""
        if self._closed:
            raise closed()
        if not alone and (found := self._usable()) is not None:
            return found
        try:
            async with asyncio.timeout_at(deadline):
                await self._opening.acquire()
        except TimeoutError:
            raise self._late() from None
        try:
            if not alone and (found := self._usable()) is not None:
                return found
            return await self._reach(deadline, pooled=not alone)
        finally:
            self._opening.release()

    def _usable(self) -> Channel | None:
        """Return the least busy connection. If all are busy, open one more in the background."""
        for each in [each for each in self._channels if not each.usable]:
            self._retire(each)
        least = min(self._channels, key=lambda each: each.load, default=None)
        if least is not None and least.load and len(self._channels) < self.limits.pool_size and self._growth is None:
            self._growth = asyncio.create_task(self._grow())
        return least

    async def _grow(self) -> None:
        try:
            async with self._opening:
                with contextlib.suppress(StorageError):  # a call that needs a connection gets the error
                    await self._add(self.limits.connect_timeout)
        finally:
            self._growth = None

    async def _reach(self, deadline: float, *, pooled: bool) -> Channel:
        """Open a connection, with growing pauses between attempts."""
        pause = _FIRST_PAUSE
        while True:
            left = _left(deadline)
            try:
                return await self._add(min(left, self.limits.connect_timeout), pooled=pooled)
            except UnreachableError as error:
                if self._closed:
                    raise closed() from error
                if not await _pause(pause, deadline):
                    raise
                pause = min(_LONGEST_PAUSE, pause * 2)

    async def _add(self, within: float, *, pooled: bool = True) -> Channel:
        if within <= 0:
            raise self._late()
        channel: Channel | None = None
        try:
            async with asyncio.timeout(within):
                channel = await self._open(within)
                self.version = await self._enter(channel, within)
        except TimeoutError as error:
            self._retire(channel)
            raise UnreachableError(f"{self.url} did not answer within {within:.3g} s") from error
        except UnreachableError as error:
            self._retire(channel)
            raise UnreachableError(str(error)) from error  # nothing was sent yet
        except BaseException:
            self._retire(channel)
            raise
        if self._closed:
            await channel.aclose()
            raise closed()
        if pooled:
            self._channels.append(channel)
        return channel

    async def _enter(self, channel: Channel, within: float) -> Version:
        while True:
            try:
                return await self.account.enter(channel, within=within)
            except UnreadableError as error:
                raise StorageError(f"the server does not speak SurrealDB's protocol: {error}") from error
            except StatementError as error:
                if not is_conflict(error):
                    raise
            # Several connections try to create a missing database at once.
            await asyncio.sleep(random.uniform(0, _FIRST_PAUSE))  # noqa: S311 - no secret depends on it

    def _late(self) -> UnreachableError:
        return UnreachableError(f"{self.url} was not reached within {self.limits.timeout:g} s")

    def _retire(self, channel: Channel | None) -> None:
        """Make no new calls on a channel; `aclose` waits for its end."""
        if channel is not None:
            channel.retire()
            self._channels = [each for each in self._channels if each is not channel]
            self._leaving = [each for each in self._leaving if each is not channel and not each.ended]
            self._leaving.append(channel)

    async def aclose(self) -> None:
        """Close all connections. A second call does nothing."""
        self._closed = True
        if self._growth is not None:
            self._growth.cancel()
            await asyncio.wait([self._growth])
        channels, self._channels, self._leaving = [*self._channels, *self._leaving], [], []
        await asyncio.gather(*(each.aclose() for each in channels))


def _left(deadline: float) -> float:
    return deadline - asyncio.get_running_loop().time()


async def _pause(bound: float, deadline: float) -> bool:
    """Wait before the next attempt, and return True; return False at once if there is no time for one."""
    seconds = random.uniform(bound / 2, bound)  # noqa: S311 - no secret depends on it
    if _left(deadline) <= seconds:
        return False
    await asyncio.sleep(seconds)
    return True
