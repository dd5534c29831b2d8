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
    """Every rule of `VectorStore`. A subclass sets `spec` and, where it has options to give, overrides `options`.

    Attributes:
        spec: What the plugin's hook returns.
        storage_spec: The storage to search over; if it is not the one in memory, `storage_options` goes with it.
    """

    spec: VectorSpec
    storage_spec: StorageSpec = memory_storage()

    @pytest.fixture
    def options(self) -> Any:
        """Override where there is something to set: the options of the vector store, an empty one in each test."""
        return self.spec.options()

    @pytest.fixture
    def storage_options(self) -> Any:
        """Override along with `storage_spec`: options that open an empty storage in each test."""
        return self.storage_spec.options()

    @pytest.fixture
    def open_storage(self, storage_options: Any) -> Callable[[], Awaitable[Storage]]:
        """A function that opens the storage: an empty one at first, then, after `aclose`, the same data."""
        return functools.partial(self.storage_spec.open, storage_options)

    @pytest.fixture
    def open_vectors(self, options: Any) -> Callable[[Storage], Awaitable[VectorStore]]:
        """A function that opens the vector store over an open storage."""
        return functools.partial(self.spec.open, options)

    @pytest.fixture(params=METRICS)
    def metric(self, request: pytest.FixtureRequest) -> str:
        """A metric that the store knows."""
        metric = str(request.param)
        if metric not in self.spec.metrics:
            pytest.skip(f"this store does not know {metric}")
        return metric

    @pytest.fixture
    async def scene(
        self,
        metric: str,
        open_storage: Callable[[], Awaitable[Storage]],
        open_vectors: Callable[[Storage], Awaitable[VectorStore]],
    ) -> AsyncIterator[IndexedStorage]:
        """An empty storage and the index over it, made and ready."""
        async with await open_storage() as storage:
            await storage.apply_schema(CreateTable(TASKS, DIMENSIONS))
            async with await open_vectors(storage) as vectors:
                scene = IndexedStorage(storage, vectors, metric)
                await scene.create()
                yield scene

    @pytest.mark.parametrize("seed", [1, 2])
    async def test_search_is_right_through_churn(self, scene: IndexedStorage, seed: int) -> None:
        """After any insert, overwrite, deletion or move between partitions, search finds the closest ones that exist.

        Exact answers equal a calculation in float64; approximate ones hold 95 % of it, and never fewer matches.

        If it fails: see that `apply` removes a record's old vector, in its old partition; that deleted ones are left
        out before the limit, not after; and that an approximate index is widened until the limit is reached.
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
            await scene.write(records)
            for query in clustered(generator, 3):
                partitions = [str(name) for name in generator.choice(USERS, generator.integers(1, 4), replace=False)]
                recalls.append(await scene.check(query, partitions))
                recalls.append(await scene.check(query, USERS, limit=3))
                recalls.append(await scene.check(query, USERS, limit=1000))
        assert float(np.mean(recalls)) >= 0.95
        assert await scene.vectors.count(TASKS) == len(scene.truth)

    async def test_more_records_than_fit_a_page(self, scene: IndexedStorage) -> None:
        """A partition of two thousand records is searched as a whole.

        If it fails: look for a page size that cuts off the index or the read that builds it.
        """
        generator = np.random.default_rng(3)
        vectors = clustered(generator, 2000)
        await scene.write({f"t{n:04}": ("ada", vector) for n, vector in enumerate(vectors)})
        recalls = [await scene.check(query, ["ada"]) for query in clustered(generator, 20)]
        assert float(np.mean(recalls)) >= 0.95
        assert await scene.vectors.count(TASKS) == 2000

    async def test_a_write_is_found_at_once(self, scene: IndexedStorage) -> None:
        """A record is found as soon as `apply` has returned, by its new vector only, and not once it is deleted.

        If it fails: `apply` has to wait until a search sees the change.
        """
        assert (await scene.search(axis(0), ["ada"])).ids == ()  # what was read before must not stay
        await scene.write({"t1": ("ada", axis(0)), "t2": ("ada", axis(1))})
        assert (await scene.search(axis(0), ["ada"], 1)).ids == ("t1",)
        await scene.write({"t1": ("ada", axis(2))})
        assert (await scene.search(axis(2), ["ada"], 1)).ids == ("t1",)
        await scene.check(axis(0), ["ada"])
        await scene.write({"t1": None})
        assert (await scene.search(axis(2), ["ada"])).ids == ("t2",)

    @pytest.mark.parametrize("whole", [False, True], ids=["patched", "written over"])
    async def test_a_record_without_a_vector_is_not_found(
        self,
        scene: IndexedStorage,
        whole: bool,  # noqa: FBT001 - a parameter of the test
    ) -> None:
        """A record that loses its vector is no longer found, and does not count; given one, it is found again.

        If it fails: a change with no vector removes the record from the index, wherever it is.
        """
        await scene.write({"t1": ("ada", axis(0)), "t2": ("ada", None)})
        assert (await scene.search(axis(0), ["ada"])).ids == ("t1",)
        await scene.write({"t1": ("ada", None), "t2": ("ada", axis(0))}, whole=whole)
        assert (await scene.search(axis(0), ["ada"])).ids == ("t2",)
        assert await scene.vectors.count(TASKS) == 1

    async def test_repeated_changes_do_no_harm(self, scene: IndexedStorage) -> None:
        """Telling the index the same thing twice changes nothing; nor does removing what is not there.

        If it fails: `apply` is an upsert by id.
        """
        await scene.write({"t1": ("ada", axis(0)), "t2": ("ada", axis(1))})
        await scene.write({"t1": ("ada", axis(0)), "gone": None})
        await scene.vectors.apply(TASKS, [])
        assert (await scene.search(axis(0), ["ada"])).ids == ("t1", "t2")
        assert await scene.vectors.count(TASKS) == 2

    async def test_the_last_change_of_a_call_counts(self, scene: IndexedStorage) -> None:
        """Of two changes of one record in one call of `apply`, the later one counts.

        If it fails: apply the changes in order.
        """
        await scene.write({"t1": ("ada", axis(1)), "t2": ("ada", axis(5))})
        changes = [VectorChange("t1", "ada", axis(0)), VectorChange("t2", "ada", None)]
        changes += [VectorChange("t1", "ada", axis(1)), VectorChange("t2", "ada", axis(5))]
        await scene.vectors.apply(TASKS, changes)
        assert (await scene.search(axis(1), ["ada"], 1)).ids == ("t1",)
        assert (await scene.search(axis(5), ["ada"], 1)).ids == ("t2",)

    async def test_search_stays_in_its_partitions(self, scene: IndexedStorage) -> None:
        """Only the partitions that were asked for are searched, each for its own limit, whatever lies next door.

        If it fails: the partition belongs into the index; a filter after the search finds too few.
        """
        records: dict[str, tuple[str, Vector | None] | None] = {f"x{n:03}": ("grace", axis(0)) for n in range(100)}
        records |= {f"a{n}": ("ada", axis(n + 1)) for n in range(5)}
        await scene.write(records)
        assert set((await scene.search(axis(0), ["ada"])).ids) == {f"a{n}" for n in range(5)}
        assert (await scene.search(axis(0), ["ada", "grace", "ada"], 3)).ids == ("x000", "x001", "x002")
        assert (await scene.search(axis(0), [])).ids == ()
        assert (await scene.search(axis(0), ["nobody", "", "ada' --", "ADA", "ad", "ada "])).ids == ()

    async def test_a_record_moves_between_partitions(self, scene: IndexedStorage) -> None:
        """A record that moves is found in its new partition and no longer in the old one.

        If it fails: a change carries the new partition only; look up where the record was.
        """
        await scene.write({"t1": ("ada", axis(0)), "t2": ("grace", axis(0))})
        assert (await scene.search(axis(0), ["ada"])).ids == ("t1",)
        await scene.write({"t1": ("grace", axis(0))})
        assert (await scene.search(axis(0), ["ada"])).ids == ()
        assert (await scene.search(axis(0), ["grace"])).ids == ("t1", "t2")
        await scene.write({"t1": ("ada", axis(1)), "t2": ("ada", None)})
        assert (await scene.search(axis(0), ["grace"])).ids == ()
        assert (await scene.search(axis(0), ["ada"])).ids == ("t1",)

    async def test_search_among_some_records(self, scene: IndexedStorage) -> None:
        """With ``ids`` only those records are considered, and only in the partitions that were asked for.

        If it fails: restrict before the limit is taken, not after.
        """
        generator = np.random.default_rng(4)
        vectors = clustered(generator, 120)
        await scene.write({f"t{n:03}": (USERS[n % 2], vector) for n, vector in enumerate(vectors)})
        for size in (1, 5, 60):
            ids = [str(id) for id in generator.choice(sorted(scene.truth), size, replace=False)]
            await scene.check(vectors[0], [USERS[0]], ids=ids)
            await scene.check(vectors[0], USERS, limit=3, ids=[*ids, "missing", ids[0]])
        assert (await scene.search(vectors[0], USERS, ids=[])).ids == ()
        assert (await scene.search(vectors[0], USERS, ids=["missing"])).ids == ()

    async def test_ties_come_by_id(self, scene: IndexedStorage) -> None:
        """Equal vectors have equal scores and come by id, at the limit's edge too, wherever they are stored.

        If it fails: take all that are as close as the last one, then sort by score and id, then cut.
        """
        generator = np.random.default_rng(5)
        same, *others = clustered(generator, 41)
        query = clustered(generator, 1)[0]
        copies = [f"c{n:02}" for n in generator.permutation(40)]
        for copy, other in zip(copies, others, strict=True):  # one by one, so that they do not lie in order
            await scene.write({copy: (USERS[int(copy[1:]) % 2], same), f"x{copy}": (USERS[0], other)})
        ids = sorted(copies)
        for limit in (1, 7, 39):
            matches = await scene.search(query, USERS, limit, ids=ids)
            assert matches.ids == tuple(ids[:limit])
            assert len(set(matches.scores)) == 1
        assert (await scene.search(same, USERS, 40)).ids[:40] == tuple(ids)

    async def test_scores_mean_what_they_should(self, scene: IndexedStorage) -> None:
        """A score is the cosine similarity in [-1, 1], or the distance times -1; more is closer.

        If it fails: some engines return 1 - cosine, the square of a distance, or half of one.
        """
        await scene.write({"1": ("ada", axis(0, 2)), "2": ("ada", axis(1, 2)), "3": ("ada", axis(0, -2))})
        matches = await scene.search(axis(0, 2), ["ada"])
        assert matches.ids == ("1", "2", "3")  # by Manhattan distance, 2 and 3 are equally far
        expected = {
            "cosine": (1.0, 0.0, -1.0),
            "euclidean": (0.0, -np.sqrt(8), -4.0),
            "manhattan": (0.0, -4.0, -4.0),
        }[scene.metric]
        assert matches.scores == pytest.approx(expected, abs=1e-5)
        assert all(type(score) is float for score in matches.scores)

    async def test_create_indexes_what_is_there(self, scene: IndexedStorage) -> None:
        """`create` makes the index from what the storage holds, and does nothing where it is ready.

        If it fails: read the vectors from the storage, where `apply` never told of them.
        """
        await scene.vectors.drop(TASKS)
        generator = np.random.default_rng(6)
        vectors = clustered(generator, 50)
        await scene.write({f"t{n}": (USERS[n % 3], vector) for n, vector in enumerate(vectors)}, tell=False)
        await scene.create()
        await scene.create()
        assert await scene.vectors.exists(TASKS)
        assert await scene.vectors.count(TASKS) == 50
        for user in USERS:
            await scene.check(vectors[0], [user])

    async def test_a_dropped_index_is_gone(self, scene: IndexedStorage) -> None:
        """After `drop` there is no index: `exists` says so, search says how to make one; the records stay.

        If it fails: raise `StorageError` rather than find nothing; dropping twice does nothing.
        """
        await scene.write({"t1": ("ada", axis(0))})
        assert await scene.vectors.exists(TASKS)
        await scene.vectors.drop(TASKS)
        await scene.vectors.drop(TASKS)
        assert not await scene.vectors.exists(TASKS)
        with pytest.raises(StorageError, match="tasks"):
            await scene.search(axis(0), ["ada"])
        assert await scene.storage.count(TASKS) == 1
        await scene.create()
        assert (await scene.search(axis(0), ["ada"])).ids == ("t1",)

    async def test_another_metric_makes_another_index(self, scene: IndexedStorage) -> None:
        """`create` with another metric makes the index anew; searches then use the new metric.

        If it fails: remember what an index was made for, and compare.
        """
        await scene.write({"near": ("ada", axis(0, 9)), "far": ("ada", (axis(0) + axis(1)))})
        for metric in sorted(self.spec.metrics):
            scene.metric = metric
            await scene.create()
            await scene.check(axis(0), ["ada"])

    async def test_a_vector_of_another_length_is_refused(self, scene: IndexedStorage) -> None:
        """A query or a change of other dimensions than the index's raises `InvalidVectorError`.

        If it fails: check the shape first; `pattern_core.toolkit.as_vector` does.
        """
        await scene.write({"t1": ("ada", axis(0))})
        for wrong in (np.ones(DIMENSIONS - 1, dtype=np.float32), np.ones((1, DIMENSIONS), dtype=np.float32)):
            with pytest.raises(InvalidVectorError):
                await scene.search(wrong, ["ada"])
        assert (await scene.search(axis(0), ["ada"])).ids == ("t1",)

    async def test_the_caller_may_reuse_arrays(self, scene: IndexedStorage) -> None:
        """Changing an array after it was given to `apply` changes nothing in the index.

        If it fails: copy the vector.
        """
        vector = axis(0)
        await scene.search(vector, ["ada"])
        await scene.write({"t1": ("ada", vector), "t2": ("ada", axis(1))})
        vector[:] = axis(1)
        assert (await scene.search(axis(0), ["ada"])).ids == ("t1", "t2")

    async def test_searches_and_changes_at_once(self, scene: IndexedStorage) -> None:
        """While records come, go and move, every search answers with records that were there, and the last is right.

        If it fails: look for a change that is lost because the partition was being read at that moment.
        """
        generator = np.random.default_rng(7)
        vectors = clustered(generator, 60)
        await scene.write({f"t{n:02}": (USERS[n % 2], vector) for n, vector in enumerate(vectors)}, tell=False)
        await scene.vectors.drop(TASKS)
        await scene.create()

        async def change() -> None:
            for n in range(0, 60, 3):
                await scene.write({f"t{n:02}": None, f"t{n + 1:02}": (USERS[n % 2], vectors[n])})
                await asyncio.sleep(0)

        async def look(user: str) -> None:
            for vector in vectors[:20]:
                matches = await scene.search(vector, [user], 100)
                assert len(matches.ids) == len(set(matches.ids))
                await asyncio.sleep(0)

        await asyncio.gather(change(), *(look(user) for user in (*USERS[:2], *USERS[:2])))
        for user in USERS:
            await scene.check(vectors[0], [user], 100)

    async def test_a_cancelled_search_does_no_harm(self, scene: IndexedStorage) -> None:
        """After a search was cancelled, at whatever point, the next one finds everything.

        If it fails: leave nothing half read behind; release locks in ``finally``.
        """
        generator = np.random.default_rng(8)
        vectors = clustered(generator, 40)
        await scene.write({f"t{n}": ("ada", vector) for n, vector in enumerate(vectors)})
        for turns in range(8):
            await scene.vectors.drop(TASKS)
            await scene.create()
            task = asyncio.create_task(scene.search(vectors[0], ["ada"]))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await scene.check(vectors[0], ["ada"], 100)

    async def test_it_is_found_after_opening_again(
        self,
        scene: IndexedStorage,
        open_storage: Callable[[], Awaitable[Storage]],
        open_vectors: Callable[[Storage], Awaitable[VectorStore]],
    ) -> None:
        """After closing and opening again, and `create`, search finds what the storage holds.

        If it fails: an index on disk has to hold every change that `apply` acknowledged; one in memory is made anew.
        """
        if not (self.storage_spec.persistent or isinstance(scene.storage, MemoryStorage)):
            pytest.skip("this storage keeps nothing")
        vectors = clustered(np.random.default_rng(9), 60)
        await scene.write({f"t{n}": (USERS[n % 3], vector) for n, vector in enumerate(vectors)})
        await scene.write({"t0": None, "t1": (USERS[4], vectors[0])})
        await scene.vectors.aclose()
        await scene.storage.aclose()
        async with await open_storage() as storage, await open_vectors(storage) as index:
            again = IndexedStorage(storage, index, scene.metric, truth=scene.truth)
            await again.create()
            for user in USERS:
                await again.check(vectors[0], [user])
            assert await index.count(TASKS) == len(scene.truth)

    async def test_health_is_good_while_open(self, scene: IndexedStorage) -> None:
        """`health` asks the engine and names it.

        If it fails: return `Health(ok=True, engine="name and version")`.
        """
        health = await scene.vectors.health()
        assert health.ok
        assert health.engine.strip()

    async def test_a_closed_store_refuses_everything(self, scene: IndexedStorage) -> None:
        """After `aclose` every call raises `ClosedError`; a second `aclose` does nothing; the storage stays open.

        If it fails: remember that it was closed, and look at that first; the storage belongs to somebody else.
        """
        await scene.vectors.aclose()
        await scene.vectors.aclose()
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "create": scene.create,
            "exists": lambda: scene.vectors.exists(TASKS),
            "apply": lambda: scene.vectors.apply(TASKS, [VectorChange("t1", "ada", axis(0))]),
            "search": lambda: scene.search(axis(0), ["ada"]),
            "count": lambda: scene.vectors.count(TASKS),
            "drop": lambda: scene.vectors.drop(TASKS),
            "health": scene.vectors.health,
        }
        outcomes = {name: await outcome_of(call) for name, call in calls.items()}
        assert outcomes == dict.fromkeys(calls, ClosedError)
        assert await scene.storage.count(TASKS) == 0
