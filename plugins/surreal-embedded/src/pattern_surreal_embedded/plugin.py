"""What the plugin offers. Importing this imports no engine."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import attrs

from pattern_core.abc import Storage, VectorStore
from pattern_core.errors import ConfigError
from pattern_core.hookspecs import StorageSpec, VectorSpec, hookimpl

__all__ = ["StorageOptions", "VectorOptions", "pattern_storage", "pattern_vectors"]


@attrs.frozen(kw_only=True)
class StorageOptions:
    """The options under ``[database]``.

    Attributes:
        path: The database's folder.
        strict_mode: Whether the engine refuses to make a table that is not defined.
        memory: Whether to keep nothing: the database stands among the temporary files, whatever ``path`` says, and is
            removed when it is closed. For tests. (The engine's own ``mem://`` loses a record that one transaction
            deletes and writes again.)
    """

    path: Path = Path("./pattern.db")
    strict_mode: bool = False
    memory: bool = False


@attrs.frozen(kw_only=True)
class VectorOptions:
    """The options under ``[vectors]``.

    Attributes:
        index: ``in-process`` compares in this process, exactly; ``native`` is the engine's HNSW.
        efc: How many candidates ``native`` weighs when it adds a vector.
        m: How many neighbours ``native`` links a vector to.
        ef: How many candidates ``native`` weighs in a search, at least.
    """

    index: Literal["in-process", "native"] = "in-process"
    efc: int = attrs.field(default=150, validator=attrs.validators.in_(range(1, 4097)))
    m: int = attrs.field(default=12, validator=attrs.validators.in_(range(2, 128)))
    ef: int = attrs.field(default=150, validator=attrs.validators.in_(range(1, 4097)))


async def _open_storage(options: StorageOptions) -> Storage:
    from .storage import EmbeddedStorage

    return await EmbeddedStorage.open(None if options.memory else options.path, strict=options.strict_mode)


async def _open_vectors(options: VectorOptions, storage: Storage) -> VectorStore:
    from pattern_surreal import SurrealStorage
    from pattern_surreal.derived import drop_native_columns
    from pattern_surreal.native import NativeIndex

    if options.index == "native":
        if not isinstance(storage, SurrealStorage):
            message = 'index = "native" searches inside SurrealDB, so SurrealDB has to be the storage as well'
            raise ConfigError(message, key="vectors.index")
        return NativeIndex(storage, efc=options.efc, m=options.m, ef=options.ef)
    from pattern_core.toolkit import ExactIndex

    if isinstance(storage, SurrealStorage):
        await drop_native_columns(storage)
    return ExactIndex(storage)


@hookimpl
def pattern_storage() -> StorageSpec:
    """Describe the embedded engine."""
    return StorageSpec(
        options=StorageOptions,
        open=_open_storage,
        vectors="surreal-embedded",
        summary="SurrealDB inside this process, in a folder of its own",
    )


@hookimpl
def pattern_vectors() -> VectorSpec:
    """Describe the vector search over the embedded engine."""
    return VectorSpec(
        options=VectorOptions,
        open=_open_vectors,
        approximate=True,  # the native index
        summary="exact search in this process, or SurrealDB's own HNSW",
    )
