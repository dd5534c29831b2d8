"""kill -9 while an old database is migrated: opened again, it is whole, and a backup of what it was is there.

``PATTERN_FAULT_ROUNDS`` sets how many old databases of each kind are migrated, ``PATTERN_FAULT_RECORDS`` how many memories
each has.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import pytest

from pattern_core.assembly.opening import open_storage
from pattern_core.assembly.wiring import is_shared
from pattern_core.catalog.metadata import read_metadata
from pattern_core.config import load_config
from pattern_core.maintenance.backup import read_manifest, restore
from tests.helpers.old_database import check_migrated, make_old

from .test_kill import KINDS

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1800)]

ROUNDS: Final = int(os.environ.get("PATTERN_FAULT_ROUNDS", "1"))
MEMORIES: Final = int(os.environ.get("PATTERN_FAULT_RECORDS", "200"))
DEATHS: Final = 2
"""The most kills of one migration."""
OPENER: Final = Path(__file__).with_name("opener.py")


@pytest.fixture(params=list(KINDS))
def config(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A configuration of one engine, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("surreal-embedded", "lancedb"):
        if name in request.param:
            pytest.importorskip(f"pattern_{name.replace('-', '_')}", reason=f"needs the plugin {name}")
    return {**KINDS[request.param], "embeddings": {"provider": "hashing", "dimensions": 128}}


def open_and_kill(config: dict[str, Any], seconds: float | None) -> float | None:
    """Open the database in a process, and kill it after some time, or never; return how long it took, None if killed."""
    command = [sys.executable, str(OPENER), json.dumps(config)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline() == "ready\n", child.stderr.read()
        began = time.monotonic()
        child.stdin.write("go\n")
        child.stdin.flush()
        if seconds is not None:
            time.sleep(seconds)  # the point at which it dies is what is random here
            child.send_signal(signal.SIGKILL)
        opened = child.stdout.readline()
        took = time.monotonic() - began
        found, complaints = child.stdout.readline(), child.stderr.read()
    assert child.returncode == 0 or (seconds is not None and child.returncode == -signal.SIGKILL), complaints
    assert found in {"", f"found {MEMORIES}\n"}
    return took if opened else None


def aside(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration with other paths."""
    return {
        section: {key: f"{name}-{value}" if key == "path" else value for key, value in given.items()}
        for section, given in config.items()
    }


async def restore_all(config: dict[str, Any], checked: set[int]) -> None:
    """Restore each complete backup into a new database and check it, once for each version."""
    whole = [folder for folder in sorted(Path("pattern-backups").iterdir()) if (folder / "manifest.json").is_file()]
    for number, folder in enumerate(whole):  # of the others, the writers were killed
        new = aside(config, f"restored-{number}")
        loaded = load_config(new)
        async with open_storage(loaded) as storage:
            assert await restore(storage, folder, shared=is_shared(loaded)) == read_manifest(folder)
            version = (await read_metadata(storage)).schema_version
        if version not in checked:
            await check_migrated(new, MEMORIES)
        checked.add(version)
    assert whole


async def test_killed_while_migrating(config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration that is killed at any time is completed: every record and vector is there and found; backups are complete."""
    await make_old(config, MEMORIES)
    dice = random.Random(2026)
    checked: set[int] = set()
    lasted, deaths = 0.0, 0
    for number in range(ROUNDS + 1):
        folder = tmp_path.with_name(f"{tmp_path.name}-{number}")
        shutil.copytree(tmp_path, folder)
        monkeypatch.chdir(folder)
        if not number:
            lasted = open_and_kill(config, None) or 0.0
            continue
        died = [open_and_kill(config, dice.uniform(0, lasted)) is None for _ in range(DEATHS)]
        deaths += sum(died)
        open_and_kill(config, None)
        await check_migrated(config, MEMORIES)
        await restore_all(config, checked)
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(folder)

    assert deaths > 0
    assert 2 in checked
