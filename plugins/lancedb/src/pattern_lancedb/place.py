"""Where a database stands: its head, its log and its locks, on a local folder or (in `place_remote`) an object store.

The head is one small document that says which state of every table, and which part of the log, is the database. To
publish another head is to commit: it is one atomic step everywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import filelock

from pattern_core.abc import AsyncResource
from pattern_core.errors import StorageError

__all__ = ["Folder", "Outdated", "Place", "Token"]

Token: TypeAlias = Any
"""What tells one head from the next; compared with ``==``."""


class Outdated(Exception):  # noqa: N818 - caught in this plugin, never seen outside
    """The head was not what the publisher took it for: somebody else has published. Nothing was changed."""


class Place(AsyncResource):
    """Where a database stands.

    Attributes:
        uri: What `lancedb.connect_async` is given.
        storage_options: What it is given besides, secrets included.
    """

    uri: str
    storage_options: Mapping[str, str]

    @abstractmethod
    async def read_head(self, known: Token | None = None) -> tuple[bytes, Token] | None:
        """Read the head.

        Args:
            known: The token of a head that the caller has already.

        Returns:
            The head and its token (where the token equals ``known``, the bytes may be empty); None where there is none.
        """

    @abstractmethod
    async def publish(self, head: bytes, token: Token | None) -> Token:
        """Replace the head, atomically and durably.

        Args:
            head: The new head.
            token: The token of the head that it replaces; None where there was none.

        Returns:
            The new head's token.

        Raises:
            Outdated: Another head is there. Nothing was changed.
            StorageError: It failed. The message says whether it may have taken effect.
        """

    @abstractmethod
    async def read(self, names: Sequence[str]) -> list[bytes | None]:
        """Read documents of the log; None for one that is missing."""

    @abstractmethod
    async def write(self, name: str, content: bytes) -> None:
        """Write a document of the log under a name that was never used before; it is safe once a head names it."""

    @abstractmethod
    async def names(self) -> list[str]:
        """Return the names of all documents of the log."""

    @abstractmethod
    async def remove(self, names: Sequence[str]) -> None:
        """Remove documents of the log; missing ones are no error."""

    @abstractmethod
    def lock(self, name: str) -> contextlib.AbstractAsyncContextManager[None]:
        """Hold a lock, among all processes, while the context lasts. Waiting for it can be cancelled.

        Args:
            name: ``commit`` (held for moments), ``upkeep`` (held for as long as tables are rewritten) or ``fill`` (held for
            as long as an external index is filled).

        Raises:
            StorageError: It could not be had in good time.
        """

    @abstractmethod
    async def secure(self, table: str) -> None:
        """Make sure that the files of a Lance table survive a power failure.

        Args:
            table: The table's name in Lance.
        """


_HEAD: Final = "head.json"
_DRAFT: Final = "head.draft"
_PATIENCE: Final = {"commit": 60.0, "upkeep": 600.0, "fill": 600.0}
"""Seconds to wait for another process's lock. To make the index of a large table takes minutes."""
_POLL: Final = (0.001, 0.02)
"""Seconds between two looks at a lock that another process holds: at first, and at most."""


