"""The exact index, beyond what the contract asks: loading, concurrency, odd numbers, errors."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence

import attrs
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattern_core.abc import Delete, IndexSpec, Insert, Put, Storage, Vector, VectorChange, VectorStore
from pattern_core.errors import ConfigError, InvalidVectorError, StorageError
from pattern_core.filters import Filter
from pattern_core.schema import TABLES, CreateTable, Table
from pattern_core.search import exact
from pattern_core.search.exact import ExactIndex
from pattern_core.search.metrics import score
from pattern_core.testing import DIMENSIONS, TASKS, MemoryStorage, VectorStoreContract, sample_row, sample_vector

pytestmark = pytest.mark.anyio

METRICS = ("cosine", "euclidean", "manhattan")


class SlowStorage(MemoryStorage):
    """A storage whose scans wait, batch by batch, until they are let go; it counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.begun = asyncio.Event()
        self.scans = 0

    async def scan(
        self,
        table: Table,
        where: Filter | None = None,
        *,
        columns: Sequence[str] | None = None,
        batch_rows: int = 1024,
    ) -> AsyncIterator[pa.RecordBatch]:
        self.scans += 1
        batches = [batch async for batch in super().scan(table, where, columns=columns, batch_rows=batch_rows)]
        self.begun.set()
        for batch in batches:
            await self.go.wait()
            yield batch


async def fill(storage: Storage, **partitions: str) -> None:
    """Write one record for each name, in the partition that it names."""
    await storage.commit([Put(TASKS, row(id, partition)) for id, partition in partitions.items()])


def row(id: str, partition: str) -> dict[str, object]:
    """A task with a vector that belongs to its id."""
    return sample_row(TASKS, id, user_id=partition, embedding=sample_vector(id))


def change(id: str, partition: str, *, gone: bool = False) -> VectorChange:
    """What the index is told of such a task."""
    return VectorChange(id, partition, None if gone else sample_vector(id))


async def ids_in(index: VectorStore, *partitions: str) -> set[str]:
    """All records that a search in some partitions finds."""
    matches = await index.search(TASKS, sample_vector("query"), partitions=partitions, limit=100)
    return set(matches.ids)


@pytest.fixture
async def storage() -> MemoryStorage:
    """A storage with the tasks' table."""
    storage = MemoryStorage()
    await storage.apply_schema(CreateTable(TASKS, DIMENSIONS))
    return storage


@pytest.fixture
async def slow() -> SlowStorage:
    """A storage whose scans wait."""
    storage = SlowStorage()
    await storage.apply_schema(CreateTable(TASKS, DIMENSIONS))
    return storage


async def opened(storage: Storage, metric: str = "cosine", dimensions: int = DIMENSIONS) -> ExactIndex:
    """An index over a storage, made for the tasks."""
    index = ExactIndex(storage)
    await index.create(IndexSpec(TASKS, dimensions, metric))
    return index


