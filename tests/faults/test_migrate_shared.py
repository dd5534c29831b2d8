"""Several processes open an old database at once: one migrates it, the others wait, and none waits for a dead one."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from pattern_core.abc import Patch, Storage
from pattern_core.assembly.opening import open_storage
from pattern_core.catalog.metadata import read_metadata
from pattern_core.catalog.tables import LEASES
from pattern_core.config import load_config
from pattern_core.maintenance.migrations.lease import SCHEMA
from tests.helpers.old_database import check_migrated, make_old

pytest.importorskip("pattern_lancedb", reason="needs the plugin lancedb")
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

OPENER: Final = Path(__file__).with_name("opener.py")
MEMORIES: Final = 100
PROCESSES: Final = 4
CONFIG: Final = {
    "database": {"type": "lancedb", "path": "pattern.lance"},
    "embeddings": {"provider": "hashing", "dimensions": 128},
}


@attrs.define
class Children:
    """The processes of a test."""

    started: list[subprocess.Popen[str]] = attrs.field(factory=list)

    def start(self, config: dict[str, Any], *words: str) -> subprocess.Popen[str]:
        """Start one, and wait for its first report."""
        command = [sys.executable, str(OPENER), json.dumps(config), *words]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.started.append(child)
        assert hear(child) in {"ready", "holding"}
        return child


def tell(child: subprocess.Popen[str]) -> None:
    """Let a child continue."""
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


def hear(child: subprocess.Popen[str]) -> str:
    """Return the next report of a child; empty if it has ended."""
    assert child.stdout is not None
    return child.stdout.readline().strip()


def finds(child: subprocess.Popen[str]) -> int:
    """Wait until a child has opened the database; return how many memories it finds."""
    assert hear(child) == "opened"
    return int(hear(child).removeprefix("found "))


@pytest.fixture
def children() -> Iterator[Children]:
    """Start processes that end with the test."""
    found = Children()
    yield found
    for child in found.started:
        with contextlib.suppress(BrokenPipeError):
            child.kill()
            child.communicate()


@pytest.fixture
async def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database of version 2, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    await make_old(CONFIG, MEMORIES)


async def check_once() -> None:
    """Check that one process has migrated the database, once."""
    assert [folder.name for folder in Path("pattern-backups").iterdir()] == ["before-version-3"]
    async with open_storage(load_config(CONFIG)) as storage:
        known = await read_metadata(storage)
        assert known.revision == 4  # one more for each of the versions 3 to 5
        assert [each.number for each in known.generations] == [1]
    await check_migrated(CONFIG, MEMORIES)


async def change_holder(storage: Storage, **columns: object) -> None:
    """Change the lease to that of another process."""
    (row,) = await storage.get(LEASES, [SCHEMA])
    assert row is not None
    await storage.commit([Patch(LEASES, SCHEMA, {**columns, "revision": row["revision"] + 1}, row["revision"])])


async def test_all_at_once(old: None, children: Children) -> None:
    """If several processes open an old database at once, one migrates it, with one backup, and all open it."""
    started = [children.start(CONFIG) for _ in range(PROCESSES)]
    for child in started:
        tell(child)
    assert [finds(child) for child in started] == [MEMORIES] * PROCESSES
    assert [child.wait() for child in started] == [0] * PROCESSES
    await check_once()


async def test_the_holder_dies(old: None, children: Children) -> None:
    """If the migrating process is killed, a waiting one takes over; until then, only the lease's holder changes anything."""
    holder = children.start(CONFIG, "hold")
    started = [children.start(CONFIG) for _ in range(PROCESSES - 1)]
    for child in started:
        tell(child)
    async with open_storage(load_config(CONFIG)) as storage:
        assert (await read_metadata(storage)).schema_version == 2
        assert all(child.poll() is None for child in started)
    holder.kill()
    holder.wait()
    assert [finds(child) for child in started] == [MEMORIES] * len(started)
    await check_once()


async def test_a_machine_dies(old: None, children: Children) -> None:
    """A process waits for a holder on another machine until its lease has expired."""
    holder = children.start(CONFIG, "hold")
    holder.kill()
    holder.wait()
    async with open_storage(load_config(CONFIG)) as storage:
        await change_holder(storage, holder="process 1 on another host", seconds=1.0)
    child = children.start(CONFIG)
    tell(child)
    assert finds(child) == MEMORIES
    await check_once()
