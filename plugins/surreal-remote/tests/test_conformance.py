"""The plugin keeps the contracts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pattern_core.testing import StorageContract, VectorStoreContract
from pattern_surreal_remote.plugin import StorageOptions, pattern_storage, pattern_vectors
from tests.servers.surreal import Server


class TestOverWebSocket(StorageContract):
    """The storage over a WebSocket."""

    spec = pattern_storage()

    @pytest.fixture
    def options(self, server: Server, options_on: Callable[[Server], StorageOptions]) -> StorageOptions:
        """The options of a new database."""
        return options_on(server)


class TestInProcess(VectorStoreContract):
    """The index in this process, which is the default."""

    spec = pattern_vectors()
    storage_spec = pattern_storage()

    @pytest.fixture
    def storage_options(self, server: Server, options_on: Callable[[Server], StorageOptions]) -> StorageOptions:
        """The options of a new database."""
        return options_on(server)
