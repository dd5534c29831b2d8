"""What the plugin offers. Importing this imports no driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import SplitResult, urlsplit

import attrs

from pattern_core.abc import Storage, VectorStore
from pattern_core.hookspecs import StorageSpec, VectorSpec, hookimpl
from pattern_core.toolkit import Secret

__all__ = ["StorageOptions", "VectorOptions", "pattern_storage", "pattern_vectors"]

_SCHEMES: Final = {"ws": False, "wss": True, "http": False, "https": True}
_UNNAMEABLE: Final = frozenset("`\\⟨⟩\0\r\n")
_MIB: Final = 1 << 20
_DAY: Final = 86_400


def _address(url: str) -> SplitResult:
    """Take a URL apart; raise `ValueError`, which never shows it, where it cannot be used."""
    try:
        address = urlsplit(url)
        known = address.scheme in _SCHEMES and bool(address.hostname) and address.port != 0
    except ValueError:  # it holds another port than a number
        known = False
        address = SplitResult("", "", "", "", "")
    if address.username is not None or address.password is not None or "@" in address.netloc:
        raise ValueError("url: a user name or a password in it would be seen; they are options of their own")
    if address.query or address.fragment:
        raise ValueError("url: it ends behind the path; a token is an option of its own")
    if not known or address.path not in {"", "/", "/rpc"}:
        raise ValueError("url: expected ws://, wss://, http:// or https://, a host and a port, as ws://localhost:8000")
    return address


def _check_url(_: Any, __: attrs.Attribute[str], value: str) -> None:
    _address(value)


def _check_name(_: Any, field: attrs.Attribute[str], value: str) -> None:
    if not value or _UNNAMEABLE & set(value):
        raise ValueError(f"{field.name}: expected a name without backticks, backslashes and line breaks")


def _check_seconds(_: Any, field: attrs.Attribute[float], value: float) -> None:
    if not 0 < value <= _DAY:
        raise ValueError(f"{field.name}: expected seconds, more than 0 and at most {_DAY:,}")


@attrs.frozen(kw_only=True)
class StorageOptions:
    """The options under ``[database]``.

    Attributes:
        url: The server: ``ws://`` or ``wss://``, a host and a port; ``http://`` and ``https://`` make each call a request.
        namespace: The namespace. It is made where it is not there, if the user may do so.
        database: The database in it. It is made as well.
        username: The user who signs in, a system user of the server.
        password: The user's password.
        level: Where the user is defined: ``root``, ``namespace`` or ``database``.
        access: The access method that a record user signs in with, and ``credentials`` are for.
        credentials: What the access method asks for, by name.
        token: A token to present instead of signing in.
        refresh_token: A token that `access` gives another token for, when that has expired.
        ca_file: The certificates to trust, where the system's are not enough; PEM.
        client_certificate: The certificate that this client shows to the server; PEM.
        client_key: The key of the client's certificate, where it is in a file of its own; PEM.
        client_key_password: The password of that key.
        connect_timeout: How long the server is waited for when the database is opened, in seconds.
        timeout: How long a call takes at most, in seconds, with all that it takes to reach the server again.
        idle_timeout: How long a connection may be silent, in seconds, before it is taken for broken; the server is asked
            for a sign of life in time.
        pool_size: How many connections there are at most.
        max_frame: How large a request may be, in bytes; the server has a limit of its own, 16 MiB as it comes.
        max_answer: How large an answer may be, in bytes.
    """

    url: str = attrs.field(default="ws://localhost:8000", validator=_check_url)
    namespace: str = attrs.field(default="pattern", validator=_check_name)
    database: str = attrs.field(default="main", validator=_check_name)
    username: str | None = None
    password: Secret | None = attrs.field(default=None, repr=False)
    level: Literal["root", "namespace", "database"] = "root"
    access: str | None = None
    credentials: dict[str, Secret] = attrs.field(factory=dict, repr=False)
    token: Secret | None = attrs.field(default=None, repr=False)
    refresh_token: Secret | None = attrs.field(default=None, repr=False)
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    client_key_password: Secret | None = attrs.field(default=None, repr=False)
    connect_timeout: float = attrs.field(default=10.0, validator=_check_seconds)
    timeout: float = attrs.field(default=30.0, validator=_check_seconds)
    idle_timeout: float = attrs.field(default=30.0, validator=_check_seconds)
    pool_size: int = attrs.field(default=4, validator=attrs.validators.in_(range(1, 65)))
    max_frame: int = attrs.field(default=16 * _MIB, validator=attrs.validators.in_(range(1024, 1 << 31)))
    max_answer: int = attrs.field(default=128 * _MIB, validator=attrs.validators.in_(range(1024, 1 << 31)))

    def __attrs_post_init__(self) -> None:
        if (self.username is None) != (self.password is None):
            raise ValueError("username, password: each needs the other")
        if self.username is not None and self.access is not None:
            raise ValueError("username, access: a user signs in either as a system user or as a record user")
        if self.access is None and (self.credentials or self.refresh_token):
            raise ValueError("credentials, refresh_token: only an access method has a use for them")
        secure = _SCHEMES[_address(self.url).scheme]
        files = (self.ca_file, self.client_certificate, self.client_key, self.client_key_password)
        if not secure and any(each is not None for each in files):
            raise ValueError("ca_file, client_certificate, client_key: only wss:// and https:// have a use for them")
        if self.client_certificate is None and (self.client_key or self.client_key_password):
            raise ValueError("client_key: it needs the client_certificate that it belongs to")


@attrs.frozen(kw_only=True)
class VectorOptions:
    """The options under ``[vectors]``.

    Attributes:
        index: ``in-process`` compares in this process, exactly; the others search on the server. ``exact`` compares all
            vectors of an agent; ``native`` asks the server's HNSW; ``auto`` does the first for agents with few
            vectors, and the second for those with many.
        exact_rows: Up to how many vectors of an agent ``auto`` compares.
        efc: How many candidates HNSW weighs when it adds a vector.
        m: How many neighbours HNSW links a vector to.
        ef: How many candidates HNSW weighs in a search, at least.
        check_every: One in so many answers of HNSW is compared with the exact one.
        least_recall: The share of the true neighbours that HNSW has to find on average; else it is used no more.
    """

    index: Literal["in-process", "exact", "native", "auto"] = "in-process"
    exact_rows: int = attrs.field(default=2000, validator=attrs.validators.ge(1))
    efc: int = attrs.field(default=150, validator=attrs.validators.in_(range(1, 4097)))
    m: int = attrs.field(default=12, validator=attrs.validators.in_(range(2, 128)))
    ef: int = attrs.field(default=150, validator=attrs.validators.in_(range(1, 4097)))
    check_every: int = attrs.field(default=100, validator=attrs.validators.ge(1))
    least_recall: float = attrs.field(
        default=0.9, validator=attrs.validators.and_(attrs.validators.gt(0), attrs.validators.le(1))
    )


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
        summary="a SurrealDB server, for several processes and machines at once",
    )


@hookimpl
def pattern_vectors() -> VectorSpec:
    """Describe the vector search over a server."""
    return VectorSpec(
        options=VectorOptions,
        open=_open_vectors,
        approximate=True,  # where HNSW is asked
        summary="exact search in this process, or vector search on the server",
    )
