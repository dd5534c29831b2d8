"""The options of the plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import SplitResult, urlsplit

import attrs

from pattern_core.toolkit import Secret

__all__ = ["StorageOptions", "VectorOptions"]

_SCHEMES: Final = {"ws": False, "wss": True, "http": False, "https": True}
_UNNAMEABLE: Final = frozenset("`\\⟨⟩\0\r\n")
_MIB: Final = 1 << 20
_DAY: Final = 86_400


def _address(url: str) -> SplitResult:
    """Parse a URL; raise `ValueError`, which never shows it, if it cannot be used."""
    try:
        address = urlsplit(url)
        known = address.scheme in _SCHEMES and bool(address.hostname) and address.port != 0
    except ValueError:  # the port is not a number
        known = False
        address = SplitResult("", "", "", "", "")
    if address.username is not None or address.password is not None or "@" in address.netloc:
        raise ValueError(
            "url: must not contain a user name or password, which would be shown. Set username and password instead"
        )
    if address.query or address.fragment:
        raise ValueError("url: must not have a query or fragment. For a token, set token")
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
        url: The server: ``ws://`` or ``wss://``, host and port; with ``http://`` or ``https://``, each call is a request.
        namespace: The namespace. A missing one is created, if the user has the right.
        database: The database in it. A missing one is created as well.
        username: The system user to sign in as.
        password: The user's password.
        level: The level on which the user is defined: ``root``, ``namespace`` or ``database``.
        access: The access method for a record user to sign in with.
        credentials: The credentials for the access method, by name.
        token: A token to use instead of signing in.
        refresh_token: A token that ``access`` exchanges for another one when ``token`` has expired.
        ca_file: Certificates to trust besides the system's; PEM.
        client_certificate: The certificate of this client; PEM.
        client_key: The key of the client's certificate, if it is in another file; PEM.
        client_key_password: The password of that key.
        connect_timeout: How long opening waits for the server, in seconds.
        timeout: The time limit of a call, in seconds, including reconnection.
        idle_timeout: After how many seconds of silence a connection counts as broken; pings prevent it.
        pool_size: The most connections.
        max_frame: The largest request, in bytes. The server has a limit of its own, 16 MiB by default.
        max_answer: The largest answer, in bytes.
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
            raise ValueError("username, password: set both, or neither")
        if self.username is not None and self.access is not None:
            raise ValueError("username, access: set username for a system user, or access for a record user, not both")
        if self.access is None and (self.credentials or self.refresh_token):
            raise ValueError("credentials, refresh_token: only used with access. Set access, or remove them")
        secure = _SCHEMES[_address(self.url).scheme]
        files = (self.ca_file, self.client_certificate, self.client_key, self.client_key_password)
        if not secure and any(each is not None for each in files):
            raise ValueError(
                "ca_file, client_certificate, client_key: only used with wss:// and https://. Change url, or remove them"
            )
        if self.client_certificate is None and (self.client_key or self.client_key_password):
            raise ValueError("client_key: only used with client_certificate. Set it, or remove client_key")


@attrs.frozen(kw_only=True)
class VectorOptions:
    """The options under ``[vectors]``.

    Attributes:
        index: ``in-process`` searches exactly, in this process. The others search on the server: ``exact`` compares all
            vectors of an agent, ``native`` uses an HNSW index, and ``auto`` compares few vectors and uses HNSW for many.
        exact_rows: The most vectors of an agent that ``auto`` compares.
        efc: How many candidates HNSW considers when it adds a vector.
        m: How many neighbors HNSW links a vector to.
        ef: The fewest candidates that HNSW considers in a search.
        check_every: One of so many answers of HNSW is compared with the exact one.
        least_recall: The average recall below which HNSW is no longer used.
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
