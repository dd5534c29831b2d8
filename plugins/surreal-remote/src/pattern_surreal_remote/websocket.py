"""A WebSocket to a server: the one module here that touches the driver.

One task reads. A call leaves a future behind, and the task gives it its answer; when the connection ends, however it
ends, every future that is left gets an error.
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
    """Makes the error for a call that was under way when the connection ended, or came later."""

    def __call__(self, *, sent: bool) -> StorageError: ...


_TOO_BIG: Final = 1009
_LOGGER: Final = logging.getLogger(f"{__name__}.driver")
"""What the driver logs of each frame would show passwords: it is never let to."""
_LOGGER.setLevel(logging.ERROR)


class _Connect(connect):
    """A connection that stays with the server that was named: a password must not follow a redirection."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


class WebSocketChannel:
    """An open WebSocket. `WebSocketChannel.open` makes one.

    Args:
        socket: The driver's connection.
        limits: How large frames may be.
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
            limits: How large frames may be, and how long the connection may be silent.
            tls: Whom to trust, where the connection is encrypted.
            within: How long it may take, in seconds.

        Raises:
            UnreachableError: Nobody answers there, or not as a SurrealDB server does.
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
            raise UnreachableError(f"{url} does not answer as a SurrealDB server does: {error}") from error
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
                    await asyncio.wait([self._reader])  # it says why, to this call as well
                return read_result(await future)
        except TimeoutError as error:
            self.retire()  # it may be half-open
            message = f"no answer came within {within:.3g} s"
            raise UnreachableError(message, may_have_written=True) from error
        finally:
            del self._pending[id]
            if future.done() and not future.cancelled():
                future.exception()  # it is told, or was of no use any more
            self._leave_if_done()

    async def _read(self) -> None:
        ended: _End = _lost
        try:
            async for frame in self._socket:
                if isinstance(frame, str):
                    raise UnreadableError("an answer is text where CBOR was agreed on")  # noqa: TRY301 - told to all below
                answer = await decode_answer(frame)
                future = self._pending.get(str(answer.get("id")))
                if future is not None and not future.done():
                    future.set_result(answer)
        except UnreadableError as error:
            ended = _unreadable(str(error), alone=self.load == 1)
        except ConnectionClosed as error:
            if error.sent is not None and error.sent.code == _TOO_BIG and not error.rcvd_then_sent:
                message = (
                    f"an answer is larger than max_answer, {self._limits.max_answer:,} bytes. Ask for less at once, or "
                    f"raise max_answer under [database]."
                )
                ended = _unreadable(message, alone=self.load == 1)
            elif error.rcvd is not None and error.rcvd.code == _TOO_BIG:
                message = (
                    "the server has ended the connection over a request that is larger than it takes. Write less at "
                    "once; or lower max_frame under [database], so that this is known before, or raise the server's limit."
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
        """Do nothing: the server remembers who has signed in."""

    def enter(self, namespace: str, database: str) -> None:
        """Do nothing: the server remembers where one is."""

    def retire(self) -> None:
        self._retired = True
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if self._retired and not self._pending:
            self._leave()

    def _leave(self) -> None:
        if not self._left:  # once: the second time would cut off the farewell
            self._left = True
            self._reader.cancel()

    async def aclose(self) -> None:
        self._retired = True
        self._leave()
        await asyncio.wait([self._reader])
        self._socket.transport.abort()  # it has not been begun where the reader was never let to begin


def _lost(*, sent: bool) -> StorageError:
    if not sent:
        return UnreachableError("the connection to the server has ended")
    return UnreachableError("the connection to the server has ended before an answer came", may_have_written=True)


def _unreadable(message: str, *, alone: bool) -> _End:
    def make(*, sent: bool) -> StorageError:
        return UnreadableError(message, alone=alone) if sent else _lost(sent=False)

    return make
