"""Open the storage and the vector search that options describe."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pattern_core.abc import Storage, VectorStore
from pattern_core.errors import ConfigError

from .ann_index import AnnSettings
from .column_index import ColumnIndex
from .database import LanceDatabase
from .external_index import ExternalIndex
from .knn import SearchEffort
from .local_store import LocalStore
from .maintenance import MaintenancePolicy
from .options import LocationOptions, StorageOptions, VectorOptions
from .storage import LanceStorage
from .store import Store

__all__ = ["open_storage", "open_store", "open_vectors"]

_DEFAULT_M: Final = 20
_DEFAULT_EF: Final = 300


async def open_store(path: Path, options: LocationOptions) -> Store:
    """Open the store that options describe; raise `StorageError` if it cannot be used.

    Args:
        path: The folder, if the options have no ``uri``.
        options: The options.
    """
    if options.uri is None:
        return await LocalStore.open(path)
    from .object_store import ObjectStore  # a local database does not need the client

    secrets = {"aws_secret_access_key": options.secret_access_key, "aws_session_token": options.session_token}
    given = {
        "aws_endpoint": options.endpoint,
        "aws_region": options.region,
        "aws_access_key_id": options.access_key_id,
        **{name: secret.reveal() if secret else None for name, secret in secrets.items()},
        "allow_http": "true" if options.allow_http else None,
    }
    storage_options = {name: value for name, value in given.items() if value is not None}
    return ObjectStore(options.uri, storage_options, lease=options.lease_seconds)


async def open_storage(options: StorageOptions) -> LanceStorage:
    """Open the storage that options describe; raise `StorageError` if it cannot be used.

    Args:
        options: The options.
    """
    store = await open_store(options.path, options)
    return await LanceStorage.open(store, MaintenancePolicy(rows=options.log_rows))


async def open_vectors(options: VectorOptions, storage: Storage) -> VectorStore:
    """Open the vector search that options describe.

    Args:
        options: The options.
        storage: The open storage.

    Raises:
        ConfigError: The storage is not LanceDB, and the options have neither ``path`` nor ``uri``.
        StorageError: The location of the copies cannot be used.
    """
    settings = AnnSettings(
        kind=options.index,
        exact_rows=options.exact_rows,
        partitions=options.index_partitions,
        m=options.m or _DEFAULT_M,
        ef_construction=options.ef_construction or _DEFAULT_EF,
        effort=SearchEffort(probes=options.probes, refine=options.refine, ef=options.ef or _DEFAULT_EF),
    )
    if options.path is None and options.uri is None:
        if isinstance(storage, LanceStorage):
            return ColumnIndex(storage, settings)
        message = "copies of another storage's vectors need a location: set path (a folder) or uri (s3://…)"
        raise ConfigError(message, key="vectors.path")
    store = await open_store(options.path or Path(), options)
    return ExternalIndex(await LanceDatabase.open(store), storage, settings)
