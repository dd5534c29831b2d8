"""The rules of the kit pass for correct implementations, and fail for wrong ones."""

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from pattern_core.abc import Delete, IndexSpec, Insert, Matches, Patch, Put, Row, Storage, Vector, VectorChange, Write
from pattern_core.errors import FilterError, PatternError, StorageError
from pattern_core.filters import Field, Filter
from pattern_core.schema import CreateTable, Order, Table
from pattern_core.search.exact import ExactIndex, pattern_vectors
from pattern_core.testing import (
    DIMENSIONS,
    KIT_TABLES,
    EmbedderContract,
    LetterEmbedder,
    MemoryData,
    MemoryOptions,
    MemoryStorage,
    StorageContract,
    VectorStoreContract,
    letter_embeddings,
    memory_storage,
    mirror_vectors,
    sample_row,
)
from pattern_core.testing.indexed_storage import DIMENSIONS as INDEX_DIMENSIONS
from pattern_core.testing.indexed_storage import TASKS, IndexedStorage

pytestmark = pytest.mark.anyio

FAILURES = (AssertionError, pytest.fail.Exception)


class TestMemoryStorage(StorageContract):
    """The in-memory storage keeps the contract of storages."""

    spec = memory_storage()

    @pytest.fixture
    def options(self) -> MemoryOptions:
        """A new dict for each test."""
        return MemoryOptions()


class TestExactIndex(VectorStoreContract):
    """The built-in vector search keeps the contract of vector searches."""

    spec = pattern_vectors()


class TestMirrorIndex(VectorStoreContract):
    """The in-memory external index keeps the contract of vector searches."""

    spec = mirror_vectors()


class TestLetterEmbedder(EmbedderContract):
    """The letter embedder keeps the contract of embedders."""

    spec = letter_embeddings()


class IgnoresRevisions(MemoryStorage):
    """Wrong: a patch ignores the expected revision."""

    async def commit(self, batch: Sequence[Write]) -> None:
        await super().commit([attrs.evolve(each, revision=None) if isinstance(each, Patch) else each for each in batch])


class GroupsByKind(MemoryStorage):
    """Wrong: all deletions of a batch come last."""

    async def commit(self, batch: Sequence[Write]) -> None:
        await super().commit(sorted(batch, key=lambda write: isinstance(write, Delete)))


class CommitsOneByOne(MemoryStorage):
    """Wrong: a failed batch keeps the writes before the failure."""

    async def commit(self, batch: Sequence[Write]) -> None:
        for each in batch:
            await super().commit([each])
            await asyncio.sleep(0)


class LimitsFirst(MemoryStorage):
    """Wrong: the limit applies before the filter."""

    async def find(
        self,
        table: Table,
        where: Filter | None = None,
        *,
        order: Sequence[Order] = (),
        limit: int | None = None,
        vectors: bool = False,
    ) -> list[Row]:
        first = {row["id"] for row in await super().find(table, limit=limit)}
        return [row for row in await super().find(table, where, order=order, vectors=vectors) if row["id"] in first]


class DropsNulls(MemoryStorage):
    """Wrong: nulls inside JSON objects are dropped."""

    async def commit(self, batch: Sequence[Write]) -> None:
        changed = [Put(each.table, self._without(each.row)) if isinstance(each, Put) else each for each in batch]
        await super().commit(changed)

    def _without(self, row: Row) -> Row:
        kept = {key: value for key, value in row["metadata"].items() if value is not None}
        return row | {"metadata": kept}


class PagesByNumber(MemoryStorage):
    """Wrong: a scan reads pages by number, so that rows move between pages."""

    async def scan(
        self,
        table: Table,
        where: Filter | None = None,
        *,
        columns: Sequence[str] | None = None,
        batch_rows: int = 1024,
    ) -> AsyncIterator[pa.RecordBatch]:
        page = 0
        while True:
            batches = [each async for each in super().scan(table, where, columns=columns, batch_rows=batch_rows)]
            if page >= len(batches):
                return
            yield batches[page]
            page += 1


class ForgetsWrites(MemoryStorage):
    """Wrong: closing loses the last record."""

    async def aclose(self) -> None:
        if self._data:
            self._data["tasks"].popitem()
        await super().aclose()


class SharesRows(MemoryStorage):
    """Wrong: reads return the stored objects."""

    async def get(self, table: Table, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        rows = self._rows(table)
        return [rows.get(id) for id in ids]


class SkipsClosest(ExactIndex):
    """Wrong: the closest of many matches is missing."""

    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, ids: Sequence[str] | None = None
    ) -> Matches:
        found = await super().search(table, vector, partitions=partitions, limit=limit + 1, ids=ids)
        start = 1 if len(found.ids) > limit else 0
        return Matches(found.ids[start:][:limit], found.scores[start:][:limit], exact=True)


