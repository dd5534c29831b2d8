"""Concurrent opening of a new database."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import pattern_core
from tests.servers.surreal import Server

pytest.importorskip("pattern_surreal_remote", reason="needs the plugin surreal-remote")

pytestmark = pytest.mark.anyio


async def test_many_come_first_at_once(server: Server, config: dict[str, Any]) -> None:
    """If several processes open a new database at once, each finds it set up."""
    for _ in range(5):
        opened = {**config, "database": {**config["database"], **server.section()}}
        databases = await asyncio.gather(*(pattern_core.open(opened) for _ in range(8)))
        users = await asyncio.gather(*(db.users.create(metadata={"by": n}) for n, db in enumerate(databases)))
        assert {each.id for each in await databases[0].users.list()} == {each.id for each in users}
        await asyncio.gather(*(db.aclose() for db in databases))
