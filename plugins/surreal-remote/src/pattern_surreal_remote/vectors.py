"""From the options to a vector search over a database on a server."""

from __future__ import annotations

from typing import Final

from pattern_core.abc import Storage, VectorStore
from pattern_core.errors import ConfigError
from pattern_core.schema import Table
from pattern_core.toolkit import ExactIndex
from pattern_surreal.derived import drop_derived
from pattern_surreal.knn import BROKEN
from pattern_surreal.native import NativeIndex

from .plugin import VectorOptions
from .storage import RemoteStorage

__all__ = ["InProcessIndex", "open_vectors"]

_MENDED: Final = "3.0.2"


class InProcessIndex(ExactIndex):
    """The exact index in this process.

    Others may search the same database on the server, so what they need stays, and is written, until somebody makes the
    index anew here.

    Args:
        storage: Where the vectors are.
    """

    def __init__(self, storage: RemoteStorage) -> None:
        super().__init__(storage)
        self._remote = storage

    async def drop(self, table: Table) -> None:
        await super().drop(table)
        await drop_derived(self._remote, table.name, fence=table)


async def open_vectors(options: VectorOptions, storage: Storage) -> VectorStore:
    """Open a vector search.

    Args:
        options: The options.
        storage: An open storage.

    Raises:
        ConfigError: It is to be done by a server, and the storage is not on one, or on one whose answers are wrong.
    """
    if options.index == "in-process":
        return InProcessIndex(storage) if isinstance(storage, RemoteStorage) else ExactIndex(storage)
    if not isinstance(storage, RemoteStorage):
        message = f'index = "{options.index}" searches on a SurrealDB server, so that has to be the storage as well'
        raise ConfigError(message, key="vectors.index")
    if storage.version in BROKEN:
        version = ".".join(map(str, storage.version))
        message = (
            f'index = "{options.index}": the vector search of SurrealDB {version} leaves out records (surrealdb/surrealdb#6994). '
            f'Move the server to {_MENDED} or later, or use index = "in-process".'
        )
        raise ConfigError(message, key="vectors.index")
    exact_rows = {"exact": None, "auto": options.exact_rows, "native": 0}[options.index]
    return NativeIndex(
        storage,
        efc=options.efc,
        m=options.m,
        ef=options.ef,
        exact_rows=exact_rows,
        check_every=options.check_every,
        least_recall=options.least_recall,
    )
