"""The engine's index: its parameters, its array column, and the fallback to brute force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pattern_core.abc import Delete, IndexSpec, Insert, Patch, Vector
from pattern_core.errors import StorageError
from pattern_core.schema import CreateTable, DropTable
from pattern_core.testing import DIMENSIONS, TASKS, sample_row, sample_vector
from pattern_surreal.array_column import State, set_state
from pattern_surreal.native import NativeIndex
from pattern_surreal_embedded.plugin import VectorOptions, pattern_vectors
from pattern_surreal_embedded.storage import EmbeddedStorage

pytestmark = pytest.mark.anyio

SPEC = IndexSpec(TASKS, DIMENSIONS, "cosine")


class WaitingIndex(NativeIndex):
    """An index whose `create` waits for the engine's, so that the tests do not use brute force."""

    async def create(self, index: IndexSpec) -> None:
        """Create the index, and wait until it is ready."""
        await super().create(index)
        await self.maintain()


def native(storage: EmbeddedStorage, **parameters: Any) -> NativeIndex:
    """Return an index with some parameters."""
    return WaitingIndex(storage, **{"efc": 150, "m": 12, "ef": 150, **parameters})


def tasks(names: range, user: str = "ada") -> list[Insert]:
    """Return inserts of tasks with vectors."""
    rows = [sample_row(TASKS, f"t{n:04}", user_id=user, embedding=sample_vector(f"t{n:04}")) for n in names]
    return [Insert(TASKS, row) for row in rows]


async def definition(storage: EmbeddedStorage) -> str:
    """Return the engine's definition of the index."""
    return str((await storage.execute("INFO FOR TABLE kit_tasks"))["indexes"]["by_vector"])


async def held(storage: EmbeddedStorage) -> dict[str, Any]:
    """Return the array column by record."""
    rows = await storage.execute("SELECT record::id(id) AS id, embedding_native AS held FROM kit_tasks")
    return {row["id"]: row["held"] for row in rows}


def array(vector: Vector) -> list[float]:
    """Return a vector as the array column holds it."""
    return [float(each) for each in vector]


async def test_the_parameters_reach_the_engine(storage: EmbeddedStorage) -> None:
    """The engine's definition has the dimensions, metric, EFC and M; changed ones rebuild the index."""
    await storage.commit(tasks(range(30)))
    for metric, efc, m in [("cosine", 150, 12), ("cosine", 90, 12), ("cosine", 90, 20), ("manhattan", 90, 20)]:
        index = native(storage, efc=efc, m=m)
        await index.create(IndexSpec(TASKS, DIMENSIONS, metric))
        wanted = f"HNSW DIMENSION {DIMENSIONS} DIST {metric.upper()} TYPE F32 EFC {efc} M {m} "
        assert wanted in await definition(storage)
        assert await index.count(TASKS) == 30
        found = await index.search(TASKS, sample_vector("t0007"), partitions=["ada"], limit=3)
        assert found.ids[0] == "t0007"
        assert not found.exact


async def test_other_dimensions_need_other_vectors(storage: EmbeddedStorage) -> None:
    """An index with other dimensions than the vectors is rejected with an error that names them; a right one works."""
    await storage.commit(tasks(range(3)))
    index = native(storage)
    with pytest.raises(StorageError, match="dimension"):
        await index.create(IndexSpec(TASKS, DIMENSIONS + 1, "cosine"))
    await index.create(SPEC)
    assert (await index.search(TASKS, sample_vector("t0001"), partitions=["ada"], limit=1)).ids == ("t0001",)


async def test_commits_update_the_array_column(storage: EmbeddedStorage) -> None:
    """A commit that changes a vector also changes the array column; other commits do not."""
    await native(storage).create(SPEC)
    await storage.commit(tasks(range(5)))
    await storage.commit(
        [
            Patch(TASKS, "t0000", {"embedding": sample_vector("new")}),
            Patch(TASKS, "t0001", {"embedding": None}),
            Patch(TASKS, "t0002", {"title": "new"}),
            Delete(TASKS, "t0003"),
        ]
    )
    assert await held(storage) == {
        "t0000": array(sample_vector("new")),
        "t0001": None,
        "t0002": array(sample_vector("t0002")),
        "t0004": array(sample_vector("t0004")),
    }
    assert "embedding_native" not in (await storage.find(TASKS, vectors=True))[0]


