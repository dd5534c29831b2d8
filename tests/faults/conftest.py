"""The servers that some of these tests kill."""

from collections.abc import Iterator

import pytest

from tests.servers.fixtures import own_server
from tests.servers.s3 import Store, running_store

__all__ = ["own_server"]


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """A server that speaks S3, with a bucket."""
    yield from running_store()