class FiltersAfterwards(ExactIndex):
    """Wrong: it searches all partitions, then drops the matches in others."""

    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, ids: Sequence[str] | None = None
    ) -> Matches:
        everywhere = [row["user_id"] for row in await self._storage.find(table)]
        found = await super().search(table, vector, partitions=everywhere, limit=limit, ids=ids)
        rows = await self._storage.get(table, found.ids)
        kept = [n for n, row in enumerate(rows) if row is not None and row["user_id"] in partitions]
        return Matches(tuple(found.ids[n] for n in kept), tuple(found.scores[n] for n in kept), exact=True)


class SearchesEverywhere(ExactIndex):
    """Wrong: it returns records of other users."""

    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, ids: Sequence[str] | None = None
    ) -> Matches:
        everywhere = [row["user_id"] for row in await self._storage.find(table)]
        return await super().search(table, vector, partitions=everywhere, limit=limit, ids=ids)


class KeepsDeleted(ExactIndex):
    """Wrong: deleted records stay in the index."""

    async def apply(self, table: Table, changes: Sequence[VectorChange]) -> None:
        await super().apply(table, [change for change in changes if change.vector is not None])


class TiesByPosition(ExactIndex):
    """Wrong: ties are sorted by id, descending."""

    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, ids: Sequence[str] | None = None
    ) -> Matches:
        found = await super().search(table, vector, partitions=partitions, limit=limit, ids=ids)
        pairs = sorted(zip(found.scores, found.ids, strict=True), reverse=True)
        return Matches(tuple(id for _, id in pairs), tuple(score for score, _ in pairs), exact=True)


class SortsByLength(LetterEmbedder):
    """Wrong: the vectors are in the order of the lengths of the texts."""

    async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return await super().embed_documents(sorted(texts, key=len))


class MixesTexts(LetterEmbedder):
    """Wrong: a vector depends on the other texts in the batch."""

    async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = await super().embed_documents(texts)
        mixed: NDArray[np.float32] = vectors + 0.1 * vectors.mean(axis=0, dtype=np.float32)
        unit: NDArray[np.float32] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
        return unit


class CountsToLimit(LetterEmbedder):
    """Wrong: the token count stops at the limit, which hides that a text is truncated."""

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [min(300, count) for count in await super().count_tokens(texts)]


class Float64(LetterEmbedder):
    """Wrong: the vectors are float64."""

    async def embed_documents(self, texts: Sequence[str]) -> NDArray[Any]:
        return (await super().embed_documents(texts)).astype(np.float64)


