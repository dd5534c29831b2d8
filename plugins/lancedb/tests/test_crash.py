"""A process that dies at any stage leaves the whole of a commit or nothing, and nothing that is in the way."""

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
from pattern_lancedb.place import Folder
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


def die(folder: Path, *stage: str) -> None:
    """Let a process write to a folder and die at some stage."""
    program = Path(__file__).with_name("dying.py")
    ended = subprocess.run([sys.executable, program, folder, *stage], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert ended.stdout == "acknowledged\n", "it has to die at that stage, neither before nor after"


async def check_nothing_left(storage: LanceStorage, folder: Path) -> None:
    """Fail unless the folder holds what the head names and no more."""
    head = (await storage.lance.snapshot()).head
    assert {each.name for each in (folder / "log").glob("0*")} == {entry.name for entry in head.log}
    assert {each.stem for each in folder.glob("*.lance")} == {entry.place for entry in head.tables.values()}


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        pytest.param(("write", "1", "before"), BEFORE, id="before the changes are logged"),
        pytest.param(("write", "1", "after"), BEFORE, id="when they are logged"),
        pytest.param(("publish", "1", "before"), BEFORE, id="before the head is published"),
        pytest.param(("publish", "1", "after"), AFTER, id="when it is published"),
    ],
)
async def test_a_commit_is_whole_or_absent(
    tmp_path: Path, stage: tuple[str, ...], expected: tuple[dict[str, int], set[str], set[str]]
) -> None:
    """Where a process dies in a commit over several tables, all of it is there or nothing, and writing goes on."""
    die(tmp_path, "commit", *stage)
    async with await LanceStorage.open(await Folder.open(tmp_path)) as storage:
        assert await contents(storage) == expected
        await check_nothing_left(storage, tmp_path)
        await storage.commit([Put(USERS, sample_row(USERS, "next"))])
        await storage.maintain()
        assert (await contents(storage))[0] == {**expected[0], "next": 1}


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param(("secure", "1", "before"), id="when one table is written"),
        pytest.param(("secure", "2", "before"), id="when both are written"),
        pytest.param(("publish", "1", "before"), id="before the head is published"),
        pytest.param(("publish", "1", "after"), id="when it is published"),
        pytest.param(("remove", "1", "after"), id="when the log is cut"),
    ],
)
async def test_upkeep_changes_nothing_that_is_seen(tmp_path: Path, stage: tuple[str, ...]) -> None:
    """Where a process dies while it moves the log, every record is there once, and the move is done again."""
    die(tmp_path, "flush", *stage)
    async with await LanceStorage.open(await Folder.open(tmp_path)) as storage:
        assert await contents(storage) == BEFORE
        await check_nothing_left(storage, tmp_path)
        await storage.lance.flush()
        await storage.maintain()
        assert await contents(storage) == BEFORE
        snapshot = await storage.lance.snapshot()
        held = {name: entry.rows for name, entry in snapshot.head.tables.items()}
        assert held == {"users": 2, "agents": 1, "memory_blocks": 1}


@pytest.mark.parametrize("stage", [("secure", "1", "before"), ("publish", "1", "before")])
async def test_a_table_is_there_or_not(tmp_path: Path, stage: tuple[str, ...]) -> None:
    """Where a process dies while it creates a table, there is none, and it can be created."""
    die(tmp_path, "create", *stage)
    async with await LanceStorage.open(await Folder.open(tmp_path)) as storage:
        assert "tasks" not in await storage.tables()
        await check_nothing_left(storage, tmp_path)
        await storage.apply_schema(CreateTable(TASKS, DIMENSIONS))
        assert await storage.count(TASKS) == 0


@pytest.mark.parametrize("damage", ["missing", "cut off", "changed"])
async def test_a_damaged_log_is_noticed(tmp_path: Path, damage: str) -> None:
    """A database whose log lacks what was acknowledged is refused, and left as it was."""
    async with await LanceStorage.open(await Folder.open(tmp_path)) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        for n in range(3):
            await storage.commit([Insert(USERS, sample_row(USERS, f"u{n}"))])
    document = sorted((tmp_path / "log").glob("0*"))[1]
    content = document.read_bytes()
    if damage == "missing":
        document.unlink()
    else:
        document.write_bytes(content[:-10] if damage == "cut off" else content.replace(b"u1", b"u2"))
    before = {each: each.read_bytes() for each in (tmp_path / "log").iterdir()}
    for _ in range(2):
        with pytest.raises(DataLossError, match="backup") as caught:
            await LanceStorage.open(await Folder.open(tmp_path))
        assert caught.value.path == str(tmp_path)
    assert {each: each.read_bytes() for each in (tmp_path / "log").iterdir()} == before


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"format": 2}', b'{"format": 1, "tables": 3}', b"\xff"])
async def test_a_head_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes) -> None:
    """A head that is damaged, or that a later version has written, is an error, not an empty database."""
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "head.json").write_bytes(content)
    with pytest.raises(StorageError, match="head"):
        await LanceStorage.open(await Folder.open(tmp_path))
    assert (tmp_path / "log" / "head.json").read_bytes() == content


async def test_a_head_that_was_lost_is_noticed(tmp_path: Path) -> None:
    """A database whose head is missing is refused and left as it was: it does not pass for a new one."""
    async with await LanceStorage.open(await Folder.open(tmp_path)) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        await storage.commit([Insert(USERS, sample_row(USERS, "u1"))])
        await storage.maintain()
    head = tmp_path / "log" / "head.json"
    content = head.read_bytes()
    head.unlink()
    for _ in range(2):
        with pytest.raises(DataLossError, match="no head"):
            await LanceStorage.open(await Folder.open(tmp_path))
    head.write_bytes(content)
    async with await LanceStorage.open(await Folder.open(tmp_path)) as storage:
        assert [row["id"] for row in await storage.find(USERS)] == ["u1"]


async def test_other_programs_data_are_left_alone(tmp_path: Path) -> None:
    """Nobody's Lance tables are removed that are not the database's own: a folder that holds them is no empty place."""
    rows = pa.table({"id": ["a"]})
    theirs = await lancedb.connect_async(tmp_path / "theirs")
    await theirs.create_table("documents", rows)
    with pytest.raises(DataLossError, match="documents"):
        await LanceStorage.open(await Folder.open(tmp_path / "theirs"))
    assert (await theirs.list_tables()).tables == ["documents"]
    ours = tmp_path / "ours"
    async with await LanceStorage.open(await Folder.open(ours)) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
    theirs = await lancedb.connect_async(ours)
    names = ["documents", "notes-1-a"]
    for name in names:
        await theirs.create_table(name, rows)
    (ours / "log" / "readme").write_text("theirs")
    async with await LanceStorage.open(await Folder.open(ours)) as storage:
        await storage.maintain()
    assert {*names} < {*(await theirs.list_tables()).tables}
    assert (ours / "log" / "readme").exists()


async def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """A path that is a file is a clear error."""
    file = tmp_path / "file"
    file.write_text("here already")
    with pytest.raises(StorageError, match="file"):
        await Folder.open(file)
