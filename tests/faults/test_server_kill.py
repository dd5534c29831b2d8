"""A database on a server, used by several processes: the server is killed, or one of them, or they get in each other's way.

``PATTERN_FAULT_ROUNDS`` sets how often, ``PATTERN_FAULT_CLIENTS`` how many processes there are, ``PATTERN_FAULT_TIMES``
how often each counts.
"""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

import pattern_core
from pattern_core import Database
from pattern_core.maintenance.indexes import read_index_specs, verify_index
from tests.servers.s3 import Store
from tests.servers.surreal import Server

from .crowd import Crowd, gathered, prepare
from .test_kill import expect, look, run_and_kill
from .test_reembed_kill import MODELS
from .test_reembed_kill import expect as expect_reembedded
from .test_reembed_kill import look as look_at_model
from .test_reembed_kill import run as run_reembedder
from .test_reembed_kill import set_up as set_up_reembedding

pytest.importorskip("pattern_surreal_remote", reason="needs the plugin surreal-remote")

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]

ROUNDS: Final = int(os.environ.get("PATTERN_FAULT_ROUNDS", "2"))
CLIENTS: Final = int(os.environ.get("PATTERN_FAULT_CLIENTS", "4"))
TIMES: Final = int(os.environ.get("PATTERN_FAULT_TIMES", "20"))
CALL_TIMEOUT_S: Final = 4.0
SLACK_S: Final = 5.0
"""What a machine with two cores adds to a timeout under a dozen processes, in seconds."""
_LOGGER: Final = logging.getLogger(__name__)
"""Logs the figures, with ``--log-cli-level=INFO``."""


@pytest.fixture
def config(own_server: Server) -> dict[str, Any]:
    """A configuration of a new, empty database on a server of its own."""
    return {
        "database": {"type": "surreal-remote", **own_server.section(timeout=CALL_TIMEOUT_S)},
        "embeddings": {"provider": "hashing", "dimensions": 128},
    }


def _longest(ended: list[dict[str, Any]]) -> float:
    return max(float(line["seconds"]) for line in ended)


async def check_counts(db: Database, crowd: Crowd) -> None:
    """Check that each count has every acknowledged increment once, and otherwise only those of unknown outcome."""
    ids = {line["count"] for line in crowd.lines("count")}
    for id in ids:
        ended = [line for line in crowd.lines("done", "failed") if line.get("count") == id]
        pending = sum(client.pending is not None and client.pending.get("count") == id for client in crowd.clients)
        sure = sum("done" in line for line in ended)
        unknown = sum("failed" in line and line["unknown"] for line in ended) + pending
        found = (await db.agents.get(id)).state.get("count", 0)
        assert sure <= found <= sure + unknown, f"{id}: {found} of {sure} and {unknown} unknown"


async def check_records(db: Database, crowd: Crowd) -> None:
    """Check that every acknowledged record is there once, and otherwise only those of unknown outcome."""
    found = Counter([f"memory {each.label}" async for each in db.memories.iterate()])
    found += Counter([f"user {each.metadata['by']}" for each in await db.users.list(limit=100_000)])
    del found["user the test"]
    expected: dict[str, set[str]] = {"done": set(), "unknown": set()}
    for client in crowd.clients:
        pending = [client.pending] if client.pending else []
        for line in [*(each for each in client.said if "done" in each or each.get("unknown")), *pending]:
            for kind in ("memory", "user"):
                if kind in line:
                    expected["done" if "done" in line else "unknown"].add(f"{kind} {line[kind]}")
    assert set(found.values()) <= {1}
    assert expected["done"] <= set(found)
    assert set(found) <= expected["done"] | expected["unknown"]


async def check_found(db: Database) -> None:
    """Check that every memory is found by its text, and the index agrees with the records."""
    async for memory in db.memories.iterate():
        (hit, *_) = await db.memories.search_semantic("a", memory.content, limit=1)
        assert hit.memory == memory
    for spec in await read_index_specs(db.storage, "cosine"):
        assert (await verify_index(db.storage, db.vectors, spec)).ok


