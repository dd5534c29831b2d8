"""Crashes: a killed process leaves a whole commit or none, and no files that stay."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import lancedb
import pyarrow as pa
import pytest

from pattern_core.abc import Insert, Put, Storage
from pattern_core.errors import DataLossError, StorageError
from pattern_core.schema import TABLES, CreateTable
from pattern_core.testing import DIMENSIONS, sample_row
from pattern_lancedb.local_store import LocalStore
from pattern_lancedb.storage import LanceStorage

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")]

USERS, AGENTS, MEMORIES, TASKS = (TABLES[name] for name in ("users", "agents", "memory_blocks", "tasks"))
BEFORE = ({"old": 1, "new": 1}, {"old"}, {"new"})
AFTER = ({"old": 2, "new": 2}, set[str](), {"new", "last"})


async def contents(storage: Storage) -> tuple[dict[str, int], set[str], set[str]]:
    """Return the users' revisions, the agents and the memories."""
    users = {row["id"]: row["revision"] for row in await storage.find(USERS)}
    agents = {row["id"] for row in await storage.find(AGENTS)}
    return users, agents, {row["id"] for row in await storage.find(MEMORIES)}


def crash(folder: Path, *stage: str) -> None:
    """Run a process that writes to a folder and crashes at some stage."""
    program = Path(__file__).with_name("crashing_writer.py")
    ended = subprocess.run([sys.executable, program, folder, *stage], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert ended.stdout == "acknowledged\n", "the process must crash at that stage, not before or after it"


async def check_no_orphans(storage: LanceStorage, folder: Path) -> None:
    """Fail if the folder has files that the manifest does not name, or lacks one that it names."""
    manifest = (await storage.database.snapshot()).manifest
    assert {each.name for each in (folder / "log").glob("0*")} == {entry.name for entry in manifest.wal}
    assert {each.stem for each in folder.glob("*.lance")} == {entry.lance_name for entry in manifest.tables.values()}


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        pytest.param(("write_wal", "1", "before"), BEFORE, id="before the WAL entry"),
        pytest.param(("write_wal", "1", "after"), BEFORE, id="after the WAL entry"),
        pytest.param(("publish", "1", "before"), BEFORE, id="before the manifest"),
        pytest.param(("publish", "1", "after"), AFTER, id="after the manifest"),
    ],
)
async def test_a_commit_is_whole_or_absent(
    tmp_path: Path, stage: tuple[str, ...], expected: tuple[dict[str, int], set[str], set[str]]
) -> None:
    """After a crash in a commit to several tables, all of it exists or nothing, and new commits work."""
    crash(tmp_path, "commit", *stage)
    async with await LanceStorage.open(await LocalStore.open(tmp_path)) as storage:
        assert await contents(storage) == expected
        await check_no_orphans(storage, tmp_path)
        await storage.commit([Put(USERS, sample_row(USERS, "next"))])
        await storage.maintain()
        assert (await contents(storage))[0] == {**expected[0], "next": 1}


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param(("sync_table", "1", "before"), id="after one table"),
        pytest.param(("sync_table", "2", "before"), id="after both tables"),
        pytest.param(("publish", "1", "before"), id="before the manifest"),
        pytest.param(("publish", "1", "after"), id="after the manifest"),
        pytest.param(("remove_wal", "1", "after"), id="after the WAL is removed"),
    ],
)
async def test_a_flush_changes_no_record(tmp_path: Path, stage: tuple[str, ...]) -> None:
    """After a crash in a flush, every record exists once, and the flush is repeated."""
    crash(tmp_path, "flush", *stage)
    async with await LanceStorage.open(await LocalStore.open(tmp_path)) as storage:
        assert await contents(storage) == BEFORE
        await check_no_orphans(storage, tmp_path)
        await storage.database.flush()
        await storage.maintain()
        assert await contents(storage) == BEFORE
        snapshot = await storage.database.snapshot()
        stored = {name: entry.rows for name, entry in snapshot.manifest.tables.items()}
        assert stored == {"users": 2, "agents": 1, "memory_blocks": 1}


