"""Several processes at once: no duplicates and no lost commits, also during maintenance."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pattern_core.schema import TABLES, CreateTable
from pattern_core.testing import DIMENSIONS
from pattern_lancedb.local_store import LocalStore
from pattern_lancedb.storage import LanceStorage

pytestmark = pytest.mark.anyio

USERS = TABLES["users"]


async def test_upserts_of_one_new_id_make_one_record(tmp_path: Path) -> None:
    """Processes that put the same new ids at once, with constant maintenance, leave one record for each id."""
    async with await LanceStorage.open(await LocalStore.open(tmp_path)) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        program = [sys.executable, str(Path(__file__).with_name("concurrent_writer.py")), str(tmp_path)]
        writers = [
            subprocess.Popen([*program, name, "20"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for name in ("a", "b")
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        for writer in writers:
            writer.communicate()
            assert writer.returncode == 0
        expected = sorted(f"u{number}" for number in range(20))
        assert [row["id"] for row in await storage.find(USERS)] == expected
        await storage.maintain()
        table = await (await storage.database.snapshot()).table("users")
        stored = (await table.query().select(["id"]).to_arrow())["id"].to_pylist()
        assert sorted(stored) == expected


async def test_two_storages_in_one_process(tmp_path: Path) -> None:
    """Each of two open storages sees the commits and flushes of the other at once."""
    async with (
        await LanceStorage.open(await LocalStore.open(tmp_path)) as first,
        await LanceStorage.open(await LocalStore.open(tmp_path)) as second,
    ):
        await first.apply_schema(CreateTable(USERS, DIMENSIONS))
        assert await second.tables() == {"users"}
        await first.database.flush()
        await second.database.flush()
        assert await second.count(USERS) == 0