async def test_the_server_is_killed_under_load(own_server: Server, config: dict[str, Any]) -> None:
    """Every acknowledged write is there once, no call exceeds its timeout, and clients continue by themselves.

    At the end, the server stays away until each client has given up a call.
    """
    await prepare(config, CLIENTS)
    dice = random.Random(2026)
    async with gathered(config, CLIENTS) as crowd:
        for _ in range(ROUNDS):
            await crowd.go_on_for(dice.randrange(1, 12 * CLIENTS))
            own_server.restart()
        await crowd.go_on_for(CLIENTS)
        own_server.kill()
        await crowd.until(lambda: all(crowd.lines("failed", by=[client]) for client in crowd.clients))
        own_server.start()
        await crowd.finish()

    ended = crowd.lines("done", "failed")
    failures = Counter(f"{line['failed']} {line['unknown']}" for line in crowd.lines("failed"))
    _LOGGER.info("writes: %d, failed: %s, longest: %.2f s", len(ended), dict(failures), _longest(ended))
    assert {line["failed"] for line in crowd.lines("failed")} <= {"UnreachableError"}
    assert _longest(ended) <= CALL_TIMEOUT_S + SLACK_S
    async with pattern_core.open(config) as db:
        await check_counts(db, crowd)
        await check_records(db, crowd)
        await check_found(db)


async def test_all_add_to_one_record(config: dict[str, Any]) -> None:
    """If many processes increment one record, each with a read and a write, every increment counts exactly once."""
    await prepare(config, 0)
    async with gathered(config, CLIENTS, times=TIMES) as crowd:
        await crowd.finish()
    assert crowd.lines("failed") == []
    _LOGGER.info("longest of %d: %.2f s", CLIENTS * TIMES, _longest(crowd.lines("done")))
    async with pattern_core.open(config) as db:
        assert (await db.agents.get("shared")).state["count"] == CLIENTS * TIMES


async def test_a_client_is_killed_while_writing(config: dict[str, Any]) -> None:
    """After each kill of a client, exactly the acknowledged batches are there and found, each complete."""
    dice = random.Random(2026)
    acknowledged: dict[str, str] = {}
    for number in range(ROUNDS):
        said = run_and_kill(config, number, dice.uniform(0, 1))
        expect(acknowledged, said, await look(config))


async def test_a_client_dies_between_two_places(config: dict[str, Any], store: Store) -> None:
    """With an external index, any client applies the pending updates of a killed one before it searches."""
    config = {**config, "vectors": {"provider": "lancedb", **store.section()}}
    await prepare(config, CLIENTS)
    dice = random.Random(2026)
    async with gathered(config, CLIENTS) as crowd:
        for victim in crowd.clients[: min(ROUNDS, CLIENTS - 1)]:
            await crowd.go_on_for(dice.randrange(1, 4 * CLIENTS))
            await crowd.kill(victim)
            await crowd.go_on_for(CLIENTS)
        await crowd.finish()
    assert crowd.lines("failed") == []
    _LOGGER.info("writes: %d, longest: %.2f s", len(crowd.lines("done")), _longest(crowd.lines("done")))
    async with pattern_core.open(config) as db:
        await check_counts(db, crowd)
        await check_records(db, crowd)
        await check_found(db)


async def test_the_model_changes_while_others_write(config: dict[str, Any], tmp_path: Path) -> None:
    """A change of the model on a server, during writes and searches, loses nothing if it is killed."""
    config = {"database": config["database"]}
    await set_up_reembedding(config)
    acknowledged: dict[str, str] = {}
    said = run_reembedder(config, 1, 0.5)
    _, found = await look_at_model(config)
    expect_reembedded(acknowledged, said, found)
    said = run_reembedder(config, 2, None)
    now, found = await look_at_model(config)
    assert now in {model["dimensions"] for model in MODELS}
    assert [line["switched"] for line in said if "switched" in line] == [now]
    expect_reembedded(acknowledged, said, found)
