"""What the tests of the plugin share: a server, and databases on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pattern_core.options import Secret
from pattern_surreal_remote.plugin import StorageOptions
from tests.servers.fixtures import own_server, server
from tests.servers.surreal import Server

__all__ = ["NewOptions", "own_server", "server"]

NewOptions = Callable[..., StorageOptions]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The library runs on asyncio."""
    return "asyncio"


@pytest.fixture
def options_on() -> NewOptions:
    """Makes the options of a new, empty database: ``options_on(server, pool_size=1)``."""

    def make(server: Server, **more: Any) -> StorageOptions:
        section = server.section(**more)
        secrets = {name: Secret(section[name]) for name in ("password", "token") if isinstance(section.get(name), str)}
        return StorageOptions(**{**section, **secrets})

    return make


@pytest.fixture
def options(server: Server, options_on: NewOptions) -> StorageOptions:
    """The options of a new, empty database on the server that all share."""
    return options_on(server)
