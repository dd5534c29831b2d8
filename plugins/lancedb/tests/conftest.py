"""The fixtures of all tests of LanceDB."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The library runs on asyncio."""
    return "asyncio"