class Folder(Place):
    """A local folder.

    What is published survives a power failure as far as ``fsync`` goes: documents, the head, the folder, and the files
    of Lance tables before a head names them (Lance itself does not sync).

    Args:
        path: The folder; it is made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.uri = str(self.path)
        self.storage_options = {}
        self._log = self.path / "log"
        self._turns: dict[str, asyncio.Lock] = {}
        self._locks: dict[str, filelock.BaseFileLock] = {}

    @classmethod
    async def open(cls, path: Path) -> Folder:
        """Use a folder, and make it where it is not there; raise `StorageError` where it cannot be used."""
        folder = cls(path)
        try:
            await asyncio.to_thread(folder._log.mkdir, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot use {path} as the folder of a database: {error}") from error
        return folder

    async def read_head(self, known: Token | None = None) -> tuple[bytes, Token] | None:
        return await asyncio.to_thread(self._read_head, known)

    def _read_head(self, known: Token | None) -> tuple[bytes, Token] | None:
        try:
            # A head is never changed, only replaced: what was opened is whole, and its number tells it from the next.
            with (self._log / _HEAD).open("rb") as file:
                token = _token(os.fstat(file.fileno()))
                return (b"" if token == known else file.read()), token
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self._log / _HEAD}: {error}") from error

    async def publish(self, head: bytes, token: Token | None) -> Token:
        return await asyncio.to_thread(self._publish, head, token)

    def _publish(self, head: bytes, token: Token | None) -> Token:
        file, draft = self._log / _HEAD, self._log / _DRAFT
        found = self._read_head(token)
        if (found and found[1]) != token:
            raise Outdated
        try:
            _write(draft, head)
        except OSError as error:
            raise StorageError(f"cannot write {draft}, and nothing was changed: {error}") from error
        try:
            if found is not None and draft.stat().st_mtime_ns <= found[1][1]:
                # A file's number is used again, and a clock may stand still or go back: no two heads share a token.
                os.utime(draft, ns=(found[1][1] + 1, found[1][1] + 1))
            published = _token(draft.stat())
            draft.replace(file)
            _sync(self._log)  # the head, and before it the documents that it names
        except OSError as error:
            raise StorageError(f"cannot replace {file}; the write may have taken effect: {error}") from error
        return published

    async def read(self, names: Sequence[str]) -> list[bytes | None]:
        return await asyncio.to_thread(lambda: [self._read(name) for name in names])

    def _read(self, name: str) -> bytes | None:
        try:
            return (self._log / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self._log / name}: {error}") from error

    async def write(self, name: str, content: bytes) -> None:
        def write() -> None:
            try:
                _write(self._log / name, content)
            except OSError as error:
                raise StorageError(f"cannot write {self._log / name}, and nothing was changed: {error}") from error

        await asyncio.to_thread(write)

    async def names(self) -> list[str]:
        return await asyncio.to_thread(self._names)

    def _names(self) -> list[str]:
        return sorted({each.name for each in self._log.iterdir()} - {_HEAD, _DRAFT})

    async def remove(self, names: Sequence[str]) -> None:
        def remove() -> None:
            for name in names:
                with contextlib.suppress(OSError):  # another time
                    (self._log / name).unlink()

        await asyncio.to_thread(remove)

    @contextlib.asynccontextmanager
    async def lock(self, name: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(name, filelock.FileLock(self.path / f".{name}.lock", thread_local=False))
        async with self._turns.setdefault(name, asyncio.Lock()):
            await _acquire(lock, _PATIENCE[name])
            try:
                yield
            finally:
                lock.release()

    async def secure(self, table: str) -> None:
        def secure() -> None:
            for folder, _, files in os.walk(self.path / f"{table}.lance"):
                for path in (*(Path(folder, file) for file in files), Path(folder)):
                    with contextlib.suppress(FileNotFoundError):  # the table was dropped meanwhile
                        _sync(path)
            _sync(self.path)

        try:
            await asyncio.to_thread(secure)
        except OSError as error:
            raise StorageError(f"cannot sync the files of {table} in {self.path}: {error}") from error

    async def aclose(self) -> None:
        """Nothing is held between calls."""


async def _acquire(lock: filelock.BaseFileLock, patience: float) -> None:
    """Take a lock without holding up the event loop: each look is one system call."""
    loop = asyncio.get_running_loop()
    end, (pause, longest) = loop.time() + patience, _POLL
    while True:
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            if loop.time() > end:
                message = f"another process has held {lock.lock_file} for {patience:.0f} s, and nothing was changed"
                raise StorageError(message) from None
        except OSError as error:
            raise StorageError(f"cannot lock {lock.lock_file}, and nothing was changed: {error}") from error
        else:
            return
        await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - so that those who wait do not march in step
        pause = min(pause * 2, longest)


def _token(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size


def _write(path: Path, content: bytes) -> None:
    try:
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:  # a full disk should not keep what is of no use
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _sync(path: Path) -> None:
    """Make what a file holds, or which files a folder holds, survive a power failure."""
    if os.name == "nt" and path.is_dir():  # Windows has no such call for folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
