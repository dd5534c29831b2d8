"""A database in an object store: its head, published by a conditional put, its log, and its writers' leases.

Heads and leases are small objects. None is ever deleted, and no two of their contents are the same, so that an entity
tag names one state for ever: a put that is conditional on a tag succeeds only where nobody was faster. The head alone
makes commits safe. The leases only keep writers from getting in each other's way: one that stalls for longer than its
lease may still be writing when another has taken over, and then it loses the race for the head.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotModifiedError, PreconditionError
from obstore.store import from_url

from pattern_core.errors import StorageError

from .place import Outdated, Place, Token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obstore import PutMode

__all__ = ["RemotePlace"]

_HEAD: Final = "head"
_LOG: Final = "log/"
_PERSISTENCE: Final = timedelta(seconds=30)
"""How long a request is repeated that the store does not answer."""
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.5
"""Seconds between two looks at a lease that somebody else holds."""


class RemotePlace(Place):
    """A prefix of a bucket.

    Args:
        uri: Where, as in ``s3://bucket/prefix``.
        options: What the store has to know to be reached, by LanceDB's names. None of it shows in an error.
        lease: Seconds after which others may take over from a writer that stalled or died. A living one renews its
            lease long before.
        patience: Seconds to wait for a lease before giving up.
    """

    def __init__(self, uri: str, options: Mapping[str, str], *, lease: float = 20, patience: float = 120) -> None:
        self.uri = uri
        self.storage_options = dict(options)
        self._lease = lease
        self._patience = patience
        self._turns: dict[str, asyncio.Lock] = {}
        self._free: dict[str, str] = {}  # the tags of leases as they were given back here last
        config: Any = {name: value for name, value in options.items() if name != "allow_http"}  # not only for S3
        with self._translated("be opened"):
            self._store = from_url(
                uri,
                config=config,
                client_options={"allow_http": options.get("allow_http") == "true"},
                retry_config={"retry_timeout": _PERSISTENCE},
            )

    async def read_head(self, known: Token | None = None) -> tuple[bytes, Token] | None:
        return await self._get(_HEAD, known)

    async def publish(self, head: bytes, token: Token | None) -> Token:
        tag = await self._swap(_HEAD, head, token)
        if tag is None:
            raise Outdated
        return tag

    async def read(self, names: Sequence[str]) -> list[bytes | None]:
        async def read(name: str) -> bytes | None:
            with self._translated("be read"):
                try:
                    answer = await obstore.get_async(self._store, _LOG + name)
                    return bytes(await answer.bytes_async())
                except FileNotFoundError:
                    return None

        return list(await asyncio.gather(*(read(name) for name in names)))

    async def write(self, name: str, content: bytes) -> None:
        with self._translated("be written"):
            await obstore.put_async(self._store, _LOG + name, content, use_multipart=False)

    async def names(self) -> list[str]:
        with self._translated("be listed"):
            pages = obstore.list(self._store, prefix=_LOG)
            return [entry["path"].removeprefix(_LOG) async for page in pages for entry in page]

    async def remove(self, names: Sequence[str]) -> None:
        with self._translated("be cleaned"), suppress(FileNotFoundError):
            if names:
                await obstore.delete_async(self._store, [_LOG + name for name in names])

    @asynccontextmanager
    async def lock(self, name: str) -> AsyncIterator[None]:
        async with self._turns.setdefault(name, asyncio.Lock()):
            path = f"lease/{name}"
            lease = _Lease(self, path, await self._acquire(path), pause=self._lease / 3)
            try:
                yield
            finally:
                await asyncio.shield(lease.end())

    async def secure(self, table: str) -> None:
        """Nothing is left to do: a put returns when the object is safe."""

    async def aclose(self) -> None:
        """Nothing is held: a lease is given back when its ``async with`` ends."""

    async def renew(self, path: str, tag: str) -> str | None:
        """Hold on to a lease; return its new tag, or None where somebody has taken it over."""
        return await self._swap(path, _terms(self._lease), tag)

    async def release(self, path: str, tag: str) -> None:
        """Give a lease back, if it is still held."""
        with suppress(StorageError):  # then it runs out
            if (free := await self._swap(path, _terms(0), tag)) is not None:
                self._free[path] = free

    async def _acquire(self, path: str) -> str:
        """Wait for a lease and return its tag. Clocks of several machines are never compared."""
        if (free := self._free.pop(path, None)) is not None and (tag := await self._take(path, free)) is not None:
            return tag
        began = since = time.monotonic()
        pause, seen = _FIRST_PAUSE, ""
        while True:
            found = await self._get(path)
            now = time.monotonic()
            if found is None:
                tag = await self._take(path, None)
            elif (seconds := self._seconds(found[0])) == 0:
                tag = await self._take(path, found[1])
            elif found[1] == seen and now - since > seconds:
                tag = await self._take(path, found[1])
                if tag is not None:
                    await self._fence()
            else:
                tag = None
                if found[1] != seen:  # it was renewed, or changed hands
                    seen, since = found[1], now
            if tag is not None:
                return tag
            if now - began > self._patience:
                message = (
                    f"{self.uri} was held by other writers for {self._patience:.0f} seconds, so nothing was written. "
                    f"Try again; write less at once, or from fewer processes."
                )
                raise StorageError(message)
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - nothing secret
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _take(self, path: str, tag: str | None) -> str | None:
        """Take a lease; return its new tag, or None where somebody was faster."""
        attempt = asyncio.ensure_future(self._swap(path, _terms(self._lease), tag))
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            with suppress(StorageError):
                if (taken := await attempt) is not None:
                    await self.release(path, taken)
            raise

    async def _fence(self) -> None:
        """Make sure that a writer whose lease ran out can no longer publish what it has begun, whatever it still does.

        What it has written for that is about to be taken for left-overs of a crash, and removed.
        """
        if (head := await self._get(_HEAD)) is not None:
            await self._swap(_HEAD, *head)

    def _seconds(self, terms: bytes) -> float:
        try:
            return float(json.loads(terms)["seconds"])
        except (ValueError, KeyError, TypeError):  # nothing that this version wrote
            return self._lease

    async def _get(self, path: str, known: str | None = None) -> tuple[bytes, str] | None:
        """Read a head or a lease with its tag; without the bytes where the tag is known already."""
        with self._translated("be read"):
            try:
                answer = await obstore.get_async(self._store, path, options={"if_none_match": known} if known else None)
                body = bytes(await answer.bytes_async())
            except NotModifiedError:
                return b"", str(known)
            except FileNotFoundError:
                return None
        return body.partition(b"\n")[2], _tag(answer.meta)

    async def _swap(self, path: str, body: bytes, tag: str | None) -> str | None:
        """Write a head or a lease if its tag is still this one, or if it is not there; return its new tag, else None."""
        body = secrets.token_hex(16).encode() + b"\n" + body
        mode: PutMode = "create" if tag is None else {"e_tag": tag}
        with self._translated("be written; whether the last write took effect is not known"):
            try:
                return _tag(await obstore.put_async(self._store, path, body, mode=mode))
            except (AlreadyExistsError, PreconditionError):
                # The client repeats a put whose answer was lost, and that one finds the condition broken by the first.
                try:
                    answer = await obstore.get_async(self._store, path)
                    return _tag(answer.meta) if bytes(await answer.bytes_async()) == body else None
                except FileNotFoundError:
                    return None

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, ValueError, OSError) as error:
            reason = str(error).partition("\n")[0]  # behind it come the client's own structures
            message = f"{self.uri} cannot {what}: {reason}. See that it exists; check endpoint, region and credentials."
            raise StorageError(message) from None


class _Lease:
    """A lease that is held, and renewed until `end`."""

    def __init__(self, place: RemotePlace, path: str, tag: str, *, pause: float) -> None:
        self._place = place
        self._path = path
        self._tag: str | None = tag
        self._over = asyncio.Event()
        self._renewal = asyncio.create_task(self._renew(pause))

    async def end(self) -> None:
        """Stop renewing, and give the lease back."""
        self._over.set()
        await self._renewal
        if self._tag is not None:
            await self._place.release(self._path, self._tag)

    async def _renew(self, pause: float) -> None:
        while self._tag is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), pause)
            if self._over.is_set():
                return
            with suppress(StorageError):  # the store is out of reach; the next try is soon
                self._tag = await self._place.renew(self._path, self._tag)


def _terms(seconds: float) -> bytes:
    return json.dumps({"seconds": seconds}).encode()


def _tag(meta: Any) -> str:
    tag = meta["e_tag"]
    if not tag:
        raise StorageError("the object store gives no entity tags, so several writers could not be told apart")
    return str(tag)
