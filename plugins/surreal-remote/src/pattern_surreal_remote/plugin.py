"""The hooks of the plugin. Importing it imports no driver."""

from __future__ import annotations

from pattern_core.abc import Storage, VectorStore
from pattern_core.hookspecs import StorageSpec, VectorSpec, hookimpl

from .options import StorageOptions, VectorOptions

__all__ = ["StorageOptions", "VectorOptions", "pattern_storage", "pattern_vectors"]


async def _open_storage(options: StorageOptions) -> Storage:
    from .opening import open_storage

    return await open_storage(options)


async def _open_vectors(options: VectorOptions, storage: Storage) -> VectorStore:
    from .vectors import open_vectors

    return await open_vectors(options, storage)


@hookimpl
def pattern_storage() -> StorageSpec:
    """Describe the storage."""
    return StorageSpec(
        options=StorageOptions,
        open=_open_storage,
        vectors="surreal-remote",
        processes=True,
        summary="a SurrealDB server, for several processes and machines",
    )


@hookimpl
def pattern_vectors() -> VectorSpec:
    """Describe the vector search."""
    return VectorSpec(
        options=VectorOptions,
        open=_open_vectors,
        approximate=True,  # if HNSW is used
        summary="exact search in memory, or vector search on the server",
    )
