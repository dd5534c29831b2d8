"""kill -9 while writing: nothing acknowledged is lost or cannot be found, nothing half-written is seen.

Some rounds on one database of each kind; ``PATTERN_FAULT_ROUNDS`` sets how many.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import pattern_core
from pattern_core.maintenance.indexes import read_index_specs, verify_index

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]

ROUNDS = int(os.environ.get("PATTERN_FAULT_ROUNDS", "10"))
WRITER = Path(__file__).with_name("writer.py")


EMBEDDED = {"type": "surreal-embedded", "path": "pattern.db"}
LANCEDB = {"type": "lancedb", "path": "pattern.lance"}
KINDS = {
    "surreal-embedded": {"database": EMBEDDED},
    "lancedb": {"database": LANCEDB},
    "records in surreal-embedded, vectors in lancedb": {
        "database": EMBEDDED,
        "vectors": {"provider": "lancedb", "path": "vectors.lance"},
    },
}


@pytest.fixture(params=list(KINDS))
def config(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A configuration of one engine, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("surreal-embedded", "lancedb"):
        if name in request.param:
            pytest.importorskip(f"pattern_{name.replace('-', '_')}", reason=f"needs the plugin {name}")
    return {**KINDS[request.param], "embeddings": {"provider": "hashing", "dimensions": 128}}


def run_and_kill(config: dict[str, Any], seed: int, seconds: float) -> list[dict[str, str | None]]:
    """Start the writer, kill it some time after it has opened the database, and return its reports."""
    with subprocess.Popen(
        [sys.executable, WRITER, json.dumps(config), str(seed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        first = writer.stdout.readline()
        assert first, writer.stderr.read()
        time.sleep(seconds)  # the point at which it dies is what is random here
        writer.send_signal(signal.SIGKILL)
        said = writer.stdout.read()  # not `communicate`: it would lose what `readline` has read ahead
        complaints = writer.stderr.read()
    assert writer.returncode == -signal.SIGKILL, complaints
    return [json.loads(line) for line in said.splitlines() if line.endswith("}")]


async def look(config: dict[str, Any]) -> dict[str, str]:
    """Check that every group of memories is complete and found; return their versions."""
    groups: dict[str, dict[str, str]] = {}
    async with pattern_core.open(config) as db:
        async for memory in db.memories.iterate():
            group, _, number = memory.label.partition("-")
            groups.setdefault(group, {})[number] = memory.content
            (hit, *_) = await db.memories.search_semantic("a", memory.content, limit=1)
            assert hit.memory == memory
            assert hit.score == pytest.approx(1, abs=1e-5)
        count = await db.memories.count()
        assert len(await db.memories.search_semantic("a", "word", limit=count + 10)) == count
        for spec in await read_index_specs(db.storage, "cosine"):
            assert (await verify_index(db.storage, db.vectors, spec)).ok
    versions = {}
    for group, contents in groups.items():
        assert sorted(contents) == ["0", "1", "2", "3", "4"], f"group {group} is not whole: {contents}"
        (version,) = {content.split()[1] for content in contents.values()}
        assert contents == {n: f"word{group} {version} n{n}" for n in contents}
        versions[group] = version
    return versions


def expect(acknowledged: dict[str, str], said: list[dict[str, str | None]], found: Mapping[str, str]) -> None:
    """Compare the records with the reports; the last attempt may have taken effect or not."""
    trying: dict[str, str | None] | None = None
    for line in said:
        if "trying" in line:
            trying = line
        else:
            trying = None
            if line["content"] is None:
                acknowledged.pop(str(line["group"]), None)
            else:
                acknowledged[str(line["group"])] = line["content"]
    if trying is not None and found.get(str(trying["trying"])) == trying["content"]:
        if trying["content"] is None:
            acknowledged.pop(str(trying["trying"]), None)
        else:
            acknowledged[str(trying["trying"])] = trying["content"]
    assert found == acknowledged


async def test_killed_while_writing(config: dict[str, Any]) -> None:
    """After each kill, exactly the acknowledged batches are there and found, each complete; index and records agree."""
    dice = random.Random(2026)
    acknowledged: dict[str, str] = {}
    steps = 0
    for round_number in range(ROUNDS):
        said = run_and_kill(config, round_number, dice.uniform(0, 1))
        steps += len(said)
        expect(acknowledged, said, await look(config))

    assert steps > ROUNDS
