"""Ownership, closing and cancellation: one owner, named in errors; a commit that has begun is never interrupted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pattern_core.abc import Insert, Patch
from pattern_core.errors import ClosedError, ConflictError, DatabaseLockedError, PatternError, StorageError
from pattern_core.schema import TABLES, CreateTable
from pattern_core.testing import DIMENSIONS, sample_row
from pattern_surreal_embedded.storage import EmbeddedStorage

pytestmark = pytest.mark.anyio

USERS, AGENTS = TABLES["users"], TABLES["agents"]
OPEN_AND_WAIT = """
import asyncio, sys
from pathlib import Path
from pattern_surreal_embedded.storage import EmbeddedStorage

async def main():
    storage = await EmbeddedStorage.open(Path(sys.argv[1]))
    print("open", flush=True)
    sys.stdin.read()
    await storage.aclose()

asyncio.run(main())
"""


async def test_the_error_names_the_owner_process(tmp_path: Path) -> None:
    """Opening a database of another process fails at once and names the process. It works after that has ended."""
    folder = tmp_path / "pattern.db"
    command = [sys.executable, "-c", OPEN_AND_WAIT, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "open\n"
        with pytest.raises(DatabaseLockedError, match=f"process {owner.pid} ") as caught:
            await EmbeddedStorage.open(folder)
        assert caught.value.path == str(folder)
        assert str(owner.pid) in caught.value.owner
        owner.communicate()
    assert owner.returncode == 0
    async with await EmbeddedStorage.open(folder) as storage:
        assert (await storage.health()).ok


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
async def test_a_killed_process_releases_the_database(tmp_path: Path) -> None:
    """A killed process no longer owns the database."""
    folder = tmp_path / "pattern.db"
    command = [sys.executable, "-c", OPEN_AND_WAIT, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        owner.send_signal(signal.SIGKILL)
    async with await EmbeddedStorage.open(folder) as storage:
        assert (await storage.health()).ok


async def test_a_second_opener_in_this_process_is_rejected(tmp_path: Path) -> None:
    """A process cannot open a database twice, but can reopen it after each closing."""
    folder = tmp_path / "pattern.db"
    for _ in range(3):
        async with await EmbeddedStorage.open(folder):
            owner = json.loads((folder / "owner.json").read_text())
            assert owner["pid"] == os.getpid()
            assert set(owner) == {"pid", "host", "command", "opened_at"}
            with pytest.raises(DatabaseLockedError, match="this process"):
                await EmbeddedStorage.open(folder)
        assert (folder / "owner.json").read_text() == ""


async def test_a_failed_opening_releases_the_database(tmp_path: Path) -> None:
    """After an opening that failed, or was cancelled at any point, the next one succeeds."""
    folder = tmp_path / "pattern.db"
    threads = threading.active_count()
    for turns in (0, 1, 2, 5, 10, 50):
        task = asyncio.create_task(EmbeddedStorage.open(folder))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with await EmbeddedStorage.open(folder) as storage:
            await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
    ledger = (folder / "ledger").read_bytes()
    (folder / "ledger").write_bytes(b"broken")
    with pytest.raises(StorageError):
        await EmbeddedStorage.open(folder)
    (folder / "ledger").write_bytes(ledger)
    async with await EmbeddedStorage.open(folder) as storage:
        assert await storage.count(USERS) == 0
    engines = [each for each in threading.enumerate() if each.name == "pattern-surrealdb"]
    assert not engines, f"of {threads} threads at first"


async def test_concurrent_closing(tmp_path: Path) -> None:
    """Repeated and concurrent `aclose` calls close once; later calls raise `ClosedError`."""
    storage = await EmbeddedStorage.open(tmp_path / "pattern.db")
    await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
    await asyncio.gather(storage.aclose(), storage.aclose())
    await storage.aclose()
    with pytest.raises(ClosedError):
        await storage.execute("RETURN 1")


async def test_reads_during_closing(tmp_path: Path) -> None:
    """A read during closing returns its records or raises `ClosedError`."""
    storage = await EmbeddedStorage.open(tmp_path / "pattern.db")
    await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
    await storage.commit([Insert(USERS, sample_row(USERS, f"u{n}")) for n in range(300)])
    reads = [asyncio.create_task(storage.find(USERS)) for _ in range(8)]
    await asyncio.sleep(0)
    await storage.aclose()
    for outcome in await asyncio.gather(*reads, return_exceptions=True):
        assert isinstance(outcome, ClosedError) or (isinstance(outcome, list) and len(outcome) == 300)


async def test_a_cancelled_commit_is_atomic(storage: EmbeddedStorage) -> None:
    """A cancelled commit takes effect completely or not at all, and the next one works."""
    for turns in range(12):
        ids = [f"{turns}-{part}" for part in range(40)]
        task = asyncio.create_task(storage.commit([Insert(USERS, sample_row(USERS, id)) for id in ids]))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await storage.commit([Insert(USERS, sample_row(USERS, f"after {turns}"))])
        found = await storage.get(USERS, ids)
        assert len({row is None for row in found}) == 1
        assert turns == 0 or found[0] is not None, "a commit that has begun is not interrupted"


async def test_closing_waits_for_a_cancelled_commit(tmp_path: Path) -> None:
    """A commit that continues after its caller was cancelled ends before the database is closed."""
    folder = tmp_path / "pattern.db"
    storage = await EmbeddedStorage.open(folder)
    await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
    await storage.tables()
    task = asyncio.create_task(storage.commit([Insert(USERS, sample_row(USERS, f"u{n}")) for n in range(500)]))
    await asyncio.sleep(0.005)  # into the engine
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await storage.aclose()
    async with await EmbeddedStorage.open(folder) as again:
        assert await again.count(USERS) == 500


async def test_sixteen_writers_lose_nothing(storage: EmbeddedStorage) -> None:
    """Sixteen writers increment one record, guarded by its revision, and no increment is lost."""
    await storage.commit([Insert(USERS, sample_row(USERS, "counter", settings={"count": 0}))])
    conflicts = 0

    async def count_up() -> None:
        nonlocal conflicts
        for _ in range(10):
            while True:
                (row,) = await storage.get(USERS, ["counter"])
                assert row is not None
                changes = {"settings": {"count": row["settings"]["count"] + 1}, "revision": row["revision"] + 1}
                try:
                    await storage.commit([Patch(USERS, "counter", changes, revision=row["revision"])])
                except ConflictError:
                    conflicts += 1
                else:
                    break

    await asyncio.gather(*(count_up() for _ in range(16)))
    (row,) = await storage.get(USERS, ["counter"])
    assert row is not None
    assert row["settings"] == {"count": 160}
    assert conflicts, "the writers never conflicted"


async def test_the_event_loop_is_not_blocked(storage: EmbeddedStorage) -> None:
    """Other tasks run while the engine returns ten thousand rows."""
    for start in range(0, 10_000, 1000):
        await storage.commit([Insert(USERS, sample_row(USERS, f"{n:05}")) for n in range(start, start + 1000)])
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticking = asyncio.create_task(tick())
    assert len(await storage.find(USERS)) == 10_000
    ticking.cancel()
    assert ticks >= 5


async def test_strict_mode_creates_no_tables(tmp_path: Path) -> None:
    """In strict mode the engine rejects writes to undefined tables; otherwise it creates them."""
    folder = tmp_path / "pattern.db"
    for strict in (False, True, False):
        async with await EmbeddedStorage.open(folder, strict=strict) as storage:
            await storage.apply_schema(CreateTable(AGENTS, DIMENSIONS))
            await storage.commit([Insert(AGENTS, sample_row(AGENTS, f"{strict} {await storage.count(AGENTS)}"))])
            await storage.execute("REMOVE TABLE IF EXISTS made_up")
            if strict:
                with pytest.raises(StorageError, match="made_up"):
                    await storage.execute("CREATE made_up:1")
            else:
                await storage.execute("CREATE made_up:1")
    async with await EmbeddedStorage.open(folder) as storage:
        assert await storage.count(AGENTS) == 3


async def test_a_temporary_database_leaves_nothing() -> None:
    """A temporary database is removed when it is closed."""
    async with await EmbeddedStorage.open(None) as storage:
        path = Path(str((await storage.health()).details["path"]))
        assert path.is_dir()
        with pytest.raises(PatternError):
            await EmbeddedStorage.open(path)
    assert not path.exists()


def test_a_short_process_exits_without_error(tmp_path: Path) -> None:
    """The exit code is 0, even if the process does not close: the engine has aborted such processes."""
    program = """
import asyncio, sys
from pathlib import Path
from pattern_surreal_embedded.storage import EmbeddedStorage

async def main():
    storage = await EmbeddedStorage.open(Path(sys.argv[1]))
    await storage.execute("RETURN 1")
    if sys.argv[2] == "close":
        await storage.aclose()

asyncio.run(main())
"""
    for n, way in enumerate(["close", "forget"] * 3):
        command = [sys.executable, "-c", program, str(tmp_path / str(n)), way]
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (0, "")
