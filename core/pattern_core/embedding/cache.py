"""A cache of vectors on disk, so that a text is not embedded again in the next run.

It may be deleted at any time, never makes a call fail, and holds hashes of texts instead of the texts.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from pattern_core.abc import Signature, Vector

__all__ = ["VectorCache"]

_LOG: Final = logging.getLogger("pattern_core")
_SCHEMA: Final = "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, used REAL, vector BLOB) WITHOUT ROWID"
_STALE_S: Final = 3600
"""The age, in seconds, from which the time of last use is updated; reads should seldom write."""
_CHUNK: Final = 500

T = TypeVar("T")


class VectorCache:
    """A cache of vectors, by the hash of signature, kind and text. Several processes may share one.

    Args:
        path: The file. It is created on first use, readable only by the user.
        max_bytes: The largest size of the file; beyond it, the least recently used vectors are removed.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._connection: sqlite3.Connection | None = None
        self._usable = True
        self._lock = asyncio.Lock()

    async def get(self, signature: Signature, kind: str, texts: Sequence[str]) -> dict[str, Vector]:
        """Look up vectors.

        Args:
            signature: The signature of the model.
            kind: ``document`` or ``query``; part of the key.
            texts: The texts.

        Returns:
            The vectors of the cached texts, float32 ``[signature.dimensions]``.
        """
        keys = {_key(signature, kind, text): text for text in texts}
        nothing: dict[bytes, bytes] = {}
        found = await self._call(lambda connection: _read(connection, list(keys)), nothing)
        size = signature.dimensions * np.dtype(np.float32).itemsize
        return {
            keys[key]: np.frombuffer(stored, dtype=np.float32) for key, stored in found.items() if len(stored) == size
        }

    async def put(self, signature: Signature, kind: str, vectors: Mapping[str, Vector]) -> None:
        """Store vectors.

        Args:
            signature: The signature of the model.
            kind: ``document`` or ``query``.
            vectors: The vector of each text.
        """
        now = time.time()
        rows = [
            (_key(signature, kind, text), now, np.asarray(vector, dtype=np.float32).tobytes())
            for text, vector in vectors.items()
        ]
        await self._call(lambda connection: self._write(connection, rows), None)

    async def aclose(self) -> None:
        """Close the file. A second call does nothing."""
        async with self._lock:
            self._usable = False
            connection, self._connection = self._connection, None
            if connection is not None:
                await asyncio.to_thread(connection.close)

    async def _call(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """Run work in a thread, one call at a time; if the file cannot be used, return the default."""
        async with self._lock:
            if not self._usable:
                return otherwise
            task = asyncio.ensure_future(asyncio.to_thread(self._with_connection, work))
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                with contextlib.suppress(Exception):  # the thread still uses the connection
                    await task
                raise
            except (sqlite3.Error, OSError) as error:
                if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                    return otherwise  # another process is writing; the next call tries again
                self._usable = False
                _LOG.warning("the vector cache %s cannot be used: %s", self._path, error)
                return otherwise

    def _with_connection(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return work(self._opened())
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            self._discard()  # not a database, or a damaged one
            return work(self._opened())

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        for suffix in ("-journal", ""):  # the log first: it must never come to be that of the next file
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(self._path, timeout=10, check_same_thread=False, isolation_level=None)
        try:
            # No write-ahead log: to begin one, SQLite does not wait for others who open the file at the same time.
            connection.execute("PRAGMA synchronous = OFF")  # what is lost is made again
            connection.execute(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection

    def _write(self, connection: sqlite3.Connection, rows: Iterable[tuple[bytes, float, bytes]]) -> None:
        with _transaction(connection):
            connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)
            pages, free, size = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
            if (pages - free) * size > self._max_bytes:
                connection.execute(
                    "DELETE FROM vectors WHERE key IN (SELECT key FROM vectors ORDER BY used, key "
                    "LIMIT (SELECT count(*) / 4 + 1 FROM vectors))"
                )


def _key(signature: Signature, kind: str, text: str) -> bytes:
    parts = (signature.to_json(), kind, text)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()


def _read(connection: sqlite3.Connection, keys: list[bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    stale = []
    now = time.time()
    for start in range(0, len(keys), _CHUNK):
        part = keys[start : start + _CHUNK]
        marks = ", ".join("?" * len(part))
        for key, used, vector in connection.execute(
            f"SELECT key, used, vector FROM vectors WHERE key IN ({marks})",  # noqa: S608 - only question marks
            part,
        ):
            found[key] = vector
            if now - used > _STALE_S:
                stale.append((now, key))
    if stale:
        with _transaction(connection):
            connection.executemany("UPDATE vectors SET used = ? WHERE key = ?", stale)
    return found


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
