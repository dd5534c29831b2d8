"""The hooks of the plugin. Importing it imports no engine."""

from __future__ import annotations

from pattern_core.abc import Storage, VectorStore
from pattern_core.errors import ConfigError
from pattern_core.hookspecs import StorageSpec, VectorSpec, hookimpl

from .options import StorageOptions, VectorOptions

__all__ = ["StorageOptions", "VectorOptions", "pattern_storage", "pattern_vectors"]


async def _open_storage(options: StorageOptions) -> Storage:
    from .storage import EmbeddedStorage

    return await EmbeddedStorage.open(None if options.memory else options.path, strict=options.strict_mode)


async def _open_vectors(options: VectorOptions, storage: Storage) -> VectorStore:
    from pattern_surreal import SurrealStorage
    from pattern_surreal.array_column import drop_array_columns
    from pattern_surreal.native import NativeIndex

    if options.index == "native":
        if not isinstance(storage, SurrealStorage):
            message = 'index = "native" needs SurrealDB as the storage. Remove it, or set database.type to a SurrealDB.'
            raise ConfigError(message, key="vectors.index")
        return NativeIndex(storage, efc=options.efc, m=options.m, ef=options.ef)
    from pattern_core.toolkit import ExactIndex

    if isinstance(storage, SurrealStorage):
        await drop_array_columns(storage)
    return ExactIndex(storage)


@hookimpl
def pattern_storage() -> StorageSpec:
    """Describe the storage."""
    return StorageSpec(
        options=StorageOptions,
        open=_open_storage,
        vectors="surreal-embedded",
        summary="SurrealDB in this process, in a folder",
    )


@hookimpl
def pattern_vectors() -> VectorSpec:
    """Describe the vector search."""
    return VectorSpec(
        options=VectorOptions,
        open=_open_vectors,
        approximate=True,  # the native index
        summary="exact search in memory, or SurrealDB's HNSW index",
    )
