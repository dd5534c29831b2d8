"""The vector searches on a server keep the contract, with the server's index ready from the start."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from pattern_core.abc import IndexSpec, Storage, VectorStore
from pattern_core.testing import VectorStoreContract
from pattern_surreal.native import NativeIndex
from pattern_surreal_remote.plugin import StorageOptions, VectorOptions, pattern_storage, pattern_vectors
from tests.servers.surreal import Server


async def _open_when_ready(options: VectorOptions, storage: Storage) -> VectorStore:
    """Open an index whose `create` waits for the server's index, so that the tests use it."""
    opened = await pattern_vectors().open(options, storage)
    if not isinstance(opened, NativeIndex):
        return opened
    create = opened.create

    async def create_and_wait(index: IndexSpec) -> None:
        await create(index)
        await opened.maintain()

    opened.create = create_and_wait  # type: ignore[method-assign]  # what is asked of it stays what it is
    return opened


class OnServer(VectorStoreContract):
    """A vector search on a server."""

    spec = attrs.evolve(pattern_vectors(), open=_open_when_ready)
    storage_spec = pattern_storage()

    @pytest.fixture
    def storage_options(self, server: Server, options_on: Callable[[Server], StorageOptions]) -> StorageOptions:
        """The options of a new database."""
        return options_on(server)


class TestExact(OnServer):
    """Brute force on the server."""

    @pytest.fixture
    def options(self) -> VectorOptions:
        """It builds no index."""
        return VectorOptions(index="exact")


class TestNative(OnServer):
    """The server's HNSW index, for every size; test_vectors.py tests other metrics."""

    spec = attrs.evolve(OnServer.spec, metrics=frozenset({"cosine"}))

    @pytest.fixture
    def options(self) -> VectorOptions:
        """Its answers are checked often."""
        return VectorOptions(index="native", check_every=5)
