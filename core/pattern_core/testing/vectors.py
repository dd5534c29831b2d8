"""The contract of `pattern_core.abc.VectorStore`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import numpy as np
import pytest

from pattern_core.abc import Storage, Vector, VectorChange, VectorStore
from pattern_core.errors import ClosedError, InvalidVectorError, StorageError
from pattern_core.hookspecs import StorageSpec, VectorSpec
from pattern_core.schema import CreateTable

from .contract import outcome_of
from .indexed_storage import DIMENSIONS, TASKS, USERS, IndexedStorage, axis, clustered
from .memory_storage import MemoryStorage, memory_storage
from .vectors_processes import ExternalRules

__all__ = ["VectorStoreContract"]

METRICS: Final = ("cosine", "euclidean", "manhattan")


class VectorStoreContract(ExternalRules):
    """The rules of `VectorStore`. A subclass sets `spec`, and overrides `options` if its options have no defaults.

    Attributes:
        spec: The spec that the plugin's hook returns.
        storage_spec: The storage to search over, in memory by default. To change it, also override `storage_options`.
    """

    spec: VectorSpec
    storage_spec: StorageSpec = memory_storage()

    @pytest.fixture
    def options(self) -> Any:
        """Override this to set options: return ``spec.options`` of an index that is empty in each test."""
        return self.spec.options()

    @pytest.fixture
    def storage_options(self) -> Any:
        """Override this with `storage_spec`: return options that open an empty storage in each test."""
        return self.storage_spec.options()

    @pytest.fixture
    def open_storage(self, storage_options: Any) -> Callable[[], Awaitable[Storage]]:
        """Return a function that opens the storage: empty in the first call, with the same data after `aclose`."""
        return functools.partial(self.storage_spec.open, storage_options)

    @pytest.fixture
    def open_vectors(self, options: Any) -> Callable[[Storage], Awaitable[VectorStore]]:
        """Return a function that opens the vector store over an open storage."""
        return functools.partial(self.spec.open, options)

    @pytest.fixture(params=METRICS)
    def metric(self, request: pytest.FixtureRequest) -> str:
        """A metric that the store supports."""
        metric = str(request.param)
        if metric not in self.spec.metrics:
            pytest.skip(f"this store does not support {metric}")
        return metric

    @pytest.fixture
    async def indexed(
        self,
        metric: str,
        open_storage: Callable[[], Awaitable[Storage]],
        open_vectors: Callable[[Storage], Awaitable[VectorStore]],
    ) -> AsyncIterator[IndexedStorage]:
        """An empty storage, and an index over it that is ready."""
        async with await open_storage() as storage:
            await storage.apply_schema(CreateTable(TASKS, DIMENSIONS))
            async with await open_vectors(storage) as vectors:
                indexed = IndexedStorage(storage, vectors, metric)
                await indexed.create()
                yield indexed

    @pytest.mark.parametrize("seed", [1, 2])
    async def test_search_is_correct_after_many_changes(self, indexed: IndexedStorage, seed: int) -> None:
        """After inserts, overwrites, deletions and moves between partitions, search returns the closest records.

        Exact matches equal a computation in float64. Approximate matches have a recall of 95 %, and reach the limit.

        If it fails: `apply` must remove the old vector of a record from its old partition. Skip deleted records before
        the limit applies. Over-fetch from an approximate index until the limit is reached.
        """
        generator = np.random.default_rng(seed)
        recalls: list[float] = []
        for _ in range(8):
            pool = [f"t{n:03}" for n in range(200)]
            records: dict[str, tuple[str, Vector | None] | None] = {}
            chosen = generator.choice(pool, 40, replace=False)
            for id, vector in zip(chosen, clustered(generator, 40), strict=True):
                kind = generator.random()
                partition = str(USERS[generator.integers(len(USERS))])
                records[str(id)] = None if kind < 0.25 else (partition, None if kind < 0.35 else vector)
            await indexed.write(records)
            for query in clustered(generator, 3):
                partitions = [str(name) for name in generator.choice(USERS, generator.integers(1, 4), replace=False)]
                recalls.append(await indexed.check(query, partitions))
                recalls.append(await indexed.check(query, USERS, limit=3))
                recalls.append(await indexed.check(query, USERS, limit=1000))
        assert float(np.mean(recalls)) >= 0.95
        assert await indexed.vectors.count(TASKS) == len(indexed.expected)

    async def test_a_large_partition_is_searched_completely(self, indexed: IndexedStorage) -> None:
        """A partition of two thousand records is searched completely.

        If it fails: look for a page size that limits the search, or the read that builds the index.
        """
        generator = np.random.default_rng(3)
        vectors = clustered(generator, 2000)
        await indexed.write({f"t{n:04}": ("ada", vector) for n, vector in enumerate(vectors)})
        recalls = [await indexed.check(query, ["ada"]) for query in clustered(generator, 20)]
        assert float(np.mean(recalls)) >= 0.95
        assert await indexed.vectors.count(TASKS) == 2000

    async def test_an_applied_change_is_found_at_once(self, indexed: IndexedStorage) -> None:
        """After `apply`, a search finds a record by its new vector only, and finds no deleted record.

        If it fails: `apply` must wait until searches see the change.
        """
        assert (await indexed.search(axis(0), ["ada"])).ids == ()  # caches the empty partition, if the index caches
        await indexed.write({"t1": ("ada", axis(0)), "t2": ("ada", axis(1))})
        assert (await indexed.search(axis(0), ["ada"], 1)).ids == ("t1",)
        await indexed.write({"t1": ("ada", axis(2))})
        assert (await indexed.search(axis(2), ["ada"], 1)).ids == ("t1",)
        await indexed.check(axis(0), ["ada"])
        await indexed.write({"t1": None})
        assert (await indexed.search(axis(2), ["ada"])).ids == ("t2",)

    @pytest.mark.parametrize("put", [False, True], ids=["patched", "put"])
    async def test_a_record_without_a_vector_is_not_found(
        self,
        indexed: IndexedStorage,
        put: bool,  # noqa: FBT001 - a parameter of the test
    ) -> None:
        """A record whose vector is set to null is neither found nor counted; with a vector it is found again.

        If it fails: a change without a vector removes the record from the index, whatever its partition.
        """
        await indexed.write({"t1": ("ada", axis(0)), "t2": ("ada", None)})
        assert (await indexed.search(axis(0), ["ada"])).ids == ("t1",)
        await indexed.write({"t1": ("ada", None), "t2": ("ada", axis(0))}, put=put)
        assert (await indexed.search(axis(0), ["ada"])).ids == ("t2",)
        assert await indexed.vectors.count(TASKS) == 1

    async def test_apply_is_idempotent(self, indexed: IndexedStorage) -> None:
        """Applying a change twice, or removing a missing record, changes nothing.

        If it fails: make `apply` an upsert by id.
        """
        await indexed.write({"t1": ("ada", axis(0)), "t2": ("ada", axis(1))})
        await indexed.write({"t1": ("ada", axis(0)), "gone": None})
        await indexed.vectors.apply(TASKS, [])
        assert (await indexed.search(axis(0), ["ada"])).ids == ("t1", "t2")
        assert await indexed.vectors.count(TASKS) == 2

    async def test_the_last_change_of_a_record_counts(self, indexed: IndexedStorage) -> None:
        """If one call of `apply` has several changes of a record, the last one counts.

        If it fails: apply the changes in order.
        """
        await indexed.write({"t1": ("ada", axis(1)), "t2": ("ada", axis(5))})
        changes = [VectorChange("t1", "ada", axis(0)), VectorChange("t2", "ada", None)]
        changes += [VectorChange("t1", "ada", axis(1)), VectorChange("t2", "ada", axis(5))]
        await indexed.vectors.apply(TASKS, changes)
        assert (await indexed.search(axis(1), ["ada"], 1)).ids == ("t1",)
        assert (await indexed.search(axis(5), ["ada"], 1)).ids == ("t2",)

    async def test_search_is_limited_to_its_partitions(self, indexed: IndexedStorage) -> None:
        """Only the given partitions are searched, and records of others do not count toward the limit.

        If it fails: partition the index. A filter after the search returns too few matches.
        """
        records: dict[str, tuple[str, Vector | None] | None] = {f"x{n:03}": ("grace", axis(0)) for n in range(100)}
        records |= {f"a{n}": ("ada", axis(n + 1)) for n in range(5)}
        await indexed.write(records)
        assert set((await indexed.search(axis(0), ["ada"])).ids) == {f"a{n}" for n in range(5)}
        assert (await indexed.search(axis(0), ["ada", "grace", "ada"], 3)).ids == ("x000", "x001", "x002")
        assert (await indexed.search(axis(0), [])).ids == ()
        assert (await indexed.search(axis(0), ["nobody", "", "ada' --", "ADA", "ad", "ada "])).ids == ()

    async def test_a_record_moves_between_partitions(self, indexed: IndexedStorage) -> None:
        """A record that moves is found in its new partition, and not in its old one.

        If it fails: a change has only the new partition. Look up the old one by id.
        """
        await indexed.write({"t1": ("ada", axis(0)), "t2": ("grace", axis(0))})
        assert (await indexed.search(axis(0), ["ada"])).ids == ("t1",)
        await indexed.write({"t1": ("grace", axis(0))})
        assert (await indexed.search(axis(0), ["ada"])).ids == ()
        assert (await indexed.search(axis(0), ["grace"])).ids == ("t1", "t2")
        await indexed.write({"t1": ("ada", axis(1)), "t2": ("ada", None)})
        assert (await indexed.search(axis(0), ["grace"])).ids == ()
        assert (await indexed.search(axis(0), ["ada"])).ids == ("t1",)

    async def test_search_is_limited_to_ids(self, indexed: IndexedStorage) -> None:
        """With ``ids``, only these records are searched, and only in the given partitions.

        If it fails: select the records before the limit applies.
        """
        generator = np.random.default_rng(4)
        vectors = clustered(generator, 120)
        await indexed.write({f"t{n:03}": (USERS[n % 2], vector) for n, vector in enumerate(vectors)})
        for size in (1, 5, 60):
            ids = [str(id) for id in generator.choice(sorted(indexed.expected), size, replace=False)]
            await indexed.check(vectors[0], [USERS[0]], ids=ids)
            await indexed.check(vectors[0], USERS, limit=3, ids=[*ids, "missing", ids[0]])
        assert (await indexed.search(vectors[0], USERS, ids=[])).ids == ()
        assert (await indexed.search(vectors[0], USERS, ids=["missing"])).ids == ()

    async def test_ties_are_sorted_by_id(self, indexed: IndexedStorage) -> None:
        """Equal vectors have equal scores and are sorted by id, also at the limit and across partitions.

        If it fails: include all ties with the last match, sort by score and id, then apply the limit.
        """
        generator = np.random.default_rng(5)
        same, *others = clustered(generator, 41)
        query = clustered(generator, 1)[0]
        copies = [f"c{n:02}" for n in generator.permutation(40)]
        for copy, other in zip(copies, others, strict=True):  # one by one, so that they are not stored in order
            await indexed.write({copy: (USERS[int(copy[1:]) % 2], same), f"x{copy}": (USERS[0], other)})
        ids = sorted(copies)
        for limit in (1, 7, 39):
            matches = await indexed.search(query, USERS, limit, ids=ids)
            assert matches.ids == tuple(ids[:limit])
            assert len(set(matches.scores)) == 1
        assert (await indexed.search(same, USERS, 40)).ids[:40] == tuple(ids)

    async def test_scores_follow_the_metric(self, indexed: IndexedStorage) -> None:
        """A score is the cosine similarity, in [-1, 1], or the distance times -1: higher is closer.

        If it fails: convert the engine's value. Some return 1 - cosine, a squared distance, or half of it.
        """
        await indexed.write({"1": ("ada", axis(0, 2)), "2": ("ada", axis(1, 2)), "3": ("ada", axis(0, -2))})
        matches = await indexed.search(axis(0, 2), ["ada"])
        assert matches.ids == ("1", "2", "3")  # the Manhattan distances of 2 and 3 are equal
        expected = {
            "cosine": (1.0, 0.0, -1.0),
            "euclidean": (0.0, -np.sqrt(8), -4.0),
            "manhattan": (0.0, -4.0, -4.0),
        }[indexed.metric]
        assert matches.scores == pytest.approx(expected, abs=1e-5)
        assert all(type(score) is float for score in matches.scores)

    async def test_create_indexes_existing_records(self, indexed: IndexedStorage) -> None:
        """`create` builds the index from the stored vectors, and does nothing if the index is ready.

        If it fails: read the vectors from the storage. `apply` was not called for existing records.
        """
        await indexed.vectors.drop(TASKS)
        generator = np.random.default_rng(6)
        vectors = clustered(generator, 50)
        await indexed.write({f"t{n}": (USERS[n % 3], vector) for n, vector in enumerate(vectors)}, apply=False)
        await indexed.create()
        await indexed.create()
        assert await indexed.vectors.exists(TASKS)
        assert await indexed.vectors.count(TASKS) == 50
        for user in USERS:
            await indexed.check(vectors[0], [user])

    async def test_drop_removes_the_index(self, indexed: IndexedStorage) -> None:
        """`drop` is idempotent and keeps the records. Then `exists` is false, and a search raises `StorageError`.

        If it fails: a search without an index must raise, not return nothing.
        """
        await indexed.write({"t1": ("ada", axis(0))})
        assert await indexed.vectors.exists(TASKS)
        await indexed.vectors.drop(TASKS)
        await indexed.vectors.drop(TASKS)
        assert not await indexed.vectors.exists(TASKS)
        with pytest.raises(StorageError, match="tasks"):
            await indexed.search(axis(0), ["ada"])
        assert await indexed.storage.count(TASKS) == 1
        await indexed.create()
        assert (await indexed.search(axis(0), ["ada"])).ids == ("t1",)

    async def test_create_with_another_metric_rebuilds(self, indexed: IndexedStorage) -> None:
        """`create` with another metric rebuilds the index, and searches use the new metric.

        If it fails: store the spec of the index, and compare it.
        """
        await indexed.write({"near": ("ada", axis(0, 9)), "far": ("ada", (axis(0) + axis(1)))})
        for metric in sorted(self.spec.metrics):
            indexed.metric = metric
            await indexed.create()
            await indexed.check(axis(0), ["ada"])

    async def test_a_vector_of_another_length_is_rejected(self, indexed: IndexedStorage) -> None:
        """A query or a change with other dimensions than the index raises `InvalidVectorError`.

        If it fails: check the shape first, with `pattern_core.toolkit.as_vector`.
        """
        await indexed.write({"t1": ("ada", axis(0))})
        for wrong in (np.ones(DIMENSIONS - 1, dtype=np.float32), np.ones((1, DIMENSIONS), dtype=np.float32)):
            with pytest.raises(InvalidVectorError):
                await indexed.search(wrong, ["ada"])
        assert (await indexed.search(axis(0), ["ada"])).ids == ("t1",)

    async def test_apply_copies_its_arguments(self, indexed: IndexedStorage) -> None:
        """Changing an array after `apply` does not change the index.

        If it fails: copy the vector.
        """
        vector = axis(0)
        await indexed.search(vector, ["ada"])
        await indexed.write({"t1": ("ada", vector), "t2": ("ada", axis(1))})
        vector[:] = axis(1)
        assert (await indexed.search(axis(0), ["ada"])).ids == ("t1", "t2")

    async def test_concurrent_searches_and_changes(self, indexed: IndexedStorage) -> None:
        """Searches during changes return no record twice, and searches after the changes are correct.

        If it fails: look for a change that is lost while its partition is loaded.
        """
        generator = np.random.default_rng(7)
        vectors = clustered(generator, 60)
        await indexed.write({f"t{n:02}": (USERS[n % 2], vector) for n, vector in enumerate(vectors)}, apply=False)
        await indexed.vectors.drop(TASKS)
        await indexed.create()

        async def change() -> None:
            for n in range(0, 60, 3):
                await indexed.write({f"t{n:02}": None, f"t{n + 1:02}": (USERS[n % 2], vectors[n])})
                await asyncio.sleep(0)

        async def search(user: str) -> None:
            for vector in vectors[:20]:
                matches = await indexed.search(vector, [user], 100)
                assert len(matches.ids) == len(set(matches.ids))
                await asyncio.sleep(0)

        await asyncio.gather(change(), *(search(user) for user in (*USERS[:2], *USERS[:2])))
        for user in USERS:
            await indexed.check(vectors[0], [user], 100)

    async def test_a_cancelled_search_has_no_effect(self, indexed: IndexedStorage) -> None:
        """After a search is cancelled at any point, the next one finds all records.

        If it fails: discard partly loaded data, and release locks in ``finally``.
        """
        generator = np.random.default_rng(8)
        vectors = clustered(generator, 40)
        await indexed.write({f"t{n}": ("ada", vector) for n, vector in enumerate(vectors)})
        for iterations in range(8):
            await indexed.vectors.drop(TASKS)
            await indexed.create()
            task = asyncio.create_task(indexed.search(vectors[0], ["ada"]))
            for _ in range(iterations):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await indexed.check(vectors[0], ["ada"], 100)

    async def test_search_is_correct_after_reopening(
        self,
        indexed: IndexedStorage,
        open_storage: Callable[[], Awaitable[Storage]],
        open_vectors: Callable[[Storage], Awaitable[VectorStore]],
    ) -> None:
        """After closing, opening and `create`, search is correct.

        If it fails: an external index must hold every change that `apply` acknowledged. Rebuild an index in memory.
        """
        if not (self.storage_spec.persistent or isinstance(indexed.storage, MemoryStorage)):
            pytest.skip("this storage is not persistent")
        vectors = clustered(np.random.default_rng(9), 60)
        await indexed.write({f"t{n}": (USERS[n % 3], vector) for n, vector in enumerate(vectors)})
        await indexed.write({"t0": None, "t1": (USERS[4], vectors[0])})
        await indexed.vectors.aclose()
        await indexed.storage.aclose()
        async with await open_storage() as storage, await open_vectors(storage) as index:
            again = IndexedStorage(storage, index, indexed.metric, expected=indexed.expected)
            await again.create()
            for user in USERS:
                await again.check(vectors[0], [user])
            assert await index.count(TASKS) == len(indexed.expected)

    async def test_health_names_the_engine(self, indexed: IndexedStorage) -> None:
        """`health` of an open store is ok, and names the engine.

        If it fails: return `Health(ok=True, engine="name and version")`.
        """
        health = await indexed.vectors.health()
        assert health.ok
        assert health.engine.strip()

    async def test_a_closed_store_raises(self, indexed: IndexedStorage) -> None:
        """After `aclose`, every call raises `ClosedError`; a second `aclose` does nothing; the storage stays open.

        If it fails: keep a flag, and check it first in every method. Do not close the storage.
        """
        await indexed.vectors.aclose()
        await indexed.vectors.aclose()
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "create": indexed.create,
            "exists": lambda: indexed.vectors.exists(TASKS),
            "apply": lambda: indexed.vectors.apply(TASKS, [VectorChange("t1", "ada", axis(0))]),
            "search": lambda: indexed.search(axis(0), ["ada"]),
            "count": lambda: indexed.vectors.count(TASKS),
            "drop": lambda: indexed.vectors.drop(TASKS),
            "health": indexed.vectors.health,
        }
        outcomes = {name: await outcome_of(call) for name, call in calls.items()}
        assert outcomes == dict.fromkeys(calls, ClosedError)
        assert await indexed.storage.count(TASKS) == 0