@pytest.mark.parametrize("stage", [("sync_table", "1", "before"), ("publish", "1", "before")])
async def test_a_table_exists_or_not(tmp_path: Path, stage: tuple[str, ...]) -> None:
    """After a crash in the creation of a table, the table does not exist, and it can be created."""
    crash(tmp_path, "create", *stage)
    async with await LanceStorage.open(await LocalStore.open(tmp_path)) as storage:
        assert "tasks" not in await storage.tables()
        await check_no_orphans(storage, tmp_path)
        await storage.apply_schema(CreateTable(TASKS, DIMENSIONS))
        assert await storage.count(TASKS) == 0


@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
async def test_a_damaged_wal_is_rejected(tmp_path: Path, damage: str) -> None:
    """A database with a missing or damaged WAL entry raises `DataLossError`, and is not changed."""
    async with await LanceStorage.open(await LocalStore.open(tmp_path)) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        for n in range(3):
            await storage.commit([Insert(USERS, sample_row(USERS, f"u{n}"))])
    entry = sorted((tmp_path / "log").glob("0*"))[1]
    content = entry.read_bytes()
    if damage == "missing":
        entry.unlink()
    else:
        entry.write_bytes(content[:-10] if damage == "truncated" else content.replace(b"u1", b"u2"))
    before = {each: each.read_bytes() for each in (tmp_path / "log").iterdir()}
    for _ in range(2):
        with pytest.raises(DataLossError, match="backup") as caught:
            await LanceStorage.open(await LocalStore.open(tmp_path))
        assert caught.value.path == str(tmp_path)
    assert {each: each.read_bytes() for each in (tmp_path / "log").iterdir()} == before


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"format": 2}', b'{"format": 1, "tables": 3}', b"\xff"])
async def test_an_unreadable_manifest_is_rejected(tmp_path: Path, content: bytes) -> None:
    """A damaged manifest, or one of a later version, is an error, not an empty database."""
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "head.json").write_bytes(content)
    with pytest.raises(StorageError, match="manifest"):
        await LanceStorage.open(await LocalStore.open(tmp_path))
    assert (tmp_path / "log" / "head.json").read_bytes() == content


async def test_a_lost_manifest_is_rejected(tmp_path: Path) -> None:
    """A database without its manifest is rejected and not changed. It is not taken for a new one."""
    async with await LanceStorage.open(await LocalStore.open(tmp_path)) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        await storage.commit([Insert(USERS, sample_row(USERS, "u1"))])
        await storage.maintain()
    manifest = tmp_path / "log" / "head.json"
    content = manifest.read_bytes()
    manifest.unlink()
    for _ in range(2):
        with pytest.raises(DataLossError, match="no manifest"):
            await LanceStorage.open(await LocalStore.open(tmp_path))
    manifest.write_bytes(content)
    async with await LanceStorage.open(await LocalStore.open(tmp_path)) as storage:
        assert [row["id"] for row in await storage.find(USERS)] == ["u1"]


async def test_other_programs_data_are_left_alone(tmp_path: Path) -> None:
    """Lance tables of other programs are kept, and a folder with them is not a place for a new database."""
    rows = pa.table({"id": ["a"]})
    theirs = await lancedb.connect_async(tmp_path / "theirs")
    await theirs.create_table("documents", rows)
    with pytest.raises(DataLossError, match="documents"):
        await LanceStorage.open(await LocalStore.open(tmp_path / "theirs"))
    assert (await theirs.list_tables()).tables == ["documents"]
    ours = tmp_path / "ours"
    async with await LanceStorage.open(await LocalStore.open(ours)) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
    theirs = await lancedb.connect_async(ours)
    names = ["documents", "notes-1-a"]
    for name in names:
        await theirs.create_table(name, rows)
    (ours / "log" / "readme").write_text("theirs")
    async with await LanceStorage.open(await LocalStore.open(ours)) as storage:
        await storage.maintain()
    assert {*names} < {*(await theirs.list_tables()).tables}
    assert (ours / "log" / "readme").exists()


async def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """A path to a file raises `StorageError`."""
    file = tmp_path / "file"
    file.write_text("here already")
    with pytest.raises(StorageError, match="file"):
        await LocalStore.open(file)