class TestInAThread(VectorStoreContract):
    """The contract, with every search in a thread."""

    spec = exact.pattern_vectors()

    @pytest.fixture(autouse=True)
    def _all_are_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every search is taken for a large one."""
        monkeypatch.setattr(exact, "_INLINE_ELEMENTS", -1)


class TestLoading:
    """A partition is read when it is first searched, and agrees with what happens meanwhile."""

    async def test_nothing_is_read_before_it_is_searched(self, slow: SlowStorage) -> None:
        """Creating an index, and changes to partitions that nobody has searched, read nothing and keep nothing."""
        slow.go.set()
        index = await opened(slow)
        await fill(slow, a="p")
        await index.apply(TASKS, [change("a", "p")])
        assert slow.scans == 0
        assert (await index.health()).details["loaded_vectors"] == 0
        assert await ids_in(index, "p") == {"a"}
        details = (await index.health()).details
        assert (details["loaded_partitions"], details["loaded_vectors"]) == (1, 1)

    async def test_missing_partitions_are_read_in_one_scan(self, slow: SlowStorage) -> None:
        """A search in several partitions reads those that are missing together, each once."""
        slow.go.set()
        index = await opened(slow)
        await fill(slow, a="p", b="q", c="r")
        assert await ids_in(index, "p") == {"a"}
        assert await ids_in(index, "p", "q", "r", "none") == {"a", "b", "c"}
        assert await ids_in(index, "none", "r") == {"c"}
        assert slow.scans == 2

    async def test_searches_share_a_scan(self, slow: SlowStorage) -> None:
        """Searches in a partition that is being read wait for it and do not read it again."""
        index = await opened(slow)
        await fill(slow, a="p", b="q")
        first = asyncio.create_task(ids_in(index, "p"))
        await slow.begun.wait()
        others = [asyncio.create_task(ids_in(index, *names)) for names in (["p"], ["p", "q"])]
        await asyncio.sleep(0)
        slow.go.set()
        assert [await first, *[await each for each in others]] == [{"a"}, {"a"}, {"a", "b"}]
        assert slow.scans == 2

    async def test_a_loaded_partition_is_searched_while_another_is_read(self, slow: SlowStorage) -> None:
        """Reading one partition does not hold up searches and changes in others."""
        index = await opened(slow)
        await fill(slow, a="p", b="q")
        slow.go.set()
        await ids_in(index, "p")
        slow.go.clear()
        slow.begun.clear()
        loading = asyncio.create_task(ids_in(index, "q"))
        await slow.begun.wait()
        await fill(slow, c="p")
        await index.apply(TASKS, [change("c", "p")])
        assert await ids_in(index, "p") == {"a", "c"}
        slow.go.set()
        assert await loading == {"b"}

    @pytest.mark.parametrize("metric", METRICS)
    async def test_changes_during_a_scan_win(self, slow: SlowStorage, metric: str) -> None:
        """What `apply` is told while a partition is being read counts more than what the scan saw."""
        index = await opened(slow, metric)
        await fill(slow, stays="p", goes="p", leaves="p", changes="p", other="q")
        await fill(slow, x="loaded")
        slow.go.set()
        await ids_in(index, "loaded")
        slow.go.clear()
        slow.begun.clear()
        loading = asyncio.create_task(ids_in(index, "p"))
        await slow.begun.wait()
        new = sample_vector("new")
        await slow.commit([Delete(TASKS, "goes"), Insert(TASKS, row("comes", "p"))])
        await fill(slow, leaves="loaded", arrives="p", x="p")
        await slow.commit([Put(TASKS, sample_row(TASKS, "changes", user_id="p", embedding=new))])
        await index.apply(
            TASKS,
            [
                change("goes", "p", gone=True),
                change("comes", "p"),
                change("leaves", "loaded"),
                change("arrives", "p"),
                change("x", "p"),
                VectorChange("changes", "p", new),
            ],
        )
        slow.go.set()
        assert await loading == {"stays", "comes", "changes", "arrives", "x"}
        assert await ids_in(index, "loaded") == {"leaves"}
        matches = await index.search(TASKS, new, partitions=["p"], limit=1)
        assert matches.ids == ("changes",)
        assert matches.scores[0] == pytest.approx({"cosine": 1}.get(metric, 0), abs=1e-6)

    async def test_a_record_that_was_moved_and_not_yet_told(self, slow: SlowStorage) -> None:
        """A scan that finds a record which the index has elsewhere takes it over: it is never in two places."""
        slow.go.set()
        index = await opened(slow)
        await fill(slow, a="p")
        assert await ids_in(index, "p") == {"a"}
        await fill(slow, a="q")  # committed, but `apply` comes later
        assert await ids_in(index, "q") == {"a"}
        assert await ids_in(index, "p") == set()
        await index.apply(TASKS, [change("a", "q")])
        assert await ids_in(index, "p", "q") == {"a"}

    async def test_a_cancelled_load_is_begun_again(self, slow: SlowStorage) -> None:
        """When the search that reads a partition is cancelled, one that waits for it reads it itself."""
        index = await opened(slow)
        await fill(slow, a="p")
        first = asyncio.create_task(ids_in(index, "p"))
        await slow.begun.wait()
        second = asyncio.create_task(ids_in(index, "p"))
        await asyncio.sleep(0)
        first.cancel()
        slow.go.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second == {"a"}
        assert slow.scans == 2

    async def test_an_index_made_anew_forgets_what_was_being_read(self, slow: SlowStorage) -> None:
        """A scan for an index that was dropped meanwhile leaves nothing in the next one."""
        index = await opened(slow)
        await fill(slow, a="p")
        loading = asyncio.create_task(ids_in(index, "p"))
        await slow.begun.wait()
        await index.drop(TASKS)
        await slow.commit([Delete(TASKS, "a")])
        await index.create(IndexSpec(TASKS, DIMENSIONS, "cosine"))
        slow.go.set()
        await loading
        assert await ids_in(index, "p") == set()

    async def test_a_failed_scan_can_be_repeated(self, storage: MemoryStorage) -> None:
        """After a scan that failed, the next search reads again."""
        index = await opened(storage)
        await storage.commit([Put(TASKS, sample_row(TASKS, "a", user_id="p", embedding=sample_vector("a", 3)))])
        with pytest.raises(StorageError):
            await ids_in(index, "p")
        await fill(storage, a="p")
        assert await ids_in(index, "p") == {"a"}


class TestLargeSearches:
    """A search in a thread."""

    async def test_changes_wait_for_a_search_in_a_thread(
        self, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rows do not change while a thread reads them: every search sees each record whole, before or after."""
        monkeypatch.setattr(exact, "_INLINE_ELEMENTS", -1)
        dimensions, count = 64, 3000
        index = await opened(storage, "manhattan", dimensions)
        low, high = (np.full(dimensions, value, dtype=np.float32) for value in (1, 2))
        rows = [sample_row(TASKS, f"t{n:04}", user_id="p", embedding=low) for n in range(count)]
        await storage.commit([Put(TASKS, each) for each in rows])
        query = np.full(dimensions, 3, dtype=np.float32)
        allowed = {-2.0 * dimensions, -1.0 * dimensions}

        async def flip() -> None:
            for turn in range(10):
                vector = high if turn % 2 == 0 else low
                await index.apply(TASKS, [VectorChange(each["id"], "p", vector) for each in rows])

        async def look() -> None:
            for _ in range(10):
                matches = await index.search(TASKS, query, partitions=["p"], limit=count)
                assert len(matches.ids) == count
                assert len(set(matches.scores)) == 1  # all changes of one `apply`, or none
                assert set(matches.scores) <= allowed

        await asyncio.gather(flip(), look(), look())

    async def test_the_loop_turns_during_a_large_search(self, storage: MemoryStorage) -> None:
        """A search over more numbers than are compared at once lets other tasks go on."""
        dimensions, count = 256, 20_000
        index = await opened(storage, "euclidean", dimensions)
        vectors = np.random.default_rng(0).standard_normal((count, dimensions)).astype(np.float32)
        await ids_in_empty(index, dimensions)
        await index.apply(TASKS, [VectorChange(f"t{n:05}", "p", vector) for n, vector in enumerate(vectors)])
        task = asyncio.create_task(index.search(TASKS, vectors[7], partitions=["p"], limit=3))
        await asyncio.sleep(0)  # the search begins
        turns = 0
        while not task.done():
            turns += 1
            await asyncio.sleep(0)
        assert turns > 1
        matches = await task
        distances = np.linalg.norm(vectors.astype(np.float64) - vectors[7], axis=1)
        assert matches.ids == tuple(f"t{n:05}" for n in np.argsort(distances)[:3])


