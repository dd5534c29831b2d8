"""Fixtures of the plugin's tests: a server, and databases on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pattern_core.abc import Insert, Storage
from pattern_core.schema import TABLES, CreateTable
from pattern_core.testing import DIMENSIONS, sample_row
from pattern_core.toolkit import Secret
from pattern_surreal_remote.plugin import StorageOptions, pattern_storage
from tests.servers.fixtures import certificate, own_server, server
from tests.servers.proxy import Proxy
from tests.servers.surreal import Server

__all__ = ["NewOptions", "certificate", "own_server", "server"]

USERS = TABLES["users"]

NewOptions = Callable[..., StorageOptions]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The backend; pattern-core requires asyncio."""
    return "asyncio"


@pytest.fixture
def options_on() -> NewOptions:
    """Return a function that makes the options of a new, empty database: ``options_on(server, pool_size=1)``."""

    def make(server: Server, **more: Any) -> StorageOptions:
        section = server.section(**more)
        secrets = {name: Secret(section[name]) for name in ("password", "token") if isinstance(section.get(name), str)}
        return StorageOptions(**{**section, **secrets})

    return make


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    """A proxy to the shared server."""
    if not server.port:
        pytest.skip("needs a server on this machine, to stand between it and its clients")
    async with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
async def storage(server: Server, proxy: Proxy, options_on: NewOptions) -> AsyncIterator[Storage]:
    """An open storage behind the proxy, with one connection and one table."""
    async with await pattern_storage().open(options_on(server, url=proxy.url, pool_size=1, timeout=10.0)) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        await storage.commit([Insert(USERS, sample_row(USERS, "there"))])
        yield storage


@pytest.fixture
def options(server: Server, options_on: NewOptions) -> StorageOptions:
    """The options of a new, empty database on the shared server."""
    return options_on(server)
