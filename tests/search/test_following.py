"""Following the commit log: the vector search in memory reads what others have changed, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pattern_core.abc import Delete, IndexSpec, Insert, Put, Row, Storage, VectorChange, Write
from pattern_core.catalog.commit_log import log_reset, logged
from pattern_core.catalog.follower import Follower
from pattern_core.schema import COMMIT_LOG, CreateTable, Table
from pattern_core.search.exact import ExactIndex
from pattern_core.testing import DIMENSIONS, VECTORS, MemoryData, MemoryStorage, sample_row, sample_vector

pytestmark = pytest.mark.anyio

SPEC = IndexSpec(VECTORS, DIMENSIONS, "cosine")


class Reads(MemoryStorage):
    """A storage that records which ids and partitions are read with their vectors."""

    def __init__(self, data: MemoryData) -> None:
        super().__init__(data)
        self.read: list[str] = []

    async def get(self, table: Table, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        if vectors:
            self.read += ids
        return await super().get(table, ids, vectors=vectors)


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Reads, MemoryStorage]]:
    """Two storages with the same data, as of two processes."""
    data: MemoryData = {}
    async with Reads(data) as ours, MemoryStorage(data) as theirs:
        for table in (VECTORS, COMMIT_LOG):
            await ours.apply_schema(CreateTable(table, DIMENSIONS))
        yield ours, theirs


def _vector(id: str, partition: str, seed: str = "") -> Row:
    return sample_row(VECTORS, id, partition=partition, embedding=sample_vector(seed or id))


async def _commit(storage: Storage, *batch: Write) -> None:
    await storage.commit(logged(batch, storage.writer))


async def _search(index: ExactIndex, follower: Follower, partition: str) -> tuple[str, ...]:
    async with follower.catch_up() as changes:
        await index.refresh(changes)
    found = await index.search(VECTORS, sample_vector("q"), partitions=[partition], limit=100)
    return found.ids


async def test_only_changed_vectors_of_loaded_partitions_are_read(pair: tuple[Reads, MemoryStorage]) -> None:
    """A commit of another process makes the index read the changed vectors of loaded partitions, and no others."""
    ours, theirs = pair
    await _commit(theirs, *(Insert(VECTORS, _vector(f"{name}{n}", name)) for name in "ab" for n in range(50)))
    async with ExactIndex(ours) as index:
        await index.create(SPEC)
        follower = Follower(ours)
        assert len(await _search(index, follower, "a")) == 50
        await _commit(theirs, Put(VECTORS, _vector("a1", "a", "new")), Put(VECTORS, _vector("b1", "b", "new")))
        await _commit(theirs, Delete(VECTORS, "a2", partition="a"), Insert(VECTORS, _vector("a99", "a")))
        ids = await _search(index, follower, "a")
        assert sorted(ours.read) == ["a1", "a2", "a99"]
        assert "a2" not in ids
        assert "a99" in ids
        ours.read.clear()
        assert await _search(index, follower, "a") == ids
        assert ours.read == []


async def test_own_commits_are_not_reported(pair: tuple[Reads, MemoryStorage]) -> None:
    """A follower does not report the commits of its own storage object."""
    ours, theirs = pair
    follower = Follower(ours)
    async with follower.catch_up() as changes:
        assert changes is None
    await _commit(ours, Insert(VECTORS, _vector("mine", "a")))
    assert not await follower.is_behind()
    await _commit(theirs, Insert(VECTORS, _vector("theirs", "a")))
    assert await follower.is_behind()
    async with follower.catch_up() as changes:
        assert changes is not None
        assert [each.id for each in changes] == ["theirs"]
    assert not await follower.is_behind()


async def test_a_cancelled_catch_up_is_repeated(pair: tuple[Reads, MemoryStorage]) -> None:
    """If a catch-up is cancelled or fails, the next one reports the same changes."""
    ours, theirs = pair
    follower = Follower(ours)
    async with follower.catch_up():
        pass
    await _commit(theirs, Insert(VECTORS, _vector("theirs", "a")))

    async def interrupted() -> None:
        async with follower.catch_up():
            await asyncio.sleep(3600)

    task = asyncio.create_task(interrupted())
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    with pytest.raises(RuntimeError):
        async with follower.catch_up():
            raise RuntimeError
    async with follower.catch_up() as changes:
        assert changes is not None
        assert [each.id for each in changes] == ["theirs"]


@pytest.mark.parametrize("cause", ["reset", "pruned"])
async def test_an_unknown_position_reads_everything_again(pair: tuple[Reads, MemoryStorage], cause: str) -> None:
    """If the log cannot tell what has changed, the index forgets what it holds."""
    ours, theirs = pair
    await _commit(theirs, Insert(VECTORS, _vector("a1", "a")))
    async with ExactIndex(ours) as index:
        await index.create(SPEC)
        follower = Follower(ours)
        assert await _search(index, follower, "a") == ("a1",)
        await theirs.commit([Insert(VECTORS, _vector("a2", "a"))])  # not in the log, as while restoring
        if cause == "reset":
            await theirs.commit([log_reset(theirs.writer)])
        else:
            rows = await theirs.find(COMMIT_LOG)
            await _commit(theirs, Insert(VECTORS, _vector("b1", "b")))
            await theirs.commit([Delete(COMMIT_LOG, row["id"]) for row in rows])
        assert sorted(await _search(index, follower, "a")) == ["a1", "a2"]


WRITES = st.lists(
    st.tuples(st.sampled_from(["put", "delete", "own put", "own delete", "search a", "search b"]), st.integers(0, 5)),
    max_size=30,
)


@given(steps=WRITES)
@settings(deadline=None)
def test_any_history(steps: list[tuple[str, int]]) -> None:
    """After any history of own and foreign writes, a search finds exactly what the storage holds."""

    async def run() -> None:
        data: MemoryData = {}
        ours, theirs = MemoryStorage(data), MemoryStorage(data)
        for table in (VECTORS, COMMIT_LOG):
            await ours.apply_schema(CreateTable(table, DIMENSIONS))
        index, follower = ExactIndex(ours), Follower(ours)
        await index.create(SPEC)
        for number, (step, which) in enumerate(steps):
            partition = "ab"[which % 2]
            id = f"{partition}{which}"
            if step.startswith("search"):
                name = step[-1]
                expected = sorted(row["id"] for row in data[VECTORS.name].values() if row["partition"] == name)
                assert sorted(await _search(index, follower, name)) == expected
                continue
            own = step.startswith("own")
            storage = ours if own else theirs
            row = _vector(id, partition, f"{number}")
            write: Write = Put(VECTORS, row) if "put" in step else Delete(VECTORS, id, partition=partition)
            await _commit(storage, write)
            if own:
                vector = row["embedding"] if "put" in step else None
                await index.apply(VECTORS, [VectorChange(id, partition, vector)])
        for name in "ab":
            rows = {row["id"]: row["embedding"] for row in data[VECTORS.name].values() if row["partition"] == name}
            assert sorted(await _search(index, follower, name)) == sorted(rows)
            for id, vector in rows.items():
                found = await index.search(VECTORS, vector, partitions=[name], limit=1, ids=[id])
                assert found.scores[0] == pytest.approx(1.0, abs=1e-5)

    asyncio.run(run())
