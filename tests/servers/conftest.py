"""Fixtures of the tests of the test servers."""

from tests.servers.fixtures import certificate, own_server, server

__all__ = ["certificate", "own_server", "server"]
