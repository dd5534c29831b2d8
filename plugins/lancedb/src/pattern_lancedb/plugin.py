"""What the plugin offers. Importing this imports no engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs

from pattern_core.abc import Storage, VectorStore
from pattern_core.hookspecs import StorageSpec, VectorSpec, hookimpl
from pattern_core.toolkit import Secret

if TYPE_CHECKING:
    from .place import Place

__all__ = ["PlaceOptions", "StorageOptions", "VectorOptions", "pattern_storage", "pattern_vectors", "place_of"]


def _from(least: int) -> Callable[[Any, attrs.Attribute[int], int], None]:
    return attrs.validators.and_(attrs.validators.ge(least), attrs.validators.le(1 << 30))


@attrs.frozen(kw_only=True)
class PlaceOptions:
    """Where a Lance database stands.

    Attributes:
        uri: Its prefix in a bucket, as in ``s3://bucket/prefix``, where it stands in an object store; ``path`` does not
            count then.
        endpoint: The object store's URL, where it is not Amazon's.
        region: The bucket's region.
        access_key_id: Who asks. Left out with the next two, the usual places are looked up (environment, profile, role).
        secret_access_key: The secret that goes with it.
        session_token: The token that goes with both, where they are temporary.
        allow_http: Whether the endpoint may be reached without encryption.
        lease_seconds: How long a writer to a bucket is waited for that has died or stalled, before others take over.
    """

    uri: str | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.matches_re(r"\w+://.+"))
    )
    endpoint: str | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: Secret | None = None
    session_token: Secret | None = None
    allow_http: bool = False
    lease_seconds: int = attrs.field(default=20, validator=attrs.validators.in_(range(1, 3601)))

    def __attrs_post_init__(self) -> None:
        ways = [field.name for field in attrs.fields(PlaceOptions) if getattr(self, field.name) != field.default]
        if ways and self.uri is None:
            raise ValueError(f"{', '.join(ways)}: only a uri has a use for that")


@attrs.frozen(kw_only=True)
class StorageOptions(PlaceOptions):
    """The options under ``[database]``.

    Attributes:
        path: The database's folder, where it stands on a disk.
        log_rows: How many rows gather in the log before they are moved into their tables.
    """

    path: Path = Path("./pattern.lance")
    log_rows: int = attrs.field(default=256, validator=attrs.validators.in_(range(1, 4097)))


@attrs.frozen(kw_only=True)
class VectorOptions(PlaceOptions):
    """The options under ``[vectors]``.

    Over LanceDB as the storage, the vectors are searched where they are. Over any other storage, or where ``path`` or
    ``uri`` is given, copies of them are kept in a place of their own.

    Attributes:
        path: The folder of the copies, where they stand on a disk.
        index: What chooses among many rows: ``ivf-sq`` (bytes for floats, all of them looked at), ``ivf-hnsw-sq`` (graphs
            over those; slow to make) or ``ivf-flat``.
        exact_rows: Among up to so many rows, in the partitions of a search, all are compared, and the answer is exact.
        index_partitions: How many parts the index has; where it is left out, LanceDB decides.
        probes: How many parts a search looks into; where it is left out, all.
        refine: How many times as many candidates as wanted are compared by their true vectors.
        ef: How many candidates ``ivf-hnsw-sq`` weighs in a search, at least; 300 where it is left out.
        m: How many neighbours ``ivf-hnsw-sq`` links a vector to; 20 where it is left out.
        ef_construction: How many candidates ``ivf-hnsw-sq`` weighs when it adds a vector; 300 where it is left out.
    """

    path: Path | None = None
    index: Literal["ivf-sq", "ivf-hnsw-sq", "ivf-flat"] = "ivf-sq"
    exact_rows: int = attrs.field(default=2000, validator=_from(0))
    index_partitions: int | None = attrs.field(default=None, validator=attrs.validators.optional(_from(1)))
    probes: int | None = attrs.field(default=None, validator=attrs.validators.optional(_from(1)))
    refine: int = attrs.field(default=10, validator=_from(1))
    ef: int | None = attrs.field(default=None, validator=attrs.validators.optional(_from(1)))
    m: int | None = attrs.field(default=None, validator=attrs.validators.optional(_from(2)))
    ef_construction: int | None = attrs.field(default=None, validator=attrs.validators.optional(_from(1)))

    def __attrs_post_init__(self) -> None:
        PlaceOptions.__attrs_post_init__(self)  # a class with slots is another one by then than `super` knows
        graph = [name for name in ("ef", "m", "ef_construction") if getattr(self, name) is not None]
        if graph and self.index != "ivf-hnsw-sq":
            raise ValueError(f'{", ".join(graph)}: only index = "ivf-hnsw-sq" has a use for that')


async def place_of(path: Path, options: PlaceOptions) -> Place:
    """Return the place that options tell of; raise `StorageError` where it cannot be used.

    Args:
        path: The folder, if they name no bucket.
        options: The options.
    """
    if options.uri is None:
        from .place import Folder

        return await Folder.open(path)
    from .place_remote import RemotePlace

    secrets = {"aws_secret_access_key": options.secret_access_key, "aws_session_token": options.session_token}
    given = {
        "aws_endpoint": options.endpoint,
        "aws_region": options.region,
        "aws_access_key_id": options.access_key_id,
        **{name: secret.reveal() if secret else None for name, secret in secrets.items()},
        "allow_http": "true" if options.allow_http else None,
    }
    storage_options = {name: value for name, value in given.items() if value is not None}
    return RemotePlace(options.uri, storage_options, lease=options.lease_seconds)


async def _open_storage(options: StorageOptions) -> Storage:
    from .storage import LanceStorage
    from .upkeep import Policy

    return await LanceStorage.open(await place_of(options.path, options), Policy(rows=options.log_rows))


async def _open_vectors(options: VectorOptions, storage: Storage) -> VectorStore:
    from .vectors import open_vectors

    return await open_vectors(options, storage)


@hookimpl
def pattern_storage() -> StorageSpec:
    """Describe the storage."""
    return StorageSpec(
        options=StorageOptions,
        open=_open_storage,
        vectors="lancedb",
        processes=True,
        summary="LanceDB: columns in a folder or a bucket, for several processes at once",
    )


@hookimpl
def pattern_vectors() -> VectorSpec:
    """Describe the vector search."""
    return VectorSpec(
        options=VectorOptions,
        open=_open_vectors,
        approximate=True,
        summary="LanceDB: the vectors' own column, or a database beside another storage",
    )
