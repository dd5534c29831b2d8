"""The exact index beyond its contract: loading, concurrency, unusual numbers and errors."""

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
    """A storage whose scans wait before each batch until the test lets them continue. It counts the scans."""

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
    """Write one task for each keyword, in the partition that is its value."""
    await storage.commit([Put(TASKS, row(id, partition)) for id, partition in partitions.items()])


def row(id: str, partition: str) -> dict[str, object]:
    """Return a task with a vector that depends on its id."""
    return sample_row(TASKS, id, user_id=partition, embedding=sample_vector(id))


def change(id: str, partition: str, *, deleted: bool = False) -> VectorChange:
    """Return the change of the index for such a task."""
    return VectorChange(id, partition, None if deleted else sample_vector(id))


async def ids_in(index: VectorStore, *partitions: str) -> set[str]:
    """Return the ids of all tasks that a search in some partitions finds."""
    matches = await index.search(TASKS, sample_vector("query"), partitions=partitions, limit=100)
    return set(matches.ids)


@pytest.fixture
async def storage() -> MemoryStorage:
    """A storage with the table of tasks."""
    storage = MemoryStorage()
    await storage.apply_schema(CreateTable(TASKS, DIMENSIONS))
    return storage


@pytest.fixture
async def slow() -> SlowStorage:
    """A storage with the table of tasks, whose scans wait."""
    storage = SlowStorage()
    await storage.apply_schema(CreateTable(TASKS, DIMENSIONS))
    return storage


async def open_index(storage: Storage, metric: str = "cosine", dimensions: int = DIMENSIONS) -> ExactIndex:
    """Return an index of tasks over a storage."""
    index = ExactIndex(storage)
    await index.create(IndexSpec(TASKS, dimensions, metric))
    return index


class TestInAThread(VectorStoreContract):
    """The contract, with every search in a thread."""

    spec = exact.pattern_vectors()

    @pytest.fixture(autouse=True)
    def _no_inline_searches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Run every search in a thread, as a large one."""
        monkeypatch.setattr(exact, "_INLINE_ELEMENTS", -1)


class TestLoading:
    """An index reads a partition at its first search, and applies the changes made meanwhile."""

    async def test_nothing_is_loaded_before_a_search(self, slow: SlowStorage) -> None:
        """Creating an index and changing partitions that no search has used reads and keeps nothing."""
        slow.go.set()
        index = await open_index(slow)
        await fill(slow, a="p")
        await index.apply(TASKS, [change("a", "p")])
        assert slow.scans == 0
        assert (await index.health()).details["loaded_vectors"] == 0
        assert await ids_in(index, "p") == {"a"}
        details = (await index.health()).details
        assert (details["loaded_partitions"], details["loaded_vectors"]) == (1, 1)

    async def test_missing_partitions_are_read_in_one_scan(self, slow: SlowStorage) -> None:
        """A search in several partitions reads those that are not loaded in one scan."""
        slow.go.set()
        index = await open_index(slow)
        await fill(slow, a="p", b="q", c="r")
        assert await ids_in(index, "p") == {"a"}
        assert await ids_in(index, "p", "q", "r", "none") == {"a", "b", "c"}
        assert await ids_in(index, "none", "r") == {"c"}
        assert slow.scans == 2

    async def test_searches_share_a_scan(self, slow: SlowStorage) -> None:
        """Searches in a partition that is being read wait for that scan, and start no other."""
        index = await open_index(slow)
        await fill(slow, a="p", b="q")
        first = asyncio.create_task(ids_in(index, "p"))
        await slow.begun.wait()
        others = [asyncio.create_task(ids_in(index, *names)) for names in (["p"], ["p", "q"])]
        await asyncio.sleep(0)
        slow.go.set()
        assert [await first, *[await each for each in others]] == [{"a"}, {"a"}, {"a", "b"}]
        assert slow.scans == 2

    async def test_a_loaded_partition_is_searched_while_another_is_read(self, slow: SlowStorage) -> None:
        """Searches and changes in one partition do not wait for the scan of another."""
        index = await open_index(slow)
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
        """A change that is applied during a scan replaces the scanned row."""
        index = await open_index(slow, metric)
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
                change("goes", "p", deleted=True),
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

    async def test_a_moved_record_whose_change_is_pending(self, slow: SlowStorage) -> None:
        """A scan that finds a record in another partition than the index moves it; it is never in both."""
        slow.go.set()
        index = await open_index(slow)
        await fill(slow, a="p")
        assert await ids_in(index, "p") == {"a"}
        await fill(slow, a="q")  # committed, but `apply` comes later
        assert await ids_in(index, "q") == {"a"}
        assert await ids_in(index, "p") == set()
        await index.apply(TASKS, [change("a", "q")])
        assert await ids_in(index, "p", "q") == {"a"}

    async def test_a_cancelled_load_is_repeated(self, slow: SlowStorage) -> None:
        """If a search is cancelled while it reads a partition, another one that waits reads it."""
        index = await open_index(slow)
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

    async def test_a_scan_for_a_dropped_index(self, slow: SlowStorage) -> None:
        """A scan for an index that was dropped meanwhile adds nothing to the next one."""
        index = await open_index(slow)
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
        """After a failed scan, the next search scans again."""
        index = await open_index(storage)
        await storage.commit([Put(TASKS, sample_row(TASKS, "a", user_id="p", embedding=sample_vector("a", 3)))])
        with pytest.raises(StorageError):
            await ids_in(index, "p")
        await fill(storage, a="p")
        assert await ids_in(index, "p") == {"a"}


class TestLargeSearches:
    """Searches in a thread."""

    async def test_changes_wait_for_a_search_in_a_thread(
        self, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rows do not change during a search in a thread: a search sees all changes of one `apply` or none."""
        monkeypatch.setattr(exact, "_INLINE_ELEMENTS", -1)
        dimensions, count = 64, 3000
        index = await open_index(storage, "manhattan", dimensions)
        low, high = (np.full(dimensions, value, dtype=np.float32) for value in (1, 2))
        rows = [sample_row(TASKS, f"t{n:04}", user_id="p", embedding=low) for n in range(count)]
        await storage.commit([Put(TASKS, each) for each in rows])
        query = np.full(dimensions, 3, dtype=np.float32)
        allowed = {-2.0 * dimensions, -1.0 * dimensions}

        async def flip() -> None:
            for number in range(10):
                vector = high if number % 2 == 0 else low
                await index.apply(TASKS, [VectorChange(each["id"], "p", vector) for each in rows])

        async def search() -> None:
            for _ in range(10):
                matches = await index.search(TASKS, query, partitions=["p"], limit=count)
                assert len(matches.ids) == count
                assert len(set(matches.scores)) == 1  # all changes of one `apply`, or none
                assert set(matches.scores) <= allowed

        await asyncio.gather(flip(), search(), search())

    async def test_other_tasks_run_during_a_large_search(self, storage: MemoryStorage) -> None:
        """Other tasks of the event loop run during a large search."""
        dimensions, count = 256, 20_000
        index = await open_index(storage, "euclidean", dimensions)
        vectors = np.random.default_rng(0).standard_normal((count, dimensions)).astype(np.float32)
        await load_empty_partition(index, dimensions)
        await index.apply(TASKS, [VectorChange(f"t{n:05}", "p", vector) for n, vector in enumerate(vectors)])
        task = asyncio.create_task(index.search(TASKS, vectors[7], partitions=["p"], limit=3))
        await asyncio.sleep(0)  # the search begins
        iterations = 0
        while not task.done():
            iterations += 1
            await asyncio.sleep(0)
        assert iterations > 1
        matches = await task
        distances = np.linalg.norm(vectors.astype(np.float64) - vectors[7], axis=1)
        assert matches.ids == tuple(f"t{n:05}" for n in np.argsort(distances)[:3])