async def ids_in_empty(index: VectorStore, dimensions: int) -> None:
    """Load the partition ``p`` while it holds nothing, so that changes go straight into it."""
    assert (await index.search(TASKS, np.ones(dimensions, dtype=np.float32), partitions=["p"], limit=1)).ids == ()


Case = tuple[dict[str, Vector], Vector, int]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Records with vectors of three dimensions, some of them the same; a query; and a limit."""
    numbers = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from([-1.0, 0.0, 1.0])
    vectors = st.lists(numbers, min_size=3, max_size=3).filter(any).map(lambda each: np.array(each, dtype=np.float32))
    pool = draw(st.lists(vectors, min_size=1, max_size=4))
    chosen = draw(st.lists(st.sampled_from(pool) | vectors, min_size=1, max_size=20))
    ids = draw(st.permutations([f"t{n:02}" for n in range(len(chosen))]))
    query = draw(st.sampled_from(pool) | vectors)
    return dict(zip(ids, chosen, strict=True)), query, draw(st.integers(1, 6))


class TestExactness:
    """The fast way finds what the slow way would."""

    @given(case=cases())
    @pytest.mark.parametrize("metric", METRICS)
    async def test_search_equals_scoring_one_by_one(self, metric: str, case: Case) -> None:
        """For any finite vectors, tiny and huge ones and repeats included, search is score by score the full sort."""
        records, query, limit = case
        storage = MemoryStorage()
        await storage.apply_schema(CreateTable(TASKS, 3))
        rows = [sample_row(TASKS, id, user_id=id[-1], embedding=vector) for id, vector in records.items()]
        await storage.commit([Insert(TASKS, each) for each in rows])
        index = await opened(storage, metric, 3)
        matches = await index.search(TASKS, query, partitions="0123456789", limit=limit)
        scores = {id: score(query, vector, metric) for id, vector in records.items()}
        best = sorted(scores, key=lambda each: (-scores[each], each))[:limit]
        assert matches.ids == tuple(best)
        assert matches.scores == tuple(scores[id] for id in best)
        assert matches.exact

    @pytest.mark.parametrize("metric", METRICS)
    async def test_neighbours_that_float32_cannot_tell_apart(self, storage: MemoryStorage, metric: str) -> None:
        """Vectors that lie close together and far from the origin are ranked as float64 ranks them."""
        generator = np.random.default_rng(0)
        index = await opened(storage, metric, 64)
        await ids_in_empty(index, 64)
        centre = 1000 * generator.standard_normal(64)
        points = (centre + 0.01 * generator.standard_normal((500, 64))).astype(np.float32)
        records = {f"t{n:03}": point for n, point in enumerate(points)}
        await index.apply(TASKS, [VectorChange(id, "p", vector) for id, vector in records.items()])
        for query in points[:20]:
            matches = await index.search(TASKS, query, partitions=["p"], limit=5)
            scores = {id: score(query, vector, metric) for id, vector in records.items()}
            assert matches.ids == tuple(sorted(scores, key=lambda each: (-scores[each], each))[:5])

    @pytest.mark.parametrize("metric", METRICS)
    async def test_a_partition_of_equal_vectors(self, storage: MemoryStorage, metric: str) -> None:
        """Thousands of equal vectors, at places that BLAS treats differently, come by id with one score."""
        index = await opened(storage, metric, 383)
        vector, query = sample_vector("same", 383), sample_vector("query", 383)
        await ids_in_empty(index, 383)
        order = [f"t{n:04}" for n in np.random.default_rng(0).permutation(3001)]
        await index.apply(TASKS, [VectorChange(id, "p", vector) for id in order])
        await index.apply(TASKS, [VectorChange(f"t{n:04}", "p", None) for n in range(0, 3001, 7)])
        matches = await index.search(TASKS, query, partitions=["p"], limit=50)
        left = [f"t{n:04}" for n in range(3001) if n % 7]
        assert matches.ids == tuple(left[:50])
        assert len(set(matches.scores)) == 1

    async def test_no_limit_finds_nothing(self, storage: MemoryStorage) -> None:
        """A limit of 0 gives no match."""
        index = await opened(storage)
        await fill(storage, a="p")
        assert (await index.search(TASKS, sample_vector("a"), partitions=["p"], limit=0)).ids == ()


class TestErrors:
    """What it refuses, and how it says so."""

    async def test_an_unknown_metric(self, storage: MemoryStorage) -> None:
        """An unknown metric is refused with the nearest known one."""
        with pytest.raises(ConfigError, match=r"Did you mean 'cosine'\?") as caught:
            await opened(storage, "cosin")
        assert caught.value.key == "vectors.metric"

    async def test_a_table_without_vectors(self, storage: MemoryStorage) -> None:
        """An index of a table that has no vector, or no partition, is refused."""
        index = ExactIndex(storage)
        for table in (TABLES["users"], attrs.evolve(TASKS, partition=None)):
            with pytest.raises(StorageError, match=table.name):
                await index.create(IndexSpec(table, DIMENSIONS, "cosine"))

    async def test_no_index(self, storage: MemoryStorage) -> None:
        """Using an index that was not made says how to make it."""
        index = ExactIndex(storage)
        with pytest.raises(StorageError, match=r"tasks has no vector index. Create it with create"):
            await ids_in(index, "p")
        with pytest.raises(StorageError, match="Create it with create"):
            await index.count(TASKS)

    @pytest.mark.parametrize("vector", [[0.0] * 8, [np.nan] * 8, [np.inf] * 8, [1.0] * 7, [[1.0] * 8]])
    async def test_a_change_that_cannot_be_compared(self, storage: MemoryStorage, vector: object) -> None:
        """A change with an unusable vector is refused, and those beside it in the same call are not applied."""
        index = await opened(storage)
        assert await ids_in(index, "p") == set()
        bad = VectorChange("bad", "p", np.array(vector, dtype=np.float32))
        with pytest.raises(InvalidVectorError):
            await index.apply(TASKS, [change("good", "p"), bad])
        assert await ids_in(index, "p") == set()

    @pytest.mark.parametrize("vector", [[0.0] * 8, [np.nan, *[1.0] * 7], [1.0] * 7, [1.0] * 16])
    async def test_a_stored_vector_that_cannot_be_compared(self, storage: MemoryStorage, vector: list[float]) -> None:
        """A record whose stored vector is unusable is named, with the way out."""
        index = await opened(storage)
        await fill(storage, a="p", c="p")
        bad = sample_row(TASKS, "b", user_id="p", embedding=np.array(vector, dtype=np.float32))
        await storage.commit([Insert(TASKS, bad)])
        with pytest.raises(StorageError, match=r"tasks record 'b' .* 8 finite numbers.* `pattern reembed run"):
            await ids_in(index, "p")


def test_importing_it_is_cheap() -> None:
    """The plugin's module loads neither Arrow nor an engine."""
    code = (
        "import sys, pattern_core.search.exact; print(sorted({'pyarrow', 'torch', 'surrealdb'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
