"""The embedded engine: the only module of this plugin that uses the SDK's connection.

The SDK encodes and decodes CBOR in Python: 20,000 rows take 1.5 seconds. So the engine has an event loop in a thread of
its own, and does not block the caller's.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
import weakref
from collections.abc import Coroutine, Mapping
from typing import Any, Final, TypeVar

from pattern_core.errors import ClosedError, StorageError
from pattern_surreal import StatementError, read_answer
from pattern_surreal.connection import closed

__all__ = ["EmbeddedEngine"]

T = TypeVar("T")

_NAMESPACE: Final = "pattern"
_DATABASE: Final = "main"
_SETTLE: Final = 0.02
"""The pause between the end of the last call and the end of the thread, in seconds.

The engine's threads hold Python objects for a moment after a call has returned. If the process ends in that moment, the
engine aborts it. This happened to 6 of 25 processes that used only the SDK, and closed it.
"""


class EmbeddedEngine:
    """An open database of the embedded engine.

    Attributes:
        engine: The engine's name and version.
    """

    _open: Final[weakref.WeakSet[EmbeddedEngine]] = weakref.WeakSet()

    def __init__(self, url: str) -> None:
        self.engine = "SurrealDB (embedded)"
        self._url = url
        self._database: Any = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="pattern-surrealdb", daemon=True)
        self._thread.start()
        EmbeddedEngine._open.add(self)

    @classmethod
    async def open(cls, url: str, *, strict: bool = False) -> EmbeddedEngine:
        """Open a database, or create it.

        Args:
            url: ``surrealkv://`` and an absolute path.
            strict: Whether the engine rejects writes to undefined tables.

        Raises:
            StorageError: The engine cannot open it.
        """
        engine = cls(url)
        try:
            await engine._call(engine._connect(strict=strict))
        except BaseException:
            await engine.aclose()
            raise
        return engine

    async def query(self, text: str, variables: Mapping[str, Any]) -> list[Any]:
        """Run statements; see `pattern_surreal.Connection`. A cancelled call may still take effect."""
        return await self._call(self._query(text, dict(variables)))

    async def aclose(self) -> None:
        """Flush and close the database, and release its files. A second call does nothing."""
        if self._thread.is_alive():
            await asyncio.to_thread(self._stop)

    async def _call(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed() or not self._thread.is_alive():
            work.close()
            raise closed()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    async def _connect(self, *, strict: bool) -> None:
        from surrealdb import AsyncSurreal  # importing takes half a second

        try:
            database: Any = AsyncSurreal(self._url)
            self._database = database
            await database.connect()
            strictness = " STRICT" if strict else ""
            read_answer(
                await database.query_raw(
                    f"DEFINE NAMESPACE IF NOT EXISTS {_NAMESPACE}; USE NS {_NAMESPACE};"
                    f"DEFINE DATABASE OVERWRITE {_DATABASE}{strictness};"
                )
            )
            await database.use(_NAMESPACE, _DATABASE)
            self.engine = f"{await database.version()} (embedded)".replace("surrealdb-", "SurrealDB ")
        except StatementError:
            raise
        except Exception as error:  # the engine's errors have no common class
            raise StorageError(f"the embedded engine cannot open {self._url}: {error}") from error

    async def _query(self, text: str, variables: dict[str, Any]) -> list[Any]:
        database = self._database
        if database is None:
            raise closed()
        try:
            answer = await database.query_raw(text, variables)
        except (TypeError, ValueError, RecursionError) as error:  # nothing has reached the engine
            raise StorageError(f"a value cannot be sent to SurrealDB: {error}. Nothing was written.") from error
        except Exception as error:
            if self._database is None:
                raise ClosedError("the database was closed while the statement ran") from error
            message = f"the embedded engine failed: {error}. The statement may have taken effect."
            raise StorageError(message) from error
        return read_answer(answer)

    def _stop(self) -> None:
        """Stop the thread. Called from another one."""
        try:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        finally:
            time.sleep(_SETTLE)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            EmbeddedEngine._open.discard(self)

    async def _close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            await database.close()


@atexit.register
def _stop_all() -> None:
    """Stop the open engines: the engine aborts a process that ends while its threads hold Python objects."""
    for engine in list(EmbeddedEngine._open):  # noqa: SLF001 - its own module
        engine._stop()  # noqa: SLF001
