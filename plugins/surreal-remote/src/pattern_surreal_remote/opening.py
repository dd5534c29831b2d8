"""Opens the storage that options describe."""

from __future__ import annotations

import ssl
from urllib.parse import urlsplit

from pattern_core.abc import Storage
from pattern_surreal.array_column import adopt_array_columns

from .account import Account
from .connection import Open, RemoteConnection
from .options import StorageOptions
from .protocol import Channel
from .storage import RemoteStorage
from .tls import tls_context

__all__ = ["open_storage"]


async def open_storage(options: StorageOptions) -> Storage:
    """Open a database on a server.

    Args:
        options: The options.

    Raises:
        AccessError: The server rejects the account.
        ConfigError: A file of the options cannot be used.
        UnreachableError: The server cannot be reached.
        StorageError: The server is too old.
    """
    address = urlsplit(options.url)
    url = address._replace(path="/rpc").geturl()
    connection = RemoteConnection(_opener(url, options), _account(options), options, url=options.url)
    storage = RemoteStorage(connection)
    try:
        await connection.connect()
        if not connection.account.is_record:  # record users may not read the definitions
            await adopt_array_columns(storage)
    except BaseException:
        await storage.aclose()
        raise
    return storage


def _opener(url: str, options: StorageOptions) -> Open:
    tls: ssl.SSLContext | None = None
    if url.startswith(("wss:", "https:")):
        tls = tls_context(
            ca_file=options.ca_file,
            certificate=options.client_certificate,
            key=options.client_key,
            key_password=options.client_key_password,
        )
    if url.startswith("http"):

        async def open_http(within: float) -> Channel:  # noqa: ARG001 - the first call shows who answers
            from .http import HttpChannel

            return await HttpChannel.open(url, options, tls)

        return open_http

    async def open_socket(within: float) -> Channel:
        from .websocket import WebSocketChannel

        return await WebSocketChannel.open(url, options, tls, within=within)

    return open_socket


def _account(options: StorageOptions) -> Account:
    return Account(
        namespace=options.namespace,
        database=options.database,
        username=options.username,
        password=options.password,
        level=options.level,
        access=options.access,
        credentials=dict(options.credentials),
        token=options.token,
        refresh_token=options.refresh_token,
    )
