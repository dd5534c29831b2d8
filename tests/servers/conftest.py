"""The servers that these tests look at."""

from tests.servers.fixtures import certificate, own_server, server

__all__ = ["certificate", "own_server", "server"]
