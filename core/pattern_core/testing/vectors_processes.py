"""The rules of an external `VectorStore` that kill a process, or write in two."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Final

import numpy as np
import pytest

from pattern_core.abc import IndexSpec, Put, Storage, VectorChange, VectorStore
from pattern_core.errors import ConfigError
from pattern_core.hookspecs import VectorSpec
from pattern_core.schema import CreateTable

from .child_processes import ChildProcessRules, Start
from .indexed_storage import DIMENSIONS, TASKS, axis, clustered
from .memory_storage import MemoryStorage
from .mirror_index import MirrorIndex
from .rows import sample_row

__all__ = ["ExternalRules", "apply_and_search", "apply_forever", "create_index"]

RECORDS: Final = 400

OpenVectors = Callable[[Storage], Awaitable[VectorStore]]

_SPEC: Final = IndexSpec(TASKS, DIMENSIONS, "cosine", "this database")


async def apply_forever(pipe: Connection, open_vectors: OpenVectors) -> None:
    """Apply one change after another, and send the number of each acknowledged one."""
    async with await open_vectors(await _empty()) as vectors:
        await vectors.create(_SPEC)
        for number in range(10_000):
            await vectors.apply(TASKS, [VectorChange(f"t{number}", "ada", axis(number % DIMENSIONS))])
            pipe.send(number)


async def create_index(pipe: Connection, open_vectors: OpenVectors) -> None:
    """Create the index of a storage with records."""
    async with await open_vectors(await _filled()) as vectors:
        pipe.send("started")
        await vectors.create(_SPEC)
        pipe.send("done")


async def apply_and_search(pipe: Connection, open_vectors: OpenVectors) -> None:
    """Apply a change, wait for a message, search, and send the ids that were found."""
    async with await open_vectors(await _empty()) as vectors:
        await vectors.create(_SPEC)
        await vectors.apply(TASKS, [VectorChange("t1", "ada", axis(1))])
        pipe.send("applied")
        pipe.recv()
        pipe.send((await vectors.search(TASKS, axis(1), partitions=["ada"], limit=5)).ids)


async def _empty() -> Storage:
    storage = MemoryStorage()
    await storage.apply_schema(CreateTable(TASKS, DIMENSIONS))
    return storage


async def _filled() -> Storage:
    storage = await _empty()
    vectors = clustered(np.random.default_rng(4), RECORDS)
    rows = [sample_row(TASKS, f"t{n}", user_id="ada", embedding=vector) for n, vector in enumerate(vectors)]
    await storage.commit([Put(TASKS, row) for row in rows])
    return storage


class ExternalRules(ChildProcessRules):
    """External indexes: applied changes survive a kill, and an interrupted build is repeated."""

    spec: VectorSpec

    @pytest.fixture
    async def external(self, open_vectors: OpenVectors) -> OpenVectors:
        """Return a function that opens an external index; skip other indexes."""
        try:
            vectors = await open_vectors(MemoryStorage())
        except ConfigError:
            pytest.skip("this index works only over certain storages")
        async with vectors:
            if isinstance(vectors, MirrorIndex) or vectors.location is None:
                pytest.skip("this index is not external")
        return open_vectors

    async def test_a_killed_process_loses_no_applied_change(self, external: OpenVectors, start: Start) -> None:
        """After ``kill -9`` at any time, the index holds every change that `apply` acknowledged.

        If it fails: `apply` returned before the change was durable. Core has then already removed it from the outbox.
        """
        generator = random.Random(3)  # noqa: S311 - a kill at the same time in each run
        child = start(apply_forever, external)
        applied = 0
        for _ in range(generator.randrange(5, 15)):
            applied = await child.receive() + 1
        await asyncio.sleep(generator.uniform(0, 0.02))
        applied += len(await child.kill())
        async with await external(await _empty()) as vectors:
            await vectors.create(_SPEC)
            assert await vectors.count(TASKS) in (applied, applied + 1)
            found = await vectors.search(TASKS, axis(0), partitions=["ada"], limit=applied + 1)
            assert set(found.ids) >= {f"t{n}" for n in range(applied)}

    async def test_an_interrupted_create_is_repeated(self, external: OpenVectors, start: Start) -> None:
        """After ``kill -9`` during `create`, the next `create` builds a complete index.

        If it fails: record that the index is ready, and its spec, in the last step of the build.
        """
        for delay in (0, 0.02, 0.1):
            child = start(create_index, external)
            assert await child.receive() == "started"
            await asyncio.sleep(delay)
            await child.kill()
            async with await external(await _filled()) as vectors:
                await vectors.create(_SPEC)
                assert await vectors.count(TASKS) == RECORDS
                found = await vectors.search(TASKS, axis(0), partitions=["ada"], limit=RECORDS)
                assert len(found.ids) == RECORDS
                await vectors.drop(TASKS)

    async def test_another_process_finds_an_applied_change_at_once(self, external: OpenVectors, start: Start) -> None:
        """A change that one process applied is visible to the next search in another.

        If it fails: check for a newer state before each search (a read consistency interval of 0).
        """
        async with await external(await _empty()) as vectors:
            await vectors.create(_SPEC)
            child = start(apply_and_search, external)
            assert await child.receive() == "applied"
            assert (await vectors.search(TASKS, axis(1), partitions=["ada"], limit=5)).ids == ("t1",)
            await vectors.apply(TASKS, [VectorChange("t2", "ada", axis(2)), VectorChange("t1", "ada", None)])
            child.pipe.send("search")
            assert await child.receive() == ("t2",)
