"""A store in a local folder."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import filelock

from pattern_core.errors import StorageError

from .store import COMMIT_LOCK, FILL_LOCK, MAINTENANCE_LOCK, ManifestTag, StaleManifestError, Store

__all__ = ["LocalStore"]

# The names of files are stored, and other versions use the same ones.
_WAL: Final = "log"
_MANIFEST: Final = "head.json"
_DRAFT: Final = "head.draft"
_LOCK_TIMEOUTS_S: Final = {COMMIT_LOCK: 60.0, MAINTENANCE_LOCK: 600.0, FILL_LOCK: 600.0}
"""How long to wait for the lock of another process. An index build of a large table takes minutes."""
_POLL_S: Final = (0.001, 0.02)
"""The first and the longest pause between two attempts to take a lock."""


class LocalStore(Store):
    """A store in a local folder. `LocalStore.open` creates the folder.

    What it publishes survives a power failure as far as ``fsync`` guarantees: WAL entries, the manifest, the folder, and
    the files of Lance tables before a manifest names them. Lance itself does not sync.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.uri = str(self.path)
        self.storage_options = {}
        self._wal = self.path / _WAL
        self._task_locks: dict[str, asyncio.Lock] = {}
        self._file_locks: dict[str, filelock.BaseFileLock] = {}

    @classmethod
    async def open(cls, path: Path) -> LocalStore:
        """Open a folder, and create it if it is missing; raise `StorageError` if it cannot be used."""
        store = cls(path)
        try:
            await asyncio.to_thread(store._wal.mkdir, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot use {path} as the folder of a database: {error}") from error
        return store

    async def read_manifest(self, known: ManifestTag | None = None) -> tuple[bytes, ManifestTag] | None:
        return await asyncio.to_thread(self._read_manifest, known)

    def _read_manifest(self, known: ManifestTag | None) -> tuple[bytes, ManifestTag] | None:
        try:
            # The file is replaced and never changed, so an open file is complete and its inode identifies it.
            with (self._wal / _MANIFEST).open("rb") as file:
                tag = _tag(os.fstat(file.fileno()))
                return (b"" if tag == known else file.read()), tag
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self._wal / _MANIFEST}: {error}") from error

    async def publish(self, manifest: bytes, tag: ManifestTag | None) -> ManifestTag:
        return await asyncio.to_thread(self._publish, manifest, tag)

    def _publish(self, manifest: bytes, tag: ManifestTag | None) -> ManifestTag:
        file, draft = self._wal / _MANIFEST, self._wal / _DRAFT
        current = self._read_manifest(tag)
        if (current and current[1]) != tag:
            raise StaleManifestError
        try:
            _write(draft, manifest)
        except OSError as error:
            raise StorageError(f"cannot write {draft}, and nothing was changed: {error}") from error
        try:
            if current is not None and draft.stat().st_mtime_ns <= current[1][1]:
                # Inodes are reused, and a clock may stop or go back: a later time keeps the tags distinct.
                os.utime(draft, ns=(current[1][1] + 1, current[1][1] + 1))
            published = _tag(draft.stat())
            draft.replace(file)
            _sync(self._wal)  # the manifest, and the WAL entries that it names
        except OSError as error:
            raise StorageError(f"cannot replace {file}; the write may have taken effect: {error}") from error
        return published

    async def read_wal(self, names: Sequence[str]) -> list[bytes | None]:
        return await asyncio.to_thread(lambda: [self._read_entry(name) for name in names])

    def _read_entry(self, name: str) -> bytes | None:
        try:
            return (self._wal / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self._wal / name}: {error}") from error

    async def write_wal(self, name: str, content: bytes) -> None:
        def write() -> None:
            try:
                _write(self._wal / name, content)
            except OSError as error:
                raise StorageError(f"cannot write {self._wal / name}, and nothing was changed: {error}") from error

        await asyncio.to_thread(write)

    async def list_wal(self) -> list[str]:
        return await asyncio.to_thread(self._list_wal)

    def _list_wal(self) -> list[str]:
        return sorted({path.name for path in self._wal.iterdir()} - {_MANIFEST, _DRAFT})

    async def remove_wal(self, names: Sequence[str]) -> None:
        def remove() -> None:
            for name in names:
                with contextlib.suppress(OSError):  # a later clean-up removes the file
                    (self._wal / name).unlink()

        await asyncio.to_thread(remove)

    @contextlib.asynccontextmanager
    async def lock(self, name: str) -> AsyncIterator[None]:
        file_lock = self._file_locks.setdefault(
            name, filelock.FileLock(self.path / f".{name}.lock", thread_local=False)
        )
        async with self._task_locks.setdefault(name, asyncio.Lock()):
            await _acquire(file_lock, _LOCK_TIMEOUTS_S[name])
            try:
                yield
            finally:
                file_lock.release()

    async def sync_table(self, lance_name: str) -> None:
        def sync() -> None:
            for folder, _, files in os.walk(self.path / f"{lance_name}.lance"):
                for path in (*(Path(folder, file) for file in files), Path(folder)):
                    with contextlib.suppress(FileNotFoundError):  # the table was dropped meanwhile
                        _sync(path)
            _sync(self.path)

        try:
            await asyncio.to_thread(sync)
        except OSError as error:
            raise StorageError(f"cannot sync the files of {lance_name} in {self.path}: {error}") from error

    async def aclose(self) -> None:
        """Do nothing: the store keeps nothing open between calls."""


async def _acquire(lock: filelock.BaseFileLock, timeout_s: float) -> None:
    """Take a file lock without blocking the event loop: each attempt is one system call."""
    loop = asyncio.get_running_loop()
    deadline, (pause, longest) = loop.time() + timeout_s, _POLL_S
    while True:
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            if loop.time() > deadline:
                message = f"another process has held {lock.lock_file} for {timeout_s:.0f} s, and nothing was changed"
                raise StorageError(message) from None
        except OSError as error:
            raise StorageError(f"cannot lock {lock.lock_file}, and nothing was changed: {error}") from error
        else:
            return
        await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter, so that waiters do not collide
        pause = min(pause * 2, longest)


def _tag(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size


def _write(path: Path, content: bytes) -> None:
    try:
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:  # remove the incomplete file: the disk may be full
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _sync(path: Path) -> None:
    """Make the content of a file, or the entries of a folder, survive a power failure."""
    if os.name == "nt" and path.is_dir():  # Windows cannot sync folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
