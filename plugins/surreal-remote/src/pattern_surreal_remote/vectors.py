"""Opens the vector search that options describe."""

from __future__ import annotations

from typing import Final

from pattern_core.abc import Storage, VectorStore
from pattern_core.errors import ConfigError
from pattern_core.schema import Table
from pattern_core.toolkit import ExactIndex
from pattern_surreal.array_column import drop_array_column
from pattern_surreal.knn import BROKEN
from pattern_surreal.native import NativeIndex

from .options import VectorOptions
from .storage import RemoteStorage

__all__ = ["InProcessIndex", "open_vectors"]

_FIXED_IN: Final = "3.0.2"


class InProcessIndex(ExactIndex):
    """The exact index in this process.

    Other processes may search the same database on the server. So the array column stays, and is written, until the index
    is dropped here.

    Args:
        storage: The storage.
    """

    def __init__(self, storage: RemoteStorage) -> None:
        super().__init__(storage)
        self._remote = storage

    async def drop(self, table: Table) -> None:
        await super().drop(table)
        await drop_array_column(self._remote, table.name, wait_for=table)


async def open_vectors(options: VectorOptions, storage: Storage) -> VectorStore:
    """Open a vector search.

    Args:
        options: The options.
        storage: The open storage.

    Raises:
        ConfigError: The search is to run on the server, and the storage is not on one, or its version omits records.
    """
    if options.index == "in-process":
        return InProcessIndex(storage) if isinstance(storage, RemoteStorage) else ExactIndex(storage)
    if not isinstance(storage, RemoteStorage):
        message = f'index = "{options.index}" searches on a SurrealDB server, so the storage has to be surreal-remote. Change one of them.'
        raise ConfigError(message, key="vectors.index")
    if storage.version in BROKEN:
        version = ".".join(map(str, storage.version))
        message = (
            f'index = "{options.index}": the vector search of SurrealDB {version} omits records (surrealdb/surrealdb#6994). '
            f'Update the server to {_FIXED_IN} or later, or use index = "in-process".'
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