async def load_empty_partition(index: VectorStore, dimensions: int) -> None:
    """Load the partition ``p`` while it is empty, so that changes go directly into it."""
    assert (await index.search(TASKS, np.ones(dimensions, dtype=np.float32), partitions=["p"], limit=1)).ids == ()


Case = tuple[dict[str, Vector], Vector, int]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw tasks with vectors of three dimensions, some of them equal, a query, and a limit."""
    numbers = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from([-1.0, 0.0, 1.0])
    vectors = st.lists(numbers, min_size=3, max_size=3).filter(any).map(lambda each: np.array(each, dtype=np.float32))
    pool = draw(st.lists(vectors, min_size=1, max_size=4))
    chosen = draw(st.lists(st.sampled_from(pool) | vectors, min_size=1, max_size=20))
    ids = draw(st.permutations([f"t{n:02}" for n in range(len(chosen))]))
    query = draw(st.sampled_from(pool) | vectors)
    return dict(zip(ids, chosen, strict=True)), query, draw(st.integers(1, 6))


class TestExactness:
    """Searches return the same as scoring and sorting every vector."""

    @given(case=cases())
    @pytest.mark.parametrize("metric", METRICS)
    async def test_search_equals_scoring_one_by_one(self, metric: str, case: Case) -> None:
        """For any finite vectors, tiny, huge and repeated ones included, the scores are those of a full sort."""
        records, query, limit = case
        storage = MemoryStorage()
        await storage.apply_schema(CreateTable(TASKS, 3))
        rows = [sample_row(TASKS, id, user_id=id[-1], embedding=vector) for id, vector in records.items()]
        await storage.commit([Insert(TASKS, each) for each in rows])
        index = await open_index(storage, metric, 3)
        matches = await index.search(TASKS, query, partitions="0123456789", limit=limit)
        scores = {id: score(query, vector, metric) for id, vector in records.items()}
        best = sorted(scores, key=lambda each: (-scores[each], each))[:limit]
        assert matches.ids == tuple(best)
        assert matches.scores == tuple(scores[id] for id in best)
        assert matches.exact

    @pytest.mark.parametrize("metric", METRICS)
    async def test_vectors_that_float32_cannot_distinguish(self, storage: MemoryStorage, metric: str) -> None:
        """Vectors that are close together and far from the origin are ranked as with float64."""
        generator = np.random.default_rng(0)
        index = await open_index(storage, metric, 64)
        await load_empty_partition(index, 64)
        center = 1000 * generator.standard_normal(64)
        points = (center + 0.01 * generator.standard_normal((500, 64))).astype(np.float32)
        records = {f"t{n:03}": point for n, point in enumerate(points)}
        await index.apply(TASKS, [VectorChange(id, "p", vector) for id, vector in records.items()])
        for query in points[:20]:
            matches = await index.search(TASKS, query, partitions=["p"], limit=5)
            scores = {id: score(query, vector, metric) for id, vector in records.items()}
            assert matches.ids == tuple(sorted(scores, key=lambda each: (-scores[each], each))[:5])

    @pytest.mark.parametrize("metric", METRICS)
    async def test_a_partition_of_equal_vectors(self, storage: MemoryStorage, metric: str) -> None:
        """Thousands of equal vectors have one score and come by id, also at offsets that BLAS computes differently."""
        index = await open_index(storage, metric, 383)
        vector, query = sample_vector("same", 383), sample_vector("query", 383)
        await load_empty_partition(index, 383)
        order = [f"t{n:04}" for n in np.random.default_rng(0).permutation(3001)]
        await index.apply(TASKS, [VectorChange(id, "p", vector) for id in order])
        await index.apply(TASKS, [VectorChange(f"t{n:04}", "p", None) for n in range(0, 3001, 7)])
        matches = await index.search(TASKS, query, partitions=["p"], limit=50)
        left = [f"t{n:04}" for n in range(3001) if n % 7]
        assert matches.ids == tuple(left[:50])
        assert len(set(matches.scores)) == 1

    async def test_a_limit_of_zero(self, storage: MemoryStorage) -> None:
        """A limit of 0 returns no match."""
        index = await open_index(storage)
        await fill(storage, a="p")
        assert (await index.search(TASKS, sample_vector("a"), partitions=["p"], limit=0)).ids == ()


class TestErrors:
    """Errors and their messages."""

    async def test_an_unknown_metric(self, storage: MemoryStorage) -> None:
        """An error about an unknown metric suggests the closest name."""
        with pytest.raises(ConfigError, match=r"Did you mean 'cosine'\?") as caught:
            await open_index(storage, "cosin")
        assert caught.value.key == "vectors.metric"

    async def test_a_table_without_vectors(self, storage: MemoryStorage) -> None:
        """A table without vectors or without a partition cannot have an index."""
        index = ExactIndex(storage)
        for table in (TABLES["users"], attrs.evolve(TASKS, partition=None)):
            with pytest.raises(StorageError, match=table.name):
                await index.create(IndexSpec(table, DIMENSIONS, "cosine"))

    async def test_no_index(self, storage: MemoryStorage) -> None:
        """An error about a missing index names the call that creates it."""
        index = ExactIndex(storage)
        with pytest.raises(StorageError, match=r"tasks has no vector index. Create it with create"):
            await ids_in(index, "p")
        with pytest.raises(StorageError, match="Create it with create"):
            await index.count(TASKS)

    @pytest.mark.parametrize("vector", [[0.0] * 8, [np.nan] * 8, [np.inf] * 8, [1.0] * 7, [[1.0] * 8]])
    async def test_a_change_with_an_unusable_vector(self, storage: MemoryStorage, vector: object) -> None:
        """A change with an unusable vector is rejected, with all other changes of the call."""
        index = await open_index(storage)
        assert await ids_in(index, "p") == set()
        bad = VectorChange("bad", "p", np.array(vector, dtype=np.float32))
        with pytest.raises(InvalidVectorError):
            await index.apply(TASKS, [change("good", "p"), bad])
        assert await ids_in(index, "p") == set()

    @pytest.mark.parametrize("vector", [[0.0] * 8, [np.nan, *[1.0] * 7], [1.0] * 7, [1.0] * 16])
    async def test_an_unusable_stored_vector(self, storage: MemoryStorage, vector: list[float]) -> None:
        """An error about an unusable stored vector names the record and the command that replaces it."""
        index = await open_index(storage)
        await fill(storage, a="p", c="p")
        bad = sample_row(TASKS, "b", user_id="p", embedding=np.array(vector, dtype=np.float32))
        await storage.commit([Insert(TASKS, bad)])
        with pytest.raises(StorageError, match=r"tasks record 'b' .* 8 finite numbers.* `pattern reembed run"):
            await ids_in(index, "p")


def test_the_import_is_cheap() -> None:
    """Importing the plugin imports neither Arrow nor an engine."""
    code = (
        "import sys, pattern_core.search.exact; print(sorted({'pyarrow', 'torch', 'surrealdb'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