class TestWrongPlugins:
    """A plugin that breaks a rule fails the test of the rule."""

    @pytest.mark.parametrize(
        ("storage", "rule", "arguments"),
        [
            (IgnoresRevisions, "test_a_failed_write_rolls_back_the_batch", ("patch of another revision", 1)),
            (IgnoresRevisions, "test_no_lost_updates", ()),
            (GroupsByKind, "test_writes_see_earlier_writes", ()),
            (CommitsOneByOne, "test_a_failed_write_rolls_back_the_batch", ("check of a missing record", 2)),
            (CommitsOneByOne, "test_readers_never_see_a_partial_batch", ()),
            (LimitsFirst, "test_limit_applies_after_filter_and_order", ()),
            (DropsNulls, "test_json_round_trips", ({"a": None},)),
            (PagesByNumber, "test_scan_while_others_write", ()),
            (SharesRows, "test_rows_belong_to_the_caller", ()),
            (SharesRows, "test_rows_have_all_columns_and_vectors_on_request", ()),
        ],
    )
    async def test_storages(self, storage: type[MemoryStorage], rule: str, arguments: tuple[object, ...]) -> None:
        """The rule passes for the correct storage and fails for the wrong one."""
        for kind, wrong in ((MemoryStorage, False), (storage, True)):
            opened = kind()
            for table in KIT_TABLES:
                await opened.apply_schema(CreateTable(table, DIMENSIONS))
            test = getattr(TestMemoryStorage(), rule)(opened, *arguments)
            if wrong:
                with pytest.raises((*FAILURES, PatternError)):
                    await test
            else:
                await test

    async def test_a_lost_write(self) -> None:
        """A storage that loses a write on closing fails."""
        data: MemoryData = {}
        storage = ForgetsWrites(data)
        for table in KIT_TABLES:
            await storage.apply_schema(CreateTable(table, DIMENSIONS))

        async def reopen() -> Storage:
            await storage.aclose()
            return MemoryStorage(data)

        with pytest.raises(FAILURES):
            await TestMemoryStorage().test_records_survive_closing(storage, reopen)

    @pytest.mark.parametrize(
        ("index", "rule", "arguments"),
        [
            (SkipsClosest, "test_search_is_correct_after_many_changes", (1,)),
            (FiltersAfterwards, "test_search_is_limited_to_its_partitions", ()),
            (SearchesEverywhere, "test_search_is_limited_to_its_partitions", ()),
            (SearchesEverywhere, "test_search_is_correct_after_many_changes", (1,)),
            (KeepsDeleted, "test_an_applied_change_is_found_at_once", ()),
            (KeepsDeleted, "test_search_is_correct_after_many_changes", (1,)),
            (TiesByPosition, "test_ties_are_sorted_by_id", ()),
        ],
    )
    async def test_indexes(self, index: type[ExactIndex], rule: str, arguments: tuple[object, ...]) -> None:
        """The rule passes for the correct index and fails for the wrong one."""
        for kind, wrong in ((ExactIndex, False), (index, True)):
            storage = MemoryStorage()
            await storage.apply_schema(CreateTable(TASKS, INDEX_DIMENSIONS))
            vectors = kind(storage)
            await vectors.create(IndexSpec(TASKS, INDEX_DIMENSIONS, "cosine"))
            test = getattr(TestExactIndex(), rule)(IndexedStorage(storage, vectors, "cosine"), *arguments)
            if wrong:
                with pytest.raises(FAILURES):
                    await test
            else:
                await test

    @pytest.mark.parametrize(
        ("embedder", "rule"),
        [
            (SortsByLength, "test_vectors_are_in_the_order_of_the_texts"),
            (SortsByLength, "test_a_query_finds_its_document"),
            (MixesTexts, "test_vectors_do_not_depend_on_the_batch"),
            (CountsToLimit, "test_tokens_are_counted_beyond_the_limit"),
            (Float64, "test_vectors_have_the_declared_form"),
        ],
    )
    async def test_embedders(self, embedder: type[LetterEmbedder], rule: str) -> None:
        """The rule fails for the wrong embedder."""
        with pytest.raises(FAILURES):
            await getattr(TestLetterEmbedder(), rule)(embedder())


def make_test() -> Callable[[object], None]:
    """Return a test that always passes."""

    def test(_: object) -> None:
        pass

    return test


def make_subclass(test: object) -> type:
    """Return a subclass of the contract that overrides a rule."""
    return type("Mine", (TestMemoryStorage,), {"test_no_lost_updates": test, "__module__": __name__})


class TestOverriddenRules:
    """No rule can be dropped silently."""

    @pytest.mark.parametrize("value", [None, make_test(), pytest.mark.skip(make_test())])
    def test_a_hidden_rule_is_an_error(self, value: object) -> None:
        """Creating a subclass that overrides a rule, or sets it to None, raises an error that names both."""
        with pytest.raises(TypeError, match=r"Mine\.test_no_lost_updates hides a rule"):
            make_subclass(value)

    def test_a_rule_hidden_by_a_mixin_is_an_error(self) -> None:
        """A base class before the contract cannot hide a rule either."""
        mixin = type("Mixin", (), {"test_no_lost_updates": make_test(), "__module__": __name__})
        with pytest.raises(TypeError, match=r"Mine\.test_no_lost_updates hides a rule"):
            type("Mine", (mixin, TestMemoryStorage), {"__module__": __name__})

    @pytest.mark.parametrize("marks", [{"reason": "later"}, {"strict": True}, {"strict": False, "reason": "later"}])
    def test_an_expected_failure_must_be_strict_with_a_reason(self, marks: dict[str, Any]) -> None:
        """An expected failure that is not strict, or has no reason, is an error."""
        with pytest.raises(TypeError, match="hides a rule"):
            make_subclass(pytest.mark.xfail(**marks)(make_test()))

    def test_a_strict_expected_failure_is_accepted(self) -> None:
        """A subclass may mark a rule as a strict expected failure with a reason."""
        expected = pytest.mark.xfail(strict=True, reason="the engine has no revisions")(make_test())
        assert issubclass(make_subclass(expected), StorageContract)

    def test_every_rule_has_advice(self) -> None:
        """The docstring of every rule states the rule, and ends with advice."""
        for contract in (StorageContract, VectorStoreContract, EmbedderContract):
            rules = [name for name in dir(contract) if name.startswith("test")]
            assert len(rules) > 10
            for name in rules:
                rule, _, advice = (getattr(contract, name).__doc__ or "").partition("If it fails: ")
                assert rule.strip(), name
                assert advice.strip(), name


