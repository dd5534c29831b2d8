"""The server that these tests look at."""

from tests.servers.fixtures import own_server, server

__all__ = ["own_server", "server"]
