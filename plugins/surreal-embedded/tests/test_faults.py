"""Crashes and damaged files: acknowledged writes survive, or opening raises `DataLossError` and changes nothing."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pattern_core.abc import Insert
from pattern_core.errors import DataLossError, StorageError
from pattern_core.schema import TABLES, CreateTable
from pattern_core.testing import DIMENSIONS, sample_row
from pattern_surreal_embedded.storage import EmbeddedStorage

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")]

ROUNDS = int(os.environ.get("PATTERN_FAULT_ROUNDS", "5"))
USERS, MEMORIES = TABLES["users"], TABLES["memory_blocks"]
WRITER = [sys.executable, str(Path(__file__).with_name("writer.py"))]

Damage = Callable[[Path], None]


def write_and_die(folder: Path, count: int) -> None:
    """Let another process write some users and die, so that they are in the engine's log."""
    subprocess.run([*WRITER, str(folder), "0", str(count)], check=False, capture_output=True)


def only_file(folder: Path, kind: str) -> Path:
    """Return the only file in a folder of the engine's files."""
    (file,) = (folder / "surreal" / kind).iterdir()
    return file


def contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of a database's files."""
    files = (each for each in folder.rglob("*") if each.is_file() and each.name not in {"owner.json", "LOCK"})
    return {str(each.relative_to(folder)): each.read_bytes() for each in files}


def flip(file: Path, share: float) -> None:
    """Flip one bit of a file."""
    content = bytearray(file.read_bytes())
    content[int(len(content) * share)] ^= 1
    file.write_bytes(content)


def truncate(file: Path, share: float) -> None:
    """Truncate a file."""
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


async def test_kill_loses_no_acknowledged_write(tmp_path: Path) -> None:
    """After kill -9 at any moment, every acknowledged batch is there, and every batch is complete."""
    folder = tmp_path / "pattern.db"
    acknowledged: set[str] = set()
    first = 0
    for round_ in range(ROUNDS):
        wanted = random.Random(round_).randrange(1, 60)
        with subprocess.Popen(
            [*WRITER, str(folder), str(first), "1000000"], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(wanted):
                acknowledged.add(writer.stdout.readline().strip())
            writer.kill()
            acknowledged.update(line.strip() for line in writer.stdout if line.endswith("\n"))
        async with await EmbeddedStorage.open(folder) as storage:
            users = {row["id"]: row for row in await storage.find(USERS)}
            memories = {row["id"] for row in await storage.find(MEMORIES)}
        assert acknowledged <= users.keys()
        assert {row["revision"] for row in users.values()} == {2}
        assert memories == {f"{id}-{part}" for id in users for part in range(3)}
        first = len(users)
        assert users.keys() == {f"{number:06}" for number in range(first)}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda folder: flip(only_file(folder, "wal"), 0.3), id="a bit in the log flips"),
        pytest.param(lambda folder: flip(only_file(folder, "wal"), 0.999), id="a bit at the end of the log flips"),
        pytest.param(lambda folder: truncate(only_file(folder, "wal"), 0.6), id="the log is truncated"),
        pytest.param(lambda folder: truncate(only_file(folder, "wal"), 0), id="the log is empty"),
        pytest.param(lambda folder: only_file(folder, "wal").unlink(), id="the log is missing"),
        pytest.param(lambda folder: shutil.rmtree(folder / "surreal" / "wal"), id="the folder of the log is missing"),
        pytest.param(lambda folder: shutil.rmtree(folder / "surreal"), id="all data are missing"),
    ],
)
async def test_loss_after_a_crash_is_detected(tmp_path: Path, damage: Damage) -> None:
    """Opening a database that lacks acknowledged writes fails each time, and changes nothing."""
    folder = tmp_path / "pattern.db"
    write_and_die(folder, 30)
    damage(folder)
    before = contents(folder)
    for _ in range(2):
        with pytest.raises(DataLossError, match="backup") as caught:
            await EmbeddedStorage.open(folder)
        assert caught.value.path == str(folder)
    assert contents(folder) == before


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda folder: flip(only_file(folder, "sstables"), 0.3), id="a bit in a table flips"),
        pytest.param(lambda folder: truncate(only_file(folder, "sstables"), 0.5), id="a table is truncated"),
        pytest.param(lambda folder: only_file(folder, "sstables").unlink(), id="a table is missing"),
        pytest.param(lambda folder: only_file(folder, "manifest").unlink(), id="the manifest is missing"),
        pytest.param(lambda folder: truncate(only_file(folder, "manifest"), 0.5), id="the manifest is truncated"),
        pytest.param(lambda folder: shutil.rmtree(folder / "surreal"), id="all data are missing"),
    ],
)
async def test_loss_after_closing_is_detected(tmp_path: Path, damage: Damage) -> None:
    """The same holds for a closed database, whose records are in the engine's tables."""
    folder = tmp_path / "pattern.db"
    async with await EmbeddedStorage.open(folder) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        await storage.commit([Insert(USERS, sample_row(USERS, f"u{n}")) for n in range(500)])
    damage(folder)
    before = contents(folder)
    for _ in range(2):
        with pytest.raises(DataLossError, match="backup"):
            await EmbeddedStorage.open(folder)
    assert contents(folder) == before


