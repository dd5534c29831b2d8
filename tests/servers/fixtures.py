"""Servers as fixtures: import them in a ``conftest.py``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.surreal import Server, running

__all__ = ["own_server", "server"]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that many tests share, each in a namespace of its own; nobody may kill it."""
    with running(tmp_path_factory.mktemp("server") / "data") as server:
        yield server


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for one test, which may kill it and start it again."""
    with running(tmp_path_factory.mktemp("own_server") / "data") as server:
        yield server
