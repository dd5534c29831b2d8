"""Calls over HTTP: each is a request with the token, the namespace and the database.

The only module that uses the HTTP client.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import ssl
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final, Self

import aiohttp

from pattern_core.errors import AccessError, StorageError, UnreachableError

from .protocol import Limits, TokenExpiredError, UnreadableError, decode_answer, encode_request, read_result

__all__ = ["HttpChannel"]

_CBOR: Final = "application/cbor"
_LARGE: Final = 1 << 20


class HttpChannel:
    """A channel over HTTP, with a few kept connections. `HttpChannel.open` makes one.

    Args:
        url: The server's URL.
        session: The client.
        limits: The limits of the options.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession, limits: Limits) -> None:
        self._url = url
        self._session = session
        self._limits = limits
        self._numbers = itertools.count(1)
        self._headers = {"Content-Type": _CBOR, "Accept": _CBOR}
        self._load = 0
        self._retired = False
        self._end: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str, limits: Limits, tls: ssl.SSLContext | None) -> Self:
        """Make the client. The first call connects.

        Args:
            url: The server's URL.
            limits: The limits of the options.
            tls: The TLS settings; None for an unencrypted connection.
        """
        connector = aiohttp.TCPConnector(ssl=tls if tls is not None else True, limit=16)
        return cls(url, aiohttp.ClientSession(connector=connector, trust_env=True), limits)

    @property
    def load(self) -> int:
        return 0  # it makes any number of calls at once

    @property
    def usable(self) -> bool:
        return not self._retired

    @property
    def ended(self) -> bool:
        return self._session.closed

    async def call(self, method: str, params: Sequence[Any], *, within: float) -> Any:
        frame = await encode_request(str(next(self._numbers)), method, params, limit=self._limits.max_frame)
        self._load += 1
        try:
            async with asyncio.timeout(within):
                return read_result(await decode_answer(await self._post(frame)))
        except TimeoutError as error:
            message = f"no answer came within {within:.3g} s"
            raise UnreachableError(message, may_have_written=True) from error
        except aiohttp.ClientConnectorError as error:
            raise UnreachableError(f"{self._url} cannot be reached: {error}") from error
        except (aiohttp.ClientError, OSError) as error:
            message = f"the connection was lost before an answer came: {type(error).__name__}"
            raise UnreachableError(message, may_have_written=True) from error
        finally:
            self._load -= 1
            self._leave_if_done()

    async def _post(self, frame: bytes) -> bytes:
        # A server that rejects a large request may not read all of it, and then misread the next request.
        headers = {**self._headers, "Connection": "close"} if len(frame) > _LARGE else self._headers
        body = io.BytesIO(frame)
        async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
            if response.status == HTTPStatus.UNAUTHORIZED:
                raise TokenExpiredError("the token has expired", option="token")
            if response.status == HTTPStatus.FORBIDDEN:
                raise AccessError("the server does not allow it (HTTP 403)")
            if response.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                raise StorageError(
                    f"a request of {len(frame):,} bytes is larger than the server accepts over HTTP. Nothing was "
                    f"written. Write less at once, or use ws:// or wss://, which accept more."
                )
            if response.status != HTTPStatus.OK:
                message = f"{self._url} answers HTTP {response.status}"
                raise UnreachableError(message, may_have_written=True)
            answer = bytearray()
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > self._limits.max_answer:
                    raise UnreadableError(
                        f"an answer is larger than max_answer, {self._limits.max_answer:,} bytes. Read less at once, "
                        f"or raise max_answer under [database]."
                    )
            return bytes(answer)

    def present(self, token: str) -> None:
        self._headers["Authorization"] = f"Bearer {token}"

    def enter(self, namespace: str, database: str) -> None:
        self._headers |= {"Surreal-NS": namespace, "Surreal-DB": database}

    def retire(self) -> None:
        self._retired = True
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if self._retired and not self._load and self._end is None:
            self._end = asyncio.create_task(self._session.close())

    async def aclose(self) -> None:
        self._retired = True
        if self._end is not None:
            await self._end
        await self._session.close()
