"""Calls over a WebSocket. The only module that uses the driver.

One task reads the answers, and resolves the future of each call. When the connection ends, all remaining futures get an
error.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import ssl
from collections.abc import Sequence
from typing import Any, Final, Protocol, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.typing import Subprotocol

from pattern_core.errors import StorageError, UnreachableError

from .protocol import Limits, UnreadableError, decode_answer, encode_request, read_result

__all__ = ["WebSocketChannel"]


class _End(Protocol):
    """Makes the error for a call that was running when the connection ended, or came later."""

    def __call__(self, *, sent: bool) -> StorageError: ...


_TOO_BIG: Final = 1009
_LOGGER: Final = logging.getLogger(f"{__name__}.driver")
"""The driver's log of each frame would show passwords, so it is off."""
_LOGGER.setLevel(logging.ERROR)


class _Connect(connect):
    """A connection that follows no redirection: the password is for the named server only."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


class WebSocketChannel:
    """A channel over a WebSocket. `WebSocketChannel.open` makes one.

    Args:
        socket: The driver's connection.
        limits: The limits of the options.
    """

    def __init__(self, socket: ClientConnection, limits: Limits) -> None:
        self._socket = socket
        self._limits = limits
        self._numbers = itertools.count(1)
        self._pending: dict[str, asyncio.Future[Any]] = {}
        self._retired = self._left = False
        self._ended: _End | None = None
        self._reader = asyncio.create_task(self._read(), name="pattern-surreal-reader")

    @classmethod
    async def open(cls, url: str, limits: Limits, tls: ssl.SSLContext | None, *, within: float) -> Self:
        """Connect.

        Args:
            url: The server's URL.
            limits: The limits of the options.
            tls: The TLS settings; None for an unencrypted connection.
            within: The time limit, in seconds.

        Raises:
            UnreachableError: Nothing answers, or no SurrealDB server.
        """
        try:
            socket = await _Connect(
                url,
                subprotocols=[Subprotocol("cbor")],
                compression=None,
                open_timeout=within,
                close_timeout=min(within, 2),
                ping_interval=limits.idle_timeout / 2,
                ping_timeout=limits.idle_timeout / 2,
                max_size=limits.max_answer,
                logger=_LOGGER,
                ssl=tls,
            )
        except ssl.SSLError as error:
            raise UnreachableError(f"{url} cannot be reached securely: {error}") from error
        except TimeoutError as error:
            raise UnreachableError(f"{url} did not answer within {within:g} s") from error
        except OSError as error:
            raise UnreachableError(f"{url} cannot be reached: {error}") from error
        except (InvalidHandshake, InvalidURI, EOFError) as error:
            raise UnreachableError(f"{url} is not a SurrealDB server: {error}") from error
        return cls(socket, limits)

    @property
    def load(self) -> int:
        return len(self._pending)

    @property
    def usable(self) -> bool:
        return self._ended is None and not self._retired

    @property
    def ended(self) -> bool:
        return self._reader.done()

    async def call(self, method: str, params: Sequence[Any], *, within: float) -> Any:
        id = str(next(self._numbers))
        frame = await encode_request(id, method, params, limit=self._limits.max_frame)
        if self._ended is not None:
            raise self._ended(sent=False)
        future = asyncio.get_running_loop().create_future()
        self._pending[id] = future
        try:
            async with asyncio.timeout(within):
                try:
                    await self._socket.send(frame)
                except ConnectionClosed:
                    await asyncio.wait([self._reader])  # it sets the error of this call as well
                return read_result(await future)
        except TimeoutError as error:
            self.retire()  # the connection may be half-open
            message = f"no answer came within {within:.3g} s"
            raise UnreachableError(message, may_have_written=True) from error
        finally:
            del self._pending[id]
            if future.done() and not future.cancelled():
                future.exception()  # mark the error as retrieved
            self._leave_if_done()

    async def _read(self) -> None:
        ended: _End = _lost
        try:
            async for frame in self._socket:
                if isinstance(frame, str):
                    raise UnreadableError("an answer is text instead of CBOR")  # noqa: TRY301 - told to all below
                answer = await decode_answer(frame)
                future = self._pending.get(str(answer.get("id")))
                if future is not None and not future.done():
                    future.set_result(answer)
        except UnreadableError as error:
            ended = _unreadable(str(error), alone=self.load == 1)
        except ConnectionClosed as error:
            if error.sent is not None and error.sent.code == _TOO_BIG and not error.rcvd_then_sent:
                message = (
                    f"an answer is larger than max_answer, {self._limits.max_answer:,} bytes. Read less at once, or "
                    f"raise max_answer under [database]."
                )
                ended = _unreadable(message, alone=self.load == 1)
            elif error.rcvd is not None and error.rcvd.code == _TOO_BIG:
                message = (
                    "the server closed the connection because a request is too large for it. Write less at once, or raise "
                    "the server's limit. With a lower max_frame under [database], this is detected before sending."
                )
                ended = _unreadable(message, alone=self.load == 1)
        finally:
            self._ended = ended
            for future in self._pending.values():
                if not future.done():
                    future.set_exception(ended(sent=True))
            try:
                await self._socket.close()
            finally:
                self._socket.transport.abort()

    def present(self, token: str) -> None:
        """Do nothing: the connection keeps the sign-in."""

    def enter(self, namespace: str, database: str) -> None:
        """Do nothing: the connection keeps the database."""

    def retire(self) -> None:
        self._retired = True
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if self._retired and not self._pending:
            self._leave()

    def _leave(self) -> None:
        if not self._left:  # only once: a second cancellation would interrupt the closing handshake
            self._left = True
            self._reader.cancel()

    async def aclose(self) -> None:
        self._retired = True
        self._leave()
        await asyncio.wait([self._reader])
        self._socket.transport.abort()  # if the reader never started, it has not closed the socket


def _lost(*, sent: bool) -> StorageError:
    if not sent:
        return UnreachableError("the connection was lost")
    return UnreachableError("the connection was lost before an answer came", may_have_written=True)


def _unreadable(message: str, *, alone: bool) -> _End:
    def make(*, sent: bool) -> StorageError:
        return UnreadableError(message, alone=alone) if sent else _lost(sent=False)

    return make
