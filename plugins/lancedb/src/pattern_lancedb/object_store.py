"""A store in a bucket: conditional puts publish the manifest, and leases are the locks.

Manifest and leases are small objects. None is ever deleted, and no two contents are equal, so an entity tag identifies
one state for ever, and a put that is conditional on a tag succeeds only if no other writer was faster. The manifest alone
makes commits safe. Leases only keep writers apart: a writer that stalls past its lease may still write after another has
taken over, and then fails to publish its manifest.
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

from .store import ManifestTag, StaleManifestError, Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obstore import PutMode

__all__ = ["ObjectStore"]

# The names of objects are stored, and other versions use the same ones.
_MANIFEST: Final = "head"
_WAL: Final = "log/"
_LEASES: Final = "lease/"
_RETRY_TIMEOUT: Final = timedelta(seconds=30)
"""How long the client repeats a request that gets no answer."""
_POLL_S: Final = (0.02, 0.5)
"""The first and the longest pause between two reads of a lease that another writer holds."""


class ObjectStore(Store):
    """A store under a prefix of a bucket.

    Args:
        uri: The prefix, as in ``s3://bucket/prefix``.
        options: The storage options by LanceDB's names. No error shows them.
        lease: After how many seconds others take over from a writer that has stalled or died. A live writer renews its
            lease long before.
        timeout: How long to wait for a lease, in seconds.
    """

    def __init__(self, uri: str, options: Mapping[str, str], *, lease: float = 20, timeout: float = 120) -> None:
        self.uri = uri
        self.storage_options = dict(options)
        self._lease_s = lease
        self._timeout_s = timeout
        self._task_locks: dict[str, asyncio.Lock] = {}
        self._released: dict[str, str] = {}  # by lease: its tag when this store last released it
        config: Any = {name: value for name, value in options.items() if name != "allow_http"}  # not only for S3
        with self._translated("be opened"):
            self._client = from_url(
                uri,
                config=config,
                client_options={"allow_http": options.get("allow_http") == "true"},
                retry_config={"retry_timeout": _RETRY_TIMEOUT},
            )

    async def read_manifest(self, known: ManifestTag | None = None) -> tuple[bytes, ManifestTag] | None:
        return await self._get(_MANIFEST, known)

    async def publish(self, manifest: bytes, tag: ManifestTag | None) -> ManifestTag:
        new_tag = await self._put_if(_MANIFEST, manifest, tag)
        if new_tag is None:
            raise StaleManifestError
        return new_tag

    async def read_wal(self, names: Sequence[str]) -> list[bytes | None]:
        async def read(name: str) -> bytes | None:
            with self._translated("be read"):
                try:
                    answer = await obstore.get_async(self._client, _WAL + name)
                    return bytes(await answer.bytes_async())
                except FileNotFoundError:
                    return None

        return list(await asyncio.gather(*(read(name) for name in names)))

    async def write_wal(self, name: str, content: bytes) -> None:
        with self._translated("be written"):
            await obstore.put_async(self._client, _WAL + name, content, use_multipart=False)

    async def list_wal(self) -> list[str]:
        with self._translated("be listed"):
            pages = obstore.list(self._client, prefix=_WAL)
            return [entry["path"].removeprefix(_WAL) async for page in pages for entry in page]

    async def remove_wal(self, names: Sequence[str]) -> None:
        with self._translated("be cleaned"), suppress(FileNotFoundError):
            if names:
                await obstore.delete_async(self._client, [_WAL + name for name in names])

    @asynccontextmanager
    async def lock(self, name: str) -> AsyncIterator[None]:
        async with self._task_locks.setdefault(name, asyncio.Lock()):
            path = _LEASES + name
            lease = _Lease(self, path, await self._acquire(path), pause_s=self._lease_s / 3)
            try:
                yield
            finally:
                await asyncio.shield(lease.release())

    async def sync_table(self, lance_name: str) -> None:
        """Do nothing: a put returns when the object is durable."""

    async def aclose(self) -> None:
        """Do nothing: `lock` releases its lease at the end of the context."""

    async def renew(self, path: str, tag: str) -> str | None:
        """Renew a lease; return its new tag, or None if another writer has taken it over."""
        return await self._put_if(path, _lease_content(self._lease_s), tag)

    async def release(self, path: str, tag: str) -> None:
        """Release a lease if it is still held."""
        with suppress(StorageError):  # the lease expires
            if (released := await self._put_if(path, _lease_content(0), tag)) is not None:
                self._released[path] = released

    async def _acquire(self, path: str) -> str:
        """Wait for a lease and return its tag. Clocks of different machines are never compared."""
        released = self._released.pop(path, None)
        if released is not None and (tag := await self._take(path, released)) is not None:
            return tag
        started = seen_at = time.monotonic()
        (pause, longest), seen = _POLL_S, ""
        while True:
            found = await self._get(path)
            now = time.monotonic()
            if found is None:
                tag = await self._take(path, None)
            elif (seconds := self._duration_s(found[0])) == 0:
                tag = await self._take(path, found[1])
            elif found[1] == seen and now - seen_at > seconds:
                tag = await self._take(path, found[1])
                if tag is not None:
                    await self._fence()
            else:
                tag = None
                if found[1] != seen:  # it was renewed, or another writer took it
                    seen, seen_at = found[1], now
            if tag is not None:
                return tag
            if now - started > self._timeout_s:
                message = (
                    f"other writers held {self.uri} for {self._timeout_s:.0f} seconds, so nothing was written. "
                    f"Try again; write less at once, or from fewer processes."
                )
                raise StorageError(message)
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter
            pause = min(2 * pause, longest)

    async def _take(self, path: str, tag: str | None) -> str | None:
        """Take a lease; return its new tag, or None if another writer was faster."""
        attempt = asyncio.ensure_future(self._put_if(path, _lease_content(self._lease_s), tag))
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            with suppress(StorageError):
                if (taken := await attempt) is not None:
                    await self.release(path, taken)
            raise

    async def _fence(self) -> None:
        """Replace the manifest by an equal one, so that the writer whose lease expired cannot publish.

        The clean-up may take its files for orphans of a crash, and remove them.
        """
        if (manifest := await self._get(_MANIFEST)) is not None:
            await self._put_if(_MANIFEST, *manifest)

    def _duration_s(self, content: bytes) -> float:
        try:
            return float(json.loads(content)["seconds"])
        except (ValueError, KeyError, TypeError):  # another version wrote it
            return self._lease_s

    async def _get(self, path: str, known: str | None = None) -> tuple[bytes, str] | None:
        """Read the manifest or a lease with its tag; omit the bytes if the tag is the known one."""
        with self._translated("be read"):
            try:
                answer = await obstore.get_async(
                    self._client, path, options={"if_none_match": known} if known else None
                )
                body = bytes(await answer.bytes_async())
            except NotModifiedError:
                return b"", str(known)
            except FileNotFoundError:
                return None
        return body.partition(b"\n")[2], _tag(answer.meta)

    async def _put_if(self, path: str, body: bytes, tag: str | None) -> str | None:
        """Write the manifest or a lease if it still has the tag (None: if it is missing); return the new tag, else None."""
        body = secrets.token_hex(16).encode() + b"\n" + body
        mode: PutMode = "create" if tag is None else {"e_tag": tag}
        with self._translated("be written; whether the last write took effect is unknown"):
            try:
                return _tag(await obstore.put_async(self._client, path, body, mode=mode))
            except (AlreadyExistsError, PreconditionError):
                # The client repeats a put whose answer was lost; the first one then breaks the condition of the second.
                try:
                    answer = await obstore.get_async(self._client, path)
                    return _tag(answer.meta) if bytes(await answer.bytes_async()) == body else None
                except FileNotFoundError:
                    return None

    @contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, ValueError, OSError) as error:
            reason = str(error).partition("\n")[0]  # the other lines dump the client's structures
            message = (
                f"{self.uri} cannot {action}: {reason}. Check that it exists, the endpoint, region and credentials."
            )
            raise StorageError(message) from None


class _Lease:
    """A lease that is held and renewed until `release`."""

    def __init__(self, store: ObjectStore, path: str, tag: str, *, pause_s: float) -> None:
        self._store = store
        self._path = path
        self._tag: str | None = tag
        self._released = asyncio.Event()
        self._renewal = asyncio.create_task(self._renew(pause_s))

    async def release(self) -> None:
        """Stop renewing, and release the lease."""
        self._released.set()
        await self._renewal
        if self._tag is not None:
            await self._store.release(self._path, self._tag)

    async def _renew(self, pause_s: float) -> None:
        while self._tag is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._released.wait(), pause_s)
            if self._released.is_set():
                return
            with suppress(StorageError):  # the store is unreachable; the next attempt follows soon
                self._tag = await self._store.renew(self._path, self._tag)


def _lease_content(seconds: float) -> bytes:
    return json.dumps({"seconds": seconds}).encode()


def _tag(meta: Any) -> str:
    tag = meta["e_tag"]
    if not tag:
        raise StorageError("the object store returns no entity tags, so concurrent writes cannot be detected")
    return str(tag)