class TestAuthors:
    """The kit from the view of a plugin author."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> Callable[..., str]:
        """Return a function that runs a test module outside this repository, and returns the output of pytest."""

        def run(body: str, keyword: str = "") -> str:
            module = tmp_path / "test_mine.py"
            head = "import attrs\nimport pytest\nfrom pattern_core.testing import *\nfrom pattern_core.search.exact import ExactIndex\n"
            module.write_text(head + textwrap.dedent(body), encoding="utf-8")
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-W",
                "error",
                "-k",
                keyword,
                "-p",
                "no:cacheprovider",
                str(module),
            ]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
            return done.stdout + done.stderr

        return run

    def test_one_fixture_is_enough(self, run: Callable[..., str]) -> None:
        """A subclass with one fixture runs all rules; pytest does not collect the contracts themselves."""
        output = run(
            """
            class TestMine(StorageContract):
                spec = memory_storage()

                @pytest.fixture
                def options(self):
                    return MemoryOptions()
            """
        )
        assert "8 skipped" in output
        assert "failed" not in output
        assert "error" not in output.lower()

    def test_a_failing_rule_shows_values(self, run: Callable[..., str]) -> None:
        """A failing assertion of the kit shows the compared values."""
        output = run(
            """
            class Wrong(MemoryStorage):
                async def count(self, table, where=None):
                    return 4711

            async def open_wrong(options):
                return Wrong(options.data)

            class TestMine(StorageContract):
                spec = attrs.evolve(memory_storage(), open=open_wrong)

                @pytest.fixture
                def options(self):
                    return MemoryOptions()
            """,
            "test_count_agrees_with_find",
        )
        assert "assert 4711 == 0" in output
        assert "If it fails:" in output

    def test_a_missing_fixture_is_named(self, run: Callable[..., str]) -> None:
        """The error for a missing fixture or spec names it."""
        output = run("class TestMine(StorageContract):\n    spec = memory_storage()\n", "test_health")
        assert "TestMine must override the fixture options" in output
        output = run("class TestMine(EmbedderContract):\n    pass\n", "signature")
        assert "TestMine must set `spec` to the spec that the plugin's hook returns" in output


class TestStrictness:
    """The in-memory storage rejects more than the contract demands, so that tests without an engine are strict."""

    @pytest.fixture
    async def storage(self) -> MemoryStorage:
        """A storage with the table of tasks."""
        storage = MemoryStorage()
        await storage.apply_schema(CreateTable(TASKS, DIMENSIONS))
        return storage

    @pytest.mark.parametrize(
        "columns",
        [
            {"title": None},
            {"title": 1},
            {"estimated_minutes": 1.0},
            {"estimated_minutes": True},
            {"complexity_score": 1},
            {"due_at": "2024-02-29"},
            {"tags": ("a",)},
            {"metadata": []},
            {"embedding": [1.0]},
        ],
    )
    async def test_a_wrong_type_is_rejected(self, storage: MemoryStorage, columns: dict[str, Any]) -> None:
        """A value of the wrong type, or null in a required column, is an error that names the column."""
        (name,) = columns
        with pytest.raises(StorageError, match=rf"tasks\.{name} is of kind"):
            await storage.commit([Insert(TASKS, sample_row(TASKS, "t1", **columns))])
        assert await storage.count(TASKS) == 0

    async def test_a_row_has_exactly_its_columns(self, storage: MemoryStorage) -> None:
        """A row with a missing or an unknown column is an error that names the column."""
        row = sample_row(TASKS, "t1")
        without_title = {name: value for name, value in row.items() if name != "title"}
        for wrong, column in ((row | {"unknown": 1}, "unknown"), (without_title, "title")):
            with pytest.raises(StorageError, match=rf"exactly its columns.*{column}"):
                await storage.commit([Insert(TASKS, wrong)])

    async def test_it_has_no_query_language(self, storage: MemoryStorage) -> None:
        """`execute` raises an error that says so."""
        with pytest.raises(StorageError, match="no query language"):
            await storage.execute("SELECT 1")

    def test_sample_row_rejects_unknown_columns(self) -> None:
        """A sample row accepts only columns of its table."""
        with pytest.raises(FilterError, match="Did you mean 'title'"):
            sample_row(TASKS, "t1", titel="x")

    async def test_filters_are_the_reference(self, storage: MemoryStorage) -> None:
        """The in-memory storage finds the records for which `matches` is true."""
        await storage.commit([Insert(TASKS, sample_row(TASKS, f"t{n}", estimated_minutes=n)) for n in range(3)])
        assert [row["id"] for row in await storage.find(TASKS, ~(Field("estimated_minutes") > 0))] == ["t0"]
