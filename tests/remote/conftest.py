"""A server, and configurations of new databases on it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.servers.fixtures import server
from tests.servers.surreal import Server

__all__ = ["server"]


@pytest.fixture
def config(server: Server) -> dict[str, Any]:
    """The configuration of a new, empty database, with the root account."""
    return {
        "database": {"type": "surreal-remote", **server.section(timeout=20)},
        "embeddings": {"provider": "hashing", "dimensions": 64},
    }
