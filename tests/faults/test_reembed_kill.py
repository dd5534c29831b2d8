"""kill -9 while the embedding model is changed and others write: every memory ends with the new model's vectors.

``PATTERN_FAULT_ROUNDS`` sets how many rounds there are, ``PATTERN_FAULT_RECORDS`` how many memories.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import pytest

import pattern_core
from pattern_core import Database, SignatureMismatchError
from pattern_core.catalog.metadata import read_metadata
from pattern_core.catalog.tables import EMBEDDING_QUEUE, vector_table
from pattern_core.embedding.chunks import hash_text, record_id_of
from pattern_core.maintenance.indexes import read_index_specs, verify_index
from pattern_core.schema import TABLES

from .test_kill import KINDS

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1800)]

ROUNDS: Final = int(os.environ.get("PATTERN_FAULT_ROUNDS", "4"))
RECORDS: Final = int(os.environ.get("PATTERN_FAULT_RECORDS", "400"))
REEMBEDDER: Final = Path(__file__).with_name("reembedder.py")
MODELS: Final = [{"provider": "hashing", "dimensions": 128}, {"provider": "hashing", "dimensions": 96}]
MEMORIES: Final = TABLES["memory_blocks"]

Said = list[dict[str, Any]]


@pytest.fixture(params=list(KINDS))
def config(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A configuration of one engine, without a model, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("surreal-embedded", "lancedb"):
        if name in request.param:
            pytest.importorskip(f"pattern_{name.replace('-', '_')}", reason=f"needs the plugin {name}")
    return KINDS[request.param]


async def set_up(config: dict[str, Any]) -> None:
    """Create a database with two agents: the memories of one are never written again, those of the other are."""
    async with pattern_core.open({**config, "embeddings": MODELS[0]}) as db:
        await db.users.create(id="u")
        for name in ("still", "busy"):
            await db.agents.create(user_id="u", agent_type=name, name=name, id=name)
        for start in range(0, RECORDS, 1000):
            numbers = range(start, min(start + 1000, RECORDS))
            await db.memories.create_many(
                [{"agent_id": "still", "label": f"{n}", "content": f"memory number {n}"} for n in numbers]
            )


def run(config: dict[str, Any], seed: int, seconds: float | None) -> Said:
    """Start the change of the model, kill it after some time, or never; return its reports."""
    command = [sys.executable, str(REEMBEDDER), json.dumps(config), json.dumps(MODELS), str(RECORDS), str(seed)]
    command.append("end" if seconds is None else "on")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        first = child.stdout.readline()
        assert first, child.stderr.read()
        if seconds is not None:
            time.sleep(seconds)  # the point at which it dies is what is random here
            child.send_signal(signal.SIGKILL)
        said = child.stdout.read()
        complaints = child.stderr.read()
    assert child.returncode == (0 if seconds is None else -signal.SIGKILL), complaints
    return [json.loads(line) for line in [first, *said.splitlines()] if line.rstrip().endswith("}")]


async def look(config: dict[str, Any]) -> tuple[int, dict[str, str]]:
    """Check the database; return the active model, and the memories of the busy agent."""
    for model in MODELS:
        try:
            db = await pattern_core.open({**config, "embeddings": model})
        except SignatureMismatchError:
            continue
        async with db:
            return await check(db), {each.label: each.content async for each in db.memories.iterate(_BUSY)}
    raise AssertionError("the vectors are of neither model")


_BUSY = pattern_core.Field("agent_id") == "busy"


async def check(db: Database) -> int:
    """Check that every memory has a vector of its text by the active model, and is found."""
    known = await read_metadata(db.storage)
    assert known.active is not None
    rows = await db.storage.find(vector_table(MEMORIES, known.active.number), vectors=True)
    expected = {each.id: hash_text(each.content) async for each in db.memories.iterate()}
    assert {record_id_of(row["id"]): row["text_hash"] for row in rows} == expected
    assert {row["signature"] for row in rows} == {known.active.signature.digest}
    assert {row["embedding"].size for row in rows} == {known.active.signature.dimensions}
    assert len(await db.memories.search_semantic("still", "memory number", limit=RECORDS + 10)) == RECORDS
    for spec in await read_index_specs(db.storage, "cosine"):
        assert (await verify_index(db.storage, db.vectors, spec)).ok
    return known.active.signature.dimensions


def expect(acknowledged: dict[str, str], said: Said, found: dict[str, str]) -> None:
    """Compare the memories with the reports; each writer's last attempt may have taken effect or not."""
    trying: dict[str, dict[str, Any]] = {}
    for line in said:
        if "trying" in line:
            trying[line["writer"]] = line
        elif "done" in line:
            del trying[line["writer"]]
            _set(acknowledged, line["done"], line["content"])
    for line in trying.values():
        if found.get(line["trying"]) == line["content"]:
            _set(acknowledged, line["trying"], line["content"])
    assert found == acknowledged


def _set(memories: dict[str, str], label: str, content: str | None) -> None:
    if content is None:
        memories.pop(label, None)
    else:
        memories[label] = content


async def test_killed_while_the_model_changes(config: dict[str, Any]) -> None:
    """A change of the model that is killed at any time is completed: no memory is missed, and no search mixes models."""
    await set_up(config)
    dice = random.Random(2026)
    acknowledged: dict[str, str] = {}
    lasted, switched, deaths = 1.0, 0, 0
    for number in range(ROUNDS):
        said = run(config, number, dice.uniform(0, 1.2 * lasted))
        before = said[0]["opened"]
        assert {line["found"] for line in said if "found" in line} <= {RECORDS}
        changed = [line["switched"] for line in said if "switched" in line]
        switched += len(changed)
        deaths += not changed
        lasted *= 0.8 if changed else 1.5  # so that most rounds end in the midst of the change
        now, found = await look(config)
        assert now in {before, *changed, *(model["dimensions"] for model in MODELS if not changed)}
        expect(acknowledged, said, found)

    said = run(config, ROUNDS, None)
    (new,) = [line["switched"] for line in said if "switched" in line]
    assert {line["found"] for line in said if "found" in line} == {RECORDS}
    now, found = await look(config)
    assert now == new != said[0]["opened"]
    expect(acknowledged, said, found)
    assert deaths > 0
    async with pattern_core.open({**config, "embeddings": {"provider": "hashing", "dimensions": now}}) as db:
        assert await db.storage.count(EMBEDDING_QUEUE) == 0
