"""What all tests share."""

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The library is written for asyncio."""
    return "asyncio"