async def test_missing_records_are_detected(tmp_path: Path) -> None:
    """Opening a database that was closed with more records fails, and the error names tables and counts."""
    folder, copy = tmp_path / "pattern.db", tmp_path / "copy.db"
    async with await EmbeddedStorage.open(folder) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        await storage.commit([Insert(USERS, sample_row(USERS, f"u{n}")) for n in range(10)])
    shutil.copytree(folder, copy)
    async with await EmbeddedStorage.open(copy) as storage:
        await storage.execute("DELETE users:u3")
    shutil.copy(folder / "ledger", copy / "ledger")
    with pytest.raises(DataLossError, match="9 of 10 users"):
        await EmbeddedStorage.open(copy)


async def test_the_recovery_check_leaves_no_copy(tmp_path: Path) -> None:
    """The recovery check does not change the files, even with large values, and removes its copy."""
    folder = tmp_path / "pattern.db"
    async with await EmbeddedStorage.open(folder) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        for n in range(5):
            await storage.commit(
                [Insert(USERS, sample_row(USERS, f"u{n}", settings={"large": os.urandom(300_000).hex()}))]
            )
    assert list((folder / "surreal" / "vlog").iterdir()), "values of this size should be in files of their own"
    for n in range(5, 8):
        stable = {name: held for name, held in contents(folder).items() if name.endswith((".sst", ".vlog"))}
        async with await EmbeddedStorage.open(folder) as storage:
            now = contents(folder)
            assert {name: now[name] for name in stable} == stable
            assert await storage.count(USERS) == n
            await storage.commit(
                [Insert(USERS, sample_row(USERS, f"u{n}", settings={"large": os.urandom(300_000).hex()}))]
            )
    assert {each.name for each in folder.iterdir()} == {"surreal", "ledger", "owner.json"}


async def test_a_damaged_ledger_is_rejected(tmp_path: Path) -> None:
    """Opening fails with an unreadable ledger. One valid slot is enough. Without a file, the data are trusted."""
    folder = tmp_path / "pattern.db"
    async with await EmbeddedStorage.open(folder) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        for n in range(3):
            await storage.commit([Insert(USERS, sample_row(USERS, f"u{n}"))])
    ledger = folder / "ledger"
    whole = ledger.read_bytes()
    for broken in (b"", b"\0" * 8192, whole[:50], whole.replace(b"sequence", b"sequenze")):
        ledger.write_bytes(broken)
        with pytest.raises(DataLossError, match="ledger"):
            await EmbeddedStorage.open(folder)
    for slot in (0, 4096):
        ledger.write_bytes(whole[:slot] + b"\0" * 4096 + whole[slot + 4096 :])
        async with await EmbeddedStorage.open(folder) as storage:
            assert await storage.count(USERS) == 3
        ledger.write_bytes(whole)
    ledger.unlink()
    async with await EmbeddedStorage.open(folder) as storage:
        assert await storage.count(USERS) == 3


async def test_a_restored_backup_opens(tmp_path: Path) -> None:
    """The folder of a closed database, copied as a whole, is a backup."""
    folder, backup = tmp_path / "pattern.db", tmp_path / "backup.db"
    async with await EmbeddedStorage.open(folder) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        await storage.commit([Insert(USERS, sample_row(USERS, "u1"))])
    shutil.copytree(folder, backup)
    async with await EmbeddedStorage.open(folder) as storage:
        await storage.commit([Insert(USERS, sample_row(USERS, "u2"))])
    shutil.rmtree(folder)
    shutil.copytree(backup, folder)
    async with await EmbeddedStorage.open(folder) as storage:
        assert [row["id"] for row in await storage.find(USERS)] == ["u1"]


async def test_an_older_copy_of_the_data_is_detected(tmp_path: Path) -> None:
    """Opening older files of the engine with a newer ledger fails."""
    folder, backup = tmp_path / "pattern.db", tmp_path / "backup.db"
    for n in range(2):
        async with await EmbeddedStorage.open(folder) as storage:
            await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
            await storage.commit([Insert(USERS, sample_row(USERS, f"u{n}"))])
        if n == 0:
            shutil.copytree(folder, backup)
    shutil.rmtree(folder / "surreal")
    shutil.copytree(backup / "surreal", folder / "surreal")
    with pytest.raises(DataLossError, match="transaction 4 was acknowledged, and the data end at 2"):
        await EmbeddedStorage.open(folder)


async def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """A path that is a file, or that the engine does not support, raises a clear error."""
    file = tmp_path / "file"
    file.write_text("here already")
    with pytest.raises(StorageError, match="file"):
        await EmbeddedStorage.open(file)
    with pytest.raises(StorageError, match="null character"):
        await EmbeddedStorage.open(tmp_path / "what?.db")
    assert file.read_text() == "here already"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
