"""The kit's rules about processes pass on what is right, and fail on what is wrong: storages in a file, real children."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

fcntl = pytest.importorskip("fcntl", reason="the storages of these tests lock files as POSIX does")

STORAGE = '''
"""A storage in one file, written anew with each commit under a lock: right, if slow. And how to get it wrong."""

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
    owned = False  # by one process at a time

    def __init__(self, path):
        super().__init__({})
        self.path = path
        self.lock = path.with_suffix(".lock").open("w")
        self.commits = self.own = 0
        if self.owned:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.lock.close()
                raise DatabaseLockedError(str(path), "another process") from None
        self.load()

    def load(self):
        if self.path.exists():
            self.commits, data = pickle.loads(self.path.read_bytes())
            self._data.clear()
            self._data.update(data)

    def save(self):
        self.commits += 1
        self.own += 1
        whole = self.path.with_suffix(".new")
        whole.write_bytes(pickle.dumps((self.commits, self._data)))
        whole.replace(self.path)

    @contextlib.contextmanager
    def locked(self):
        if self.owned:
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
        if not self.owned:
            self.load()
        return data

    async def apply_schema(self, step):
        with self.locked():
            await super().apply_schema(step)
            self.save()

    async def commit(self, batch):
        with self.locked():
            await super().commit(batch)
            self.save()

    async def foreign_commits(self):
        self._open()
        return self.commits - self.own

    async def aclose(self):
        await super().aclose()
        self.lock.close()


class Owned(FileStorage):
    owned = True


@attrs.frozen
class Options:
    path: Path


async def open_shared(options):
    return FileStorage(options.path)


async def open_owned(options):
    return Owned(options.path)


class Late(Owned):
    """Wrong: it writes on closing only."""

    def save(self):
        pass

    async def aclose(self):
        if self._data is not None:
            super().save()
        await super().aclose()


class TableByTable(Owned):
    """Wrong: of a batch over two tables, the agents are written with the next one, or on closing."""

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
    """Wrong: processes that write at once do not wait for each other."""

    async def commit(self, batch):
        await MemoryStorage.commit(self, batch)
        await asyncio.sleep(0.01)  # a slow disk, to which others write meanwhile
        self.save()


class Unowned(Owned):
    """Wrong: it says that it belongs to one process, and lets others in."""

    def __init__(self, path):
        self.owned = False
        super().__init__(path)


class Cached(FileStorage):
    """Wrong: it reads what it knows, and looks at the file only before it writes."""

    def _open(self):
        return MemoryStorage._open(self)


class Deaf(FileStorage):
    """Wrong: it does not tell of others' commits."""

    async def foreign_commits(self):
        return 0


async def open_late(options):
    return Late(options.path)


async def open_table_by_table(options):
    return TableByTable(options.path)


async def open_unlocked(options):
    return Unlocked(options.path)


async def open_unowned(options):
    return Unowned(options.path)


async def open_cached(options):
    return Cached(options.path)


async def open_deaf(options):
    return Deaf(options.path)


class TestMine(StorageContract):
    spec = StorageSpec(options=Options, open=OPEN, processes=PROCESSES)

    @pytest.fixture
    def options(self, tmp_path):
        return Options(tmp_path / "data")
'''

RULES = "process or killed or kept_in_memory"
"""What the names of the rules about processes have in common."""


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str, str, str], str]:
    """Runs some rules on one of the storages, outside this repository, and returns what pytest prints."""

    def run(opened: str, processes: str, some: str) -> str:
        module = tmp_path / "test_mine.py"
        module.write_text(
            textwrap.dedent(STORAGE).replace("OPEN", opened).replace("PROCESSES", processes), encoding="utf-8"
        )
        command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-k", some, str(module)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    return run


@pytest.mark.parametrize(
    ("opened", "processes", "passed", "skipped"), [("open_owned", "False", 2, 4), ("open_shared", "True", 5, 1)]
)
def test_what_is_right_passes(
    run: Callable[[str, str, str], str], opened: str, processes: str, passed: int, skipped: int
) -> None:
    """A storage that belongs to one process, and one that several share, pass the rules that are theirs."""
    output = run(opened, processes, RULES)
    assert f"{passed} passed, {skipped} skipped" in output


@pytest.mark.parametrize(
    ("opened", "processes", "rule"),
    [
        ("open_late", "False", "test_a_killed_process_loses_nothing_acknowledged"),
        ("open_table_by_table", "False", "test_a_killed_process_loses_nothing_acknowledged"),
        ("open_unowned", "False", "test_a_second_process_is_refused_where_one_owns_the_storage"),
        ("open_unlocked", "True", "test_processes_lose_no_update"),
        ("open_cached", "True", "test_processes_see_each_others_writes_at_once"),
        ("open_deaf", "True", "test_what_is_kept_in_memory_is_noticed_to_be_old"),
    ],
)
def test_what_is_wrong_fails(run: Callable[[str, str, str], str], opened: str, processes: str, rule: str) -> None:
    """Each of these storages breaks one rule, and the rule's test fails."""
    output = run(opened, processes, rule)
    assert f"FAILED test_mine.py::TestMine::{rule}" in output
    assert "1 failed" in output
