"""The rules of an external `VectorStore` that need a process to die, or two to work at once."""

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

__all__ = ["ExternalRules", "apply_when_told", "apply_without_end", "create_only"]

RECORDS: Final = 400

OpenVectors = Callable[[Storage], Awaitable[VectorStore]]

_SPEC: Final = IndexSpec(TASKS, DIMENSIONS, "cosine", "this database")


async def apply_without_end(pipe: Connection, open_vectors: OpenVectors) -> None:
    """Tell the index of one record after the other, and say each that was acknowledged."""
    async with await open_vectors(await _empty()) as vectors:
        await vectors.create(_SPEC)
        for number in range(10_000):
            await vectors.apply(TASKS, [VectorChange(f"t{number}", "ada", axis(number % DIMENSIONS))])
            pipe.send(number)


async def create_only(pipe: Connection, open_vectors: OpenVectors) -> None:
    """Make the index of what the storage holds."""
    async with await open_vectors(await _filled()) as vectors:
        pipe.send("begins")
        await vectors.create(_SPEC)
        pipe.send("done")


async def apply_when_told(pipe: Connection, open_vectors: OpenVectors) -> None:
    """Tell the index of a record, then say what one finds oneself."""
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
    """An index in a place of its own keeps what it was told, and does not pass for ready when it is not."""

    spec: VectorSpec

    @pytest.fixture
    async def external(self, open_vectors: OpenVectors) -> OpenVectors:
        """How to open an external index that outlives its process; others are skipped."""
        try:
            vectors = await open_vectors(MemoryStorage())
        except ConfigError:
            pytest.skip("this index searches inside a certain storage")
        async with vectors:
            if isinstance(vectors, MirrorIndex) or vectors.location is None:
                pytest.skip("this index is not kept in a place of its own")
        return open_vectors

    async def test_a_killed_process_leaves_what_the_index_was_told(self, external: OpenVectors, start: Start) -> None:
        """After kill -9 at any moment, the index holds every change that `apply` acknowledged.

        If it fails: `apply` returned before the change was written. Core has by then forgotten that it was due.
        """
        dice = random.Random(3)  # noqa: S311 - the moment of death, the same in each run
        child = start(apply_without_end, external)
        taken = 0
        for _ in range(dice.randrange(5, 15)):
            taken = await child.hear() + 1
        await asyncio.sleep(dice.uniform(0, 0.02))
        taken += len(await child.kill())
        async with await external(await _empty()) as vectors:
            await vectors.create(_SPEC)
            assert await vectors.count(TASKS) in (taken, taken + 1)
            found = await vectors.search(TASKS, axis(0), partitions=["ada"], limit=taken + 1)
            assert set(found.ids) >= {f"t{n}" for n in range(taken)}

    async def test_an_index_left_unfinished_is_not_taken_for_ready(self, external: OpenVectors, start: Start) -> None:
        """After kill -9 in the midst of `create`, the next `create` leads to an index that holds all there is.

        If it fails: record that the index is ready, and for what, after everything else, in the same step as the last.
        """
        for delay in (0, 0.02, 0.1):
            child = start(create_only, external)
            assert await child.hear() == "begins"
            await asyncio.sleep(delay)
            await child.kill()
            async with await external(await _filled()) as vectors:
                await vectors.create(_SPEC)
                assert await vectors.count(TASKS) == RECORDS
                found = await vectors.search(TASKS, axis(0), partitions=["ada"], limit=RECORDS)
                assert len(found.ids) == RECORDS
                await vectors.drop(TASKS)

    async def test_what_one_process_told_another_finds_at_once(self, external: OpenVectors, start: Start) -> None:
        """A change that one process has told an external index is found by another one's next search.

        If it fails: look for a newer state before each search (a read consistency interval of zero).
        """
        async with await external(await _empty()) as vectors:
            await vectors.create(_SPEC)
            child = start(apply_when_told, external)
            assert await child.hear() == "applied"
            assert (await vectors.search(TASKS, axis(1), partitions=["ada"], limit=5)).ids == ("t1",)
            await vectors.apply(TASKS, [VectorChange("t2", "ada", axis(2)), VectorChange("t1", "ada", None)])
            child.pipe.send("look")
            assert await child.hear() == ("t2",)
