"""Approximate indexes: when they are built, their options, their recall; and the location of external indexes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from pattern_core.abc import Delete, IndexSpec, Insert, Patch, Storage, Vector, VectorStore
from pattern_core.errors import ConfigError, StorageError
from pattern_core.schema import CreateTable, DropTable
from pattern_core.testing import TASKS, MemoryStorage, sample_row
from pattern_core.toolkit import structure_options
from pattern_lancedb.plugin import StorageOptions, VectorOptions, pattern_storage, pattern_vectors
from pattern_lancedb.storage import LanceStorage

pytestmark = pytest.mark.anyio

WIDTH = 32
FEW_EXACT: dict[str, Any] = {"exact_rows": 100}


def embeddings(count: int, seed: int = 0) -> list[Vector]:
    """Return clustered vectors with a falling spectrum, as embedding models make them."""
    generator = np.random.default_rng(seed)
    scale = (np.arange(WIDTH) + 1) ** -0.5
    topics = generator.standard_normal((20, WIDTH)) * scale
    points = topics[generator.integers(0, 20, count)] + generator.standard_normal((count, WIDTH)) * scale
    return list(points.astype(np.float32))


def inserts(vectors: list[Vector], start: int = 0) -> list[Insert]:
    """Return tasks of two users, alternating."""
    return [
        Insert(TASKS, sample_row(TASKS, f"t{n:05}", user_id=("ada", "grace")[n % 2], embedding=vector))
        for n, vector in enumerate(vectors, start)
    ]


async def open_column(path: Path, **options: Any) -> tuple[LanceStorage, VectorStore]:
    """Open a storage with the table of tasks, and the vector search over it."""
    storage = await pattern_storage().open(StorageOptions(path=path))
    assert isinstance(storage, LanceStorage)
    await storage.apply_schema(CreateTable(TASKS, WIDTH))
    return storage, await pattern_vectors().open(VectorOptions(**{**FEW_EXACT, **options}), storage)


async def index_stats(storage: LanceStorage) -> dict[str, Any] | None:
    """Return the engine's statistics of the index over the tasks' vectors; None if there is no index."""
    table = await (await storage.database.snapshot()).table(TASKS.name)
    names = [each.name for each in await table.list_indices() if each.columns == ["embedding"]]
    stats = await table.index_stats(names[0]) if names else None
    return None if stats is None else relevant(stats)


def relevant(stats: Any) -> dict[str, Any]:
    """Return the statistics that these tests check."""
    return {name: getattr(stats, name) for name in ("index_type", "distance_type", "num_unindexed_rows")}


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", ["ivf-sq", "ivf-hnsw-sq", "ivf-flat"])
async def test_recall_stays_high_through_changes(tmp_path: Path, kind: Any, metric: str) -> None:
    """The recall of ten in a partition is at least 99 %: with a new index, after changes, and after a reopening."""
    vectors = dict(enumerate(embeddings(3000)))
    queries = embeddings(30, seed=1)

    async def recall(index: VectorStore) -> float:
        found = 0
        for query in queries:
            own = np.array([n for n in vectors if n % 2 == 0])
            rows = np.stack([vectors[n] for n in own]).astype(np.float64)
            distances = (
                np.linalg.norm(rows - query, axis=1)
                if metric == "euclidean"
                else -(rows @ query) / np.linalg.norm(rows, axis=1)
            )
            nearest = {f"t{n:05}" for n in own[np.argsort(distances)[:10]]}
            matches = await index.search(TASKS, query, partitions=["ada"], limit=10)
            assert not matches.exact
            assert len(matches.ids) == 10
            found += len(nearest & set(matches.ids))
        return found / (10 * len(queries))

    storage, index = await open_column(tmp_path, index=kind)
    async with storage, index:
        await storage.commit(inserts(list(vectors.values())))
        await index.create(IndexSpec(TASKS, WIDTH, metric))
        await index.maintain()
        assert await recall(index) >= 0.99
        fresh = embeddings(600, seed=2)
        batch: list[Any] = [Delete(TASKS, f"t{n:05}") for n in range(600)]
        batch += [Patch(TASKS, f"t{n:05}", {"embedding": fresh[n - 600]}) for n in range(600, 1200)]
        batch += inserts(embeddings(500, seed=3), 3000)
        await storage.commit(batch)
        vectors = {n: vector for n, vector in vectors.items() if n >= 600}
        vectors |= {n: fresh[n - 600] for n in range(600, 1200)} | dict(enumerate(embeddings(500, seed=3), 3000))
        assert await recall(index) >= 0.99  # the changes are in the WAL
        await storage.database.flush()
        assert await recall(index) >= 0.99  # the changes are in the table, and the index does not cover them
    storage, index = await open_column(tmp_path, index=kind)
    async with storage, index:
        await index.create(IndexSpec(TASKS, WIDTH, metric))
        assert await recall(index) >= 0.99
        await storage.maintain()
        await index.maintain()
        assert await recall(index) >= 0.99


async def test_the_options_reach_the_engine(tmp_path: Path) -> None:
    """Kind and metric reach the engine; another kind or metric builds another index, and a small table gets none."""
    storage, index = await open_column(tmp_path / "few", exact_rows=1000)
    async with storage, index:
        await storage.commit(inserts(embeddings(500)))
        await index.create(IndexSpec(TASKS, WIDTH, "cosine"))
        assert await index.maintain() == {}
        assert await index_stats(storage) is None
    for kind, metric, expected in [
        ("ivf-sq", "cosine", ("IVF_SQ", "cosine")),
        ("ivf-sq", "euclidean", ("IVF_SQ", "l2")),
        ("ivf-flat", "euclidean", ("IVF_FLAT", "l2")),
        ("ivf-hnsw-sq", "euclidean", ("IVF_HNSW_SQ", "l2")),
    ]:
        storage, index = await open_column(tmp_path / "few", index=kind, index_partitions=2)
        async with storage, index:
            await index.create(IndexSpec(TASKS, WIDTH, metric))
            await index.maintain()
            stats = await index_stats(storage)
            assert stats is not None
            assert (stats["index_type"], stats["distance_type"]) == expected
            assert (await index.health()).details["kit_tasks_index"] == kind
            assert await index.maintain() == {}  # it is not built again


async def test_small_partitions_are_searched_exactly(tmp_path: Path) -> None:
    """Up to `exact_rows` rows in the partitions of a search, and with few ids, the search is exact."""
    storage, index = await open_column(tmp_path, exact_rows=250)
    vectors = embeddings(600)
    async with storage, index:
        await storage.commit(inserts(vectors))
        few = [attrs.evolve(each, row={**each.row, "user_id": "few"}) for each in inserts(vectors[:200], 600)]
        await storage.commit(few)
        await index.create(IndexSpec(TASKS, WIDTH, "cosine"))
        await index.maintain()
        search = index.search
        assert not (await search(TASKS, vectors[0], partitions=["ada"], limit=5)).exact
        assert (await search(TASKS, vectors[0], partitions=["few"], limit=5)).exact
        assert not (await search(TASKS, vectors[0], partitions=["few", "ada"], limit=5)).exact
        some = [f"t{n:05}" for n in range(0, 400, 2)]
        assert (await search(TASKS, vectors[0], partitions=["ada"], limit=5, ids=some)).exact
        everything = await search(TASKS, vectors[0], partitions=["ada"], limit=1000)
        assert everything.exact
        assert len(everything.ids) == 300


async def test_when_the_index_is_extended_or_rebuilt(tmp_path: Path) -> None:
    """An index is extended when it leaves out many rows, and rebuilt when its table has grown by a factor."""
    storage, index = await open_column(tmp_path)
    async with storage, index:
        await storage.commit(inserts(embeddings(1000)))
        await index.create(IndexSpec(TASKS, WIDTH, "cosine"))
        await index.maintain()
        await storage.commit(inserts(embeddings(500, seed=1), 1000))
        assert await index.maintain() == {}
        assert ((await index_stats(storage)) or {})["num_unindexed_rows"] == 500
        await storage.commit(inserts(embeddings(1700, seed=2), 1500))
        assert await index.maintain() == {"kit_tasks_index": "extended"}
        assert ((await index_stats(storage)) or {})["num_unindexed_rows"] == 0
        await storage.commit(inserts(embeddings(1000, seed=3), 3200))
        assert await index.maintain() == {"kit_tasks_index": "built"}
        assert (await index.health()).details["kit_tasks_index_rows"] == 4200


async def test_a_table_that_is_created_again_has_no_index(tmp_path: Path) -> None:
    """The index of a dropped table is not used for a new table of that name."""
    storage, index = await open_column(tmp_path)
    async with storage, index:
        await storage.commit(inserts(embeddings(400)))
        await index.create(IndexSpec(TASKS, WIDTH, "cosine"))
        await index.maintain()
        await storage.apply_schema(DropTable(TASKS))
        with pytest.raises(StorageError, match=TASKS.name):
            await index.search(TASKS, embeddings(1)[0], partitions=["ada"], limit=3)
        await storage.apply_schema(CreateTable(TASKS, WIDTH))
        await storage.commit(inserts(embeddings(400, seed=1)))
        assert (await index.search(TASKS, embeddings(1)[0], partitions=["ada"], limit=3)).exact
        assert await index.maintain() == {"kit_tasks_index": "built"}
        assert not (await index.search(TASKS, embeddings(1)[0], partitions=["ada"], limit=3)).exact


async def test_other_dimensions_need_reembedding(tmp_path: Path) -> None:
    """An index with other dimensions than the stored vectors is rejected, and the error says how to re-embed."""
    storage, index = await open_column(tmp_path)
    async with storage, index:
        with pytest.raises(StorageError, match="pattern reembed"):
            await index.create(IndexSpec(TASKS, WIDTH + 1, "cosine"))


async def test_large_numbers_do_not_overflow(tmp_path: Path) -> None:
    """Exact search is correct for vectors whose squares do not fit into float32."""
    storage, index = await open_column(tmp_path)
    async with storage, index:
        huge = [(axis * np.float32(1e30)).astype(np.float32) for axis in np.eye(WIDTH, dtype=np.float32)]
        tiny = [(axis * np.float32(1e-30)).astype(np.float32) for axis in np.eye(WIDTH, dtype=np.float32)]
        await storage.commit(inserts([*huge, *tiny]))
        for metric in ("cosine", "euclidean", "manhattan"):
            await index.create(IndexSpec(TASKS, WIDTH, metric))
            await storage.database.flush()
            matches = await index.search(TASKS, huge[2], partitions=["ada", "grace"], limit=1)
            assert matches.ids == ("t00002",)
            assert matches.exact


async def test_copies_of_another_database_are_rebuilt(tmp_path: Path) -> None:
    """Copies of one database are not used for another one that has the same location; they are rebuilt."""
    options = VectorOptions(path=tmp_path)
    one, other = MemoryStorage(), MemoryStorage()
    vectors = embeddings(4)
    for storage, part in ((one, vectors[:2]), (other, vectors[2:])):
        await storage.apply_schema(CreateTable(TASKS, WIDTH))
        await storage.commit(inserts(part))
    for storage, name in ((one, "one"), (other, "other"), (one, "one")):
        async with await pattern_vectors().open(options, storage) as index:
            assert index.location
            await index.create(IndexSpec(TASKS, WIDTH, "cosine", name))
            part = vectors[:2] if storage is one else vectors[2:]
            for query in part:
                matches = await index.search(TASKS, query, partitions=["ada", "grace"], limit=1)
                assert matches.scores == pytest.approx((1.0,))
            assert await index.count(TASKS) == 2


async def test_locations(tmp_path: Path) -> None:
    """Over LanceDB the index has no location of its own, unless the options name one for copies."""
    storage, index = await open_column(tmp_path / "one")
    async with storage, index:
        assert index.location is None
        async with await pattern_vectors().open(VectorOptions(path=tmp_path / "two"), storage) as copies:
            assert copies.location


async def test_copies_never_replace_records(tmp_path: Path) -> None:
    """A location with records is rejected for copies, and the records stay."""
    storage, index = await open_column(tmp_path)
    async with storage, index:
        await storage.commit(inserts(embeddings(3)))
        async with await pattern_vectors().open(VectorOptions(path=tmp_path), storage) as copies:
            with pytest.raises(ConfigError, match="location of their own"):
                await copies.create(IndexSpec(TASKS, WIDTH, "cosine"))
        assert await storage.count(TASKS) == 3


async def test_another_storage_needs_a_location() -> None:
    """Over another storage, the options need a path or a uri, and the error says so."""
    storage: Storage = MemoryStorage()
    with pytest.raises(ConfigError, match="set path") as caught:
        await pattern_vectors().open(VectorOptions(), storage)
    assert caught.value.key == "vectors.path"


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"ef": 100}, "ivf-hnsw-sq"),
        ({"m": 12, "index": "ivf-flat"}, "ivf-hnsw-sq"),
        ({"endpoint": "http://localhost"}, "uri"),
        ({"index": "ivf-pq"}, "ivf-sq"),
        ({"refine": 0}, "refine"),
        ({"exact_rows": -1}, "exact_rows"),
        ({"index_partitions": 0}, "index_partitions"),
    ],
)
def test_unused_options_are_rejected(given: dict[str, Any], word: str) -> None:
    """An option without effect, or out of range, raises `ConfigError` with what to do."""
    with pytest.raises(ConfigError, match=word):
        structure_options(VectorOptions, given, section="vectors", base=Path())
