"""A proxy between clients and a server, which can cut connections, stall, and change messages.

A `Proxy` is a TCP proxy in the running loop. It forwards WebSocket messages one by one, so that a test can read, replace,
delay or drop each of them. Other traffic, such as HTTP, is forwarded unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

__all__ = ["UNREADABLE", "Proxy"]

UNREADABLE: Final = b"\xff\xff\xff"
"""A message that is not CBOR."""
BINARY: Final = 2
CHUNK: Final = 1 << 16

Hook = Callable[[bytes], Awaitable[bytes | None]]


async def _unchanged(message: bytes) -> bytes | None:
    return message


class Proxy:
    """A proxy in front of a port of this machine: ``async with Proxy(port) as proxy``.

    Attributes:
        on_request: Called with each binary message of a client. It returns the message to forward; None cuts both ends.
            It may wait, which also delays the following messages. If the client disconnects meanwhile, the message still
            reaches the server, as from a buffer.
        on_response: The same for messages of the server.
        connections: How many clients have connected so far.
    """

    def __init__(self, port: int) -> None:
        self.on_request: Hook = _unchanged
        self.on_response: Hook = _unchanged
        self.connections = 0
        self._port = port
        self._own_port = 0
        self._flows = asyncio.Event()
        self._flows.set()
        self._server: asyncio.Server | None = None
        self._ends: dict[asyncio.StreamWriter, asyncio.StreamWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"ws://127.0.0.1:{self._own_port}"

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def open(self) -> None:
        """Accept connections, on the same port as before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._own_port)
        self._own_port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Refuse new connections; existing ones stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def cut(self) -> None:
        """Break all connections, at both ends."""
        for client, upstream in list(self._ends.items()):
            client.transport.abort()
            upstream.transport.abort()

    def cut_clients(self) -> None:
        """Break all connections at the clients' end; the server still reads what was sent before."""
        for client in list(self._ends):
            client.transport.abort()

    def stall(self) -> None:
        """Forward nothing more in either direction, silently: connections are half-open."""
        self._flows.clear()

    def flow(self) -> None:
        """Continue after `stall`."""
        self._flows.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._flows.wait()
            with contextlib.suppress(OSError):
                up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
                self._ends[writer] = up_writer
                await self._join(reader, writer, up_reader, up_writer)
        finally:
            if (upstream := self._ends.pop(writer, None)) is not None:
                upstream.close()
            writer.close()

    async def _request(self, message: bytes) -> bytes | None:
        return await self.on_request(message)

    async def _response(self, message: bytes) -> bytes | None:
        return await self.on_response(message)

    async def _join(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        """Forward data until one end closes; the server also gets what was sent before."""
        up = asyncio.create_task(self._carry(reader, up_writer, self._request))
        down = asyncio.create_task(self._carry(up_reader, writer, self._response))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            if down.done() and writer.transport.is_closing() and not up_writer.transport.is_closing():
                await up
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, hook: Hook) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await source.readuntil(b"\r\n\r\n")
            target.write(head)
            while b"upgrade: websocket" not in head.lower():
                chunk = await source.read(CHUNK)
                await self._flows.wait()
                if not chunk:
                    return
                target.write(chunk)
                await target.drain()
            while True:
                start, mask, payload = await _frame(source)
                message: bytes | None = payload
                if start & 0x0F == BINARY:
                    message = await hook(payload)
                await self._flows.wait()
                if message is None:
                    return
                target.write(_framed(start, mask, message))
                await target.drain()


async def _frame(source: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Read one frame: its first byte, its mask, which may be empty, and its payload."""
    start, length = await source.readexactly(2)
    masked, length = length & 0x80, length & 0x7F
    if length == 126:
        (length,) = struct.unpack(">H", await source.readexactly(2))
    elif length == 127:
        (length,) = struct.unpack(">Q", await source.readexactly(8))
    mask = await source.readexactly(4) if masked else b""
    return start, mask, _mask(await source.readexactly(length), mask)


def _framed(start: int, mask: bytes, payload: bytes) -> bytes:
    size, flag = len(payload), 0x80 if mask else 0
    if size < 126:
        head = struct.pack(">BB", start, flag | size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", start, flag | 126, size)
    else:
        head = struct.pack(">BBQ", start, flag | 127, size)
    return head + mask + _mask(payload, mask)


def _mask(payload: bytes, mask: bytes) -> bytes:
    if not mask or not payload:
        return payload
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(len(payload), "big")
