"""The rules about processes pass for correct storages and fail for wrong ones, with real child processes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

fcntl = pytest.importorskip("fcntl", reason="the storages of these tests use POSIX file locks")

STORAGE = '''
"""A correct storage, which rewrites one file in each commit under a lock, and wrong ones."""

import asyncio
import contextlib
import fcntl
import pickle
from pathlib import Path

import attrs
import pytest

from pattern_core.errors import DatabaseLockedError
from pattern_core.hookspecs import StorageSpec
from pattern_core.testing import MemoryStorage, StorageContract


class FileStorage(MemoryStorage):
    exclusive = False  # to one process at a time

    def __init__(self, path):
        super().__init__({})
        self.path = path
        self.lock = path.with_suffix(".lock").open("w")
        if self.exclusive:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.lock.close()
                raise DatabaseLockedError(str(path), "another process") from None
        self.load()

    def load(self):
        if self.path.exists():
            self._data.clear()
            self._data.update(pickle.loads(self.path.read_bytes()))

    def save(self):
        new = self.path.with_suffix(".new")
        new.write_bytes(pickle.dumps(self._data))
        new.replace(self.path)

    @contextlib.contextmanager
    def locked(self):
        if self.exclusive:
            yield
            return
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        try:
            self.load()
            yield
        finally:
            fcntl.flock(self.lock, fcntl.LOCK_UN)

    def _open(self):
        data = super()._open()
        if not self.exclusive:
            self.load()
        return data

    async def apply_schema(self, step):
        with self.locked():
            await super().apply_schema(step)
            self.save()

    async def commit(self, batch):
        with self.locked():
            position = await super().commit(batch)
            self.save()
        return position

    async def aclose(self):
        await super().aclose()
        self.lock.close()


class Exclusive(FileStorage):
    exclusive = True


@attrs.frozen
class Options:
    path: Path


async def open_shared(options):
    return FileStorage(options.path)


async def open_exclusive(options):
    return Exclusive(options.path)


class Late(Exclusive):
    """Wrong: it writes the file only when it is closed."""

    def save(self):
        pass

    async def aclose(self):
        if self._data is not None:
            super().save()
        await super().aclose()


class TableByTable(Exclusive):
    """Wrong: it writes the agents of a batch with the next batch, or when it is closed."""

    before = None

    def save(self, last=False):
        now = dict(self._data)
        if self.before is not None and not last:
            self._data["agents"] = self.before
        super().save()
        self.before = self._data["agents"] = now.get("agents", {})

    async def aclose(self):
        if self._data is not None:
            self.save(last=True)
        await super().aclose()


class Unlocked(FileStorage):
    """Wrong: processes write without a lock."""

    async def commit(self, batch):
        await MemoryStorage.commit(self, batch)
        await asyncio.sleep(0.01)  # a slow disk: others write meanwhile
        self.save()


class NotLocked(Exclusive):
    """Wrong: it declares that it is exclusive, and lets other processes open it."""

    def __init__(self, path):
        self.exclusive = False
        super().__init__(path)


class Cached(FileStorage):
    """Wrong: reads come from a cache, which is refreshed only before a write."""

    def _open(self):
        return MemoryStorage._open(self)


class OwnCommitsOnly(FileStorage):
    """Wrong: it does not report the commits of others."""

    async def changes_since(self, position, *, limit=1000):
        found = await super().changes_since(position, limit=limit)
        own = tuple(each for each in found.commits if each.writer == self.writer)
        return attrs.evolve(found, commits=own)


async def open_late(options):
    return Late(options.path)


async def open_table_by_table(options):
    return TableByTable(options.path)


async def open_unlocked(options):
    return Unlocked(options.path)


async def open_not_locked(options):
    return NotLocked(options.path)


async def open_cached(options):
    return Cached(options.path)


async def open_own_commits_only(options):
    return OwnCommitsOnly(options.path)


class TestMine(StorageContract):
    spec = StorageSpec(options=Options, open=OPEN, processes=PROCESSES)

    @pytest.fixture
    def options(self, tmp_path):
        return Options(tmp_path / "data")
'''

RULES = "process"
"""A word in the names of all rules about processes."""


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str, str, str], str]:
    """Return a function that runs rules on a storage, outside this repository, and returns the output of pytest."""

    def run(opened: str, processes: str, keyword: str) -> str:
        module = tmp_path / "test_mine.py"
        module.write_text(
            textwrap.dedent(STORAGE).replace("OPEN", opened).replace("PROCESSES", processes), encoding="utf-8"
        )
        command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-k", keyword, str(module)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    return run


@pytest.mark.parametrize(
    ("opened", "processes", "passed", "skipped"), [("open_exclusive", "False", 3, 5), ("open_shared", "True", 7, 1)]
)
def test_a_correct_storage_passes(
    run: Callable[[str, str, str], str], opened: str, processes: str, passed: int, skipped: int
) -> None:
    """An exclusive and a shared storage pass the rules that apply to them."""
    output = run(opened, processes, RULES)
    assert f"{passed} passed, {skipped} skipped" in output


@pytest.mark.parametrize(
    ("opened", "processes", "rule"),
    [
        ("open_late", "False", "test_a_killed_process_loses_no_commit"),
        ("open_table_by_table", "False", "test_a_killed_process_loses_no_commit"),
        ("open_not_locked", "False", "test_a_second_process_cannot_open_an_exclusive_storage"),
        ("open_unlocked", "True", "test_processes_lose_no_updates"),
        ("open_cached", "True", "test_processes_see_each_others_writes_at_once"),
        ("open_own_commits_only", "True", "test_a_process_refreshes_its_cached_vectors"),
        ("open_own_commits_only", "True", "test_a_follower_of_several_processes"),
    ],
)
def test_a_wrong_storage_fails(run: Callable[[str, str, str], str], opened: str, processes: str, rule: str) -> None:
    """A storage that breaks a rule fails the test of the rule."""
    output = run(opened, processes, rule)
    assert f"FAILED test_mine.py::TestMine::{rule}" in output
    assert "1 failed" in output
