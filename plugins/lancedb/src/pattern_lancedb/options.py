"""The options of the plugin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import attrs
from attrs.validators import and_, ge, in_, le, matches_re, optional

from pattern_core.toolkit import Secret

__all__ = ["LocationOptions", "StorageOptions", "VectorOptions"]


def _at_least(minimum: int) -> Callable[[Any, attrs.Attribute[int], int], None]:
    return and_(ge(minimum), le(1 << 30))


@attrs.frozen(kw_only=True)
class LocationOptions:
    """The location of a Lance database.

    Attributes:
        uri: The prefix in a bucket, as in ``s3://bucket/prefix``, for a database in an object store. It replaces ``path``.
        endpoint: The URL of the object store; None for Amazon S3.
        region: The region of the bucket.
        access_key_id: The access key. Without the next two, the client looks them up (environment, profile, role).
        secret_access_key: The secret of the access key.
        session_token: The session token of temporary credentials.
        allow_http: Whether an endpoint without encryption is allowed.
        lease_seconds: After how many seconds other writers take over from a writer that has died or stalled.
    """

    uri: str | None = attrs.field(default=None, validator=optional(matches_re(r"\w+://.+")))
    endpoint: str | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: Secret | None = None
    session_token: Secret | None = None
    allow_http: bool = False
    lease_seconds: int = attrs.field(default=20, validator=in_(range(1, 3601)))

    def __attrs_post_init__(self) -> None:
        given = [field.name for field in attrs.fields(LocationOptions) if getattr(self, field.name) != field.default]
        if given and self.uri is None:
            raise ValueError(f"{', '.join(given)}: only used with uri. Set uri, or remove the option")


@attrs.frozen(kw_only=True)
class StorageOptions(LocationOptions):
    """The options under ``[database]``.

    Attributes:
        path: The folder of the database.
        log_rows: How many rows the write-ahead log collects before maintenance moves them into their tables.
    """

    path: Path = Path("./pattern.lance")
    log_rows: int = attrs.field(default=256, validator=in_(range(1, 4097)))


@attrs.frozen(kw_only=True)
class VectorOptions(LocationOptions):
    """The options under ``[vectors]``.

    If the storage is LanceDB, the search uses the vectors in the storage. Over any other storage, and if ``path`` or
    ``uri`` is given, it keeps copies of them in a database of their own.

    Attributes:
        path: The folder of the copies.
        index: The approximate index: ``ivf-sq`` (a byte for each float, all of them compared), ``ivf-hnsw-sq`` (graphs
            over those; slow to build) or ``ivf-flat`` (floats).
        exact_rows: The most rows, in the partitions of a search, that are all compared, so that the result is exact.
        index_partitions: The number of partitions of the index; None lets LanceDB decide.
        probes: The number of index partitions that a search reads; None for all.
        refine: The over-fetch: candidates per wanted match that are compared by their full vectors.
        ef: The fewest candidates that ``ivf-hnsw-sq`` considers in a search; None for 300.
        m: The neighbors that ``ivf-hnsw-sq`` links a vector to; None for 20.
        ef_construction: The candidates that ``ivf-hnsw-sq`` considers when it adds a vector; None for 300.
    """

    path: Path | None = None
    index: Literal["ivf-sq", "ivf-hnsw-sq", "ivf-flat"] = "ivf-sq"
    exact_rows: int = attrs.field(default=2000, validator=_at_least(0))
    index_partitions: int | None = attrs.field(default=None, validator=optional(_at_least(1)))
    probes: int | None = attrs.field(default=None, validator=optional(_at_least(1)))
    refine: int = attrs.field(default=10, validator=_at_least(1))
    ef: int | None = attrs.field(default=None, validator=optional(_at_least(1)))
    m: int | None = attrs.field(default=None, validator=optional(_at_least(2)))
    ef_construction: int | None = attrs.field(default=None, validator=optional(_at_least(1)))

    def __attrs_post_init__(self) -> None:
        LocationOptions.__attrs_post_init__(self)  # `super()` fails here: attrs recreates a class that has slots
        given = [name for name in ("ef", "m", "ef_construction") if getattr(self, name) is not None]
        if given and self.index != "ivf-hnsw-sq":
            raise ValueError(f'{", ".join(given)}: only used with index = "ivf-hnsw-sq". Set it, or remove the option')