async def test_commits_update_the_column_without_an_index(tmp_path: Path) -> None:
    """Commits update the array column of a reopened database even if no index is open, so it is never stale."""
    folder = tmp_path / "pattern.db"
    async with await EmbeddedStorage.open(folder) as storage:
        await storage.apply_schema(CreateTable(TASKS, DIMENSIONS))
        await native(storage).create(SPEC)
        await storage.commit(tasks(range(3)))
    async with await EmbeddedStorage.open(folder) as storage:
        await storage.commit([Patch(TASKS, "t0001", {"embedding": sample_vector("new")}), *tasks(range(3, 5))])
        index = native(storage)
        await index.create(SPEC)
        assert (await index.search(TASKS, sample_vector("new"), partitions=["ada"], limit=1)).ids == ("t0001",)
        assert (await index.search(TASKS, sample_vector("t0004"), partitions=["ada"], limit=1)).ids == ("t0004",)


async def test_the_default_index_removes_the_column(storage: EmbeddedStorage) -> None:
    """The index in this process removes array columns and indexes; the native index creates them again."""
    await storage.commit(tasks(range(450)))
    await native(storage).create(SPEC)
    async with await pattern_vectors().open(VectorOptions(), storage):
        info = await storage.execute("INFO FOR TABLE kit_tasks")
        assert not [name for name in (*info["fields"], *info["indexes"]) if "native" in name or "vector" in name]
        assert all(value is None for value in (await held(storage)).values())
    await storage.commit(tasks(range(450, 460)))
    index = native(storage)
    await index.create(SPEC)
    assert await index.count(TASKS) == 460
    assert (await index.search(TASKS, sample_vector("t0455"), partitions=["ada"], limit=1)).ids == ("t0455",)


async def test_an_interrupted_backfill_is_resumed(storage: EmbeddedStorage) -> None:
    """If a backfill was interrupted, `create` fills the array column of the remaining records."""
    await native(storage).create(SPEC)
    await storage.commit(tasks(range(20)))
    await storage.execute("UPDATE kit_tasks SET embedding_native = NONE WHERE title > 'title of t0010'")
    await storage.execute(set_state("kit_tasks", State("embedding_native", filled=False)))
    index = native(storage)
    await index.create(SPEC)
    assert await index.count(TASKS) == 20
    assert await held(storage) == {f"t{n:04}": array(sample_vector(f"t{n:04}")) for n in range(20)}


async def test_brute_force_replaces_a_missing_index(storage: EmbeddedStorage) -> None:
    """Without the engine's index, its answer has no distances and is rejected: the search is exact."""
    index = native(storage)
    await storage.commit(tasks(range(50)))
    await index.create(SPEC)
    by_index = await index.search(TASKS, sample_vector("query"), partitions=["ada"], limit=10)
    await storage.execute("REMOVE INDEX by_vector ON kit_tasks")
    compared = await index.search(TASKS, sample_vector("query"), partitions=["ada"], limit=10)
    assert (by_index.exact, compared.exact) == (False, True)
    assert compared.ids == by_index.ids
    assert np.allclose(compared.scores, by_index.scores, atol=1e-6)


async def test_a_small_partition_among_many(storage: EmbeddedStorage) -> None:
    """A search finds a few distant records of one partition among many closer ones of another."""
    query = sample_vector("query")
    near = [
        sample_row(TASKS, f"near{n}", user_id="ada", embedding=query + 0.01 * sample_vector(f"near{n}"))
        for n in range(400)
    ]
    far = [sample_row(TASKS, f"far{n}", user_id="bob", embedding=-query + sample_vector(f"far{n}")) for n in range(5)]
    await storage.commit([Insert(TASKS, row) for row in near + far])
    index = native(storage, ef=10)
    await index.create(SPEC)
    found = await index.search(TASKS, query, partitions=["bob"], limit=10)
    assert set(found.ids) == {f"far{n}" for n in range(5)}
    assert found.exact
    assert set((await index.search(TASKS, query, partitions=["bob"], limit=3)).ids) <= set(found.ids)


async def test_a_recreated_table_has_no_array_column(storage: EmbeddedStorage) -> None:
    """After a table was dropped and created again, commits do not write its removed array column."""
    await native(storage).create(SPEC)
    await storage.apply_schema(DropTable(TASKS))
    await storage.apply_schema(CreateTable(TASKS, DIMENSIONS))
    await storage.commit(tasks(range(3)))
    assert await storage.count(TASKS) == 3
