"""The kit passes on what is right, and fails on what is wrong."""

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
from pattern_core.testing.indexed_storage import DIMENSIONS as SCENE_DIMENSIONS
from pattern_core.testing.indexed_storage import TASKS, IndexedStorage

pytestmark = pytest.mark.anyio

FAILURES = (AssertionError, pytest.fail.Exception)


class TestMemoryStorage(StorageContract):
    """The double keeps the contract that it stands in for."""

    spec = memory_storage()

    @pytest.fixture
    def options(self) -> MemoryOptions:
        """A dict of its own."""
        return MemoryOptions()


class TestExactIndex(VectorStoreContract):
    """The built-in vector search keeps its contract."""

    spec = pattern_vectors()


class TestMirrorIndex(VectorStoreContract):
    """The external double keeps the contract that it stands in for."""

    spec = mirror_vectors()


class TestLetterEmbedder(EmbedderContract):
    """The double keeps the contract that it stands in for."""

    spec = letter_embeddings()


class IgnoresRevisions(MemoryStorage):
    """Wrong: a patch is written whatever revision the record has."""

    async def commit(self, batch: Sequence[Write]) -> None:
        await super().commit([attrs.evolve(each, revision=None) if isinstance(each, Patch) else each for each in batch])


class GroupsByKind(MemoryStorage):
    """Wrong: all deletes of a batch come last."""

    async def commit(self, batch: Sequence[Write]) -> None:
        await super().commit(sorted(batch, key=lambda write: isinstance(write, Delete)))


class CommitsOneByOne(MemoryStorage):
    """Wrong: a batch that fails leaves what came before."""

    async def commit(self, batch: Sequence[Write]) -> None:
        for each in batch:
            await super().commit([each])
            await asyncio.sleep(0)


class LimitsFirst(MemoryStorage):
    """Wrong: the limit is taken before the filter."""

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
    """Wrong: a null inside a JSON object is lost."""

    async def commit(self, batch: Sequence[Write]) -> None:
        changed = [Put(each.table, self._without(each.row)) if isinstance(each, Put) else each for each in batch]
        await super().commit(changed)

    def _without(self, row: Row) -> Row:
        kept = {key: value for key, value in row["metadata"].items() if value is not None}
        return row | {"metadata": kept}


class PagesByNumber(MemoryStorage):
    """Wrong: a scan asks for each page by its number, so that rows move between pages."""

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
    """Wrong: it hands out the objects that it keeps."""

    async def get(self, table: Table, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        rows = self._rows(table)
        return [rows.get(id) for id in ids]


class Forgetful(ExactIndex):
    """Wrong: of many neighbours the closest is lost."""

    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, ids: Sequence[str] | None = None
    ) -> Matches:
        found = await super().search(table, vector, partitions=partitions, limit=limit + 1, ids=ids)
        start = 1 if len(found.ids) > limit else 0
        return Matches(found.ids[start:][:limit], found.scores[start:][:limit], exact=True)


class FiltersAfterwards(ExactIndex):
    """Wrong: it searches every partition and then leaves out what was not asked for."""

    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, ids: Sequence[str] | None = None
    ) -> Matches:
        everywhere = [row["user_id"] for row in await self._storage.find(table)]
        found = await super().search(table, vector, partitions=everywhere, limit=limit, ids=ids)
        rows = await self._storage.get(table, found.ids)
        kept = [n for n, row in enumerate(rows) if row is not None and row["user_id"] in partitions]
        return Matches(tuple(found.ids[n] for n in kept), tuple(found.scores[n] for n in kept), exact=True)


class SearchesEverywhere(ExactIndex):
    """Wrong: it returns other users' records."""

    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, ids: Sequence[str] | None = None
    ) -> Matches:
        everywhere = [row["user_id"] for row in await self._storage.find(table)]
        return await super().search(table, vector, partitions=everywhere, limit=limit, ids=ids)


class LeavesBehind(ExactIndex):
    """Wrong: what was deleted stays."""

    async def apply(self, table: Table, changes: Sequence[VectorChange]) -> None:
        await super().apply(table, [change for change in changes if change.vector is not None])


class TiesByPosition(ExactIndex):
    """Wrong: of equal scores the last id comes first."""

    async def search(
        self, table: Table, vector: Vector, *, partitions: Sequence[str], limit: int, ids: Sequence[str] | None = None
    ) -> Matches:
        found = await super().search(table, vector, partitions=partitions, limit=limit, ids=ids)
        pairs = sorted(zip(found.scores, found.ids, strict=True), reverse=True)
        return Matches(tuple(id for _, id in pairs), tuple(score for score, _ in pairs), exact=True)


class Backwards(LetterEmbedder):
    """Wrong: the vectors come in the order of the texts' lengths."""

    async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return await super().embed_documents(sorted(texts, key=len))


class Leaky(LetterEmbedder):
    """Wrong: a vector depends on those beside it."""

    async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = await super().embed_documents(texts)
        mixed: NDArray[np.float32] = vectors + 0.1 * vectors.mean(axis=0, dtype=np.float32)
        unit: NDArray[np.float32] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
        return unit


class Truncating(LetterEmbedder):
    """Wrong: the count stops at the limit, so that nobody learns of what was cut off."""

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [min(300, count) for count in await super().count_tokens(texts)]


class Wide(LetterEmbedder):
    """Wrong: float64."""

    async def embed_documents(self, texts: Sequence[str]) -> NDArray[Any]:
        return (await super().embed_documents(texts)).astype(np.float64)


class TestTheKitFindsWhatIsWrong:
    """Each of these plugins breaks one rule, and the rule's test fails."""

    @pytest.mark.parametrize(
        ("storage", "rule", "arguments"),
        [
            (IgnoresRevisions, "test_a_failing_write_undoes_the_batch", ("patch of another revision", 1)),
            (IgnoresRevisions, "test_no_update_is_lost", ()),
            (GroupsByKind, "test_each_write_sees_those_before_it", ()),
            (CommitsOneByOne, "test_a_failing_write_undoes_the_batch", ("check of a missing record", 2)),
            (CommitsOneByOne, "test_readers_never_see_half_a_batch", ()),
            (LimitsFirst, "test_limit_is_taken_last", ()),
            (DropsNulls, "test_json_is_kept", ({"a": None},)),
            (PagesByNumber, "test_scan_while_others_write", ()),
            (SharesRows, "test_rows_belong_to_the_caller", ()),
            (SharesRows, "test_rows_have_every_column_and_vectors_only_if_asked", ()),
        ],
    )
    async def test_storages(self, storage: type[MemoryStorage], rule: str, arguments: tuple[object, ...]) -> None:
        """The rule passes on the right storage and fails on the wrong one."""
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
        """A storage that loses a write when it closes does not pass."""
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
            (Forgetful, "test_search_is_right_through_churn", (1,)),
            (FiltersAfterwards, "test_search_stays_in_its_partitions", ()),
            (SearchesEverywhere, "test_search_stays_in_its_partitions", ()),
            (SearchesEverywhere, "test_search_is_right_through_churn", (1,)),
            (LeavesBehind, "test_a_write_is_found_at_once", ()),
            (LeavesBehind, "test_search_is_right_through_churn", (1,)),
            (TiesByPosition, "test_ties_come_by_id", ()),
        ],
    )
    async def test_indexes(self, index: type[ExactIndex], rule: str, arguments: tuple[object, ...]) -> None:
        """The rule passes on the right index and fails on the wrong one."""
        for kind, wrong in ((ExactIndex, False), (index, True)):
            storage = MemoryStorage()
            await storage.apply_schema(CreateTable(TASKS, SCENE_DIMENSIONS))
            vectors = kind(storage)
            await vectors.create(IndexSpec(TASKS, SCENE_DIMENSIONS, "cosine"))
            test = getattr(TestExactIndex(), rule)(IndexedStorage(storage, vectors, "cosine"), *arguments)
            if wrong:
                with pytest.raises(FAILURES):
                    await test
            else:
                await test

    @pytest.mark.parametrize(
        ("embedder", "rule"),
        [
            (Backwards, "test_vectors_come_in_the_order_of_the_texts"),
            (Backwards, "test_queries_meet_their_documents"),
            (Leaky, "test_a_text_gets_the_same_vector_in_any_company"),
            (Truncating, "test_tokens_are_counted_where_there_is_a_limit"),
            (Wide, "test_vectors_have_the_declared_form"),
        ],
    )
    async def test_embedders(self, embedder: type[LetterEmbedder], rule: str) -> None:
        """The rule fails on the wrong embedder."""
        with pytest.raises(FAILURES):
            await getattr(TestLetterEmbedder(), rule)(embedder())


def make_test() -> Callable[[object], None]:
    """Make a test that cannot fail."""

    def test(_: object) -> None:
        pass

    return test


def make_subclass(test: object) -> type:
    """Make a subclass of the contract that redefines a rule."""
    return type("Mine", (TestMemoryStorage,), {"test_no_update_is_lost": test, "__module__": __name__})


class TestTheKitIsWhole:
    """A rule cannot be left out in silence."""

    @pytest.mark.parametrize("value", [None, make_test(), pytest.mark.skip(make_test())])
    def test_a_hidden_rule_is_an_error(self, value: object) -> None:
        """A subclass that redefines a rule, or sets it to None, cannot be made; the error names both."""
        with pytest.raises(TypeError, match=r"Mine\.test_no_update_is_lost hides a rule"):
            make_subclass(value)

    def test_a_rule_hidden_by_a_mixin_is_an_error(self) -> None:
        """A rule cannot be hidden by a class that is no contract either, and that stands before the contract."""
        mixin = type("Mixin", (), {"test_no_update_is_lost": make_test(), "__module__": __name__})
        with pytest.raises(TypeError, match=r"Mine\.test_no_update_is_lost hides a rule"):
            type("Mine", (mixin, TestMemoryStorage), {"__module__": __name__})

    @pytest.mark.parametrize("marks", [{"reason": "later"}, {"strict": True}, {"strict": False, "reason": "later"}])
    def test_a_weak_excuse_is_an_error(self, marks: dict[str, Any]) -> None:
        """An expected failure has to be strict and to give its reason."""
        with pytest.raises(TypeError, match="hides a rule"):
            make_subclass(pytest.mark.xfail(**marks)(make_test()))

    def test_an_excuse_with_a_reason_is_accepted(self) -> None:
        """A strict expected failure with its reason may stand in a subclass."""
        excused = pytest.mark.xfail(strict=True, reason="the engine has no revisions")(make_test())
        assert issubclass(make_subclass(excused), StorageContract)

    def test_every_rule_says_what_to_do(self) -> None:
        """Each test of the kit has a docstring that states the rule and ends with a way out."""
        for contract in (StorageContract, VectorStoreContract, EmbedderContract):
            rules = [name for name in dir(contract) if name.startswith("test")]
            assert len(rules) > 10
            for name in rules:
                rule, _, remedy = (getattr(contract, name).__doc__ or "").partition("If it fails: ")
                assert rule.strip(), name
                assert remedy.strip(), name


class TestAuthors:
    """What the author of a plugin writes and sees."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> Callable[..., str]:
        """Runs a test module outside this repository, all of it or some tests, and returns what pytest prints."""

        def run(body: str, some: str = "") -> str:
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
                some,
                "-p",
                "no:cacheprovider",
                str(module),
            ]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
            return done.stdout + done.stderr

        return run

    def test_one_fixture_is_enough(self, run: Callable[..., str]) -> None:
        """A subclass with one fixture runs every rule, with no other configuration; names of the kit do not run."""
        output = run(
            """
            class TestMine(StorageContract):
                spec = memory_storage()

                @pytest.fixture
                def options(self):
                    return MemoryOptions()
            """
        )
        assert "6 skipped" in output
        assert "failed" not in output
        assert "error" not in output.lower()

    def test_a_failing_rule_shows_values(self, run: Callable[..., str]) -> None:
        """An assertion of the kit that fails shows what was compared."""
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

    def test_a_forgotten_fixture_is_named(self, run: Callable[..., str]) -> None:
        """A subclass without its fixtures is told which to write."""
        output = run("class TestMine(StorageContract):\n    spec = memory_storage()\n", "test_health")
        assert "TestMine has to override the fixture options" in output
        output = run("class TestMine(EmbedderContract):\n    pass\n", "signature")
        assert "TestMine has to set `spec` to what the plugin's hook returns" in output


class TestDouble:
    """What the storage in memory refuses beyond the contract, so that tests without an engine are strict."""

    @pytest.fixture
    async def storage(self) -> MemoryStorage:
        """A storage with the tasks' table."""
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
    async def test_rows_have_the_declared_types(self, storage: MemoryStorage, columns: dict[str, Any]) -> None:
        """A value of another type than the column's, or a null where none may be, is refused by name."""
        (name,) = columns
        with pytest.raises(StorageError, match=rf"tasks\.{name} holds"):
            await storage.commit([Insert(TASKS, sample_row(TASKS, "t1", **columns))])
        assert await storage.count(TASKS) == 0

    async def test_rows_are_whole(self, storage: MemoryStorage) -> None:
        """A row that lacks a column, or has another, is refused."""
        row = sample_row(TASKS, "t1")
        for wrong in (row | {"unknown": 1}, {name: row[name] for name in row if name != "title"}):
            with pytest.raises(StorageError, match="every column and no other"):
                await storage.commit([Insert(TASKS, wrong)])

    async def test_it_has_no_language(self, storage: MemoryStorage) -> None:
        """`execute` says that there is nothing to execute."""
        with pytest.raises(StorageError, match="no language"):
            await storage.execute("SELECT 1")

    def test_sample_rows_refuse_misspelt_columns(self) -> None:
        """A sample row is made with the table's own columns only."""
        with pytest.raises(FilterError, match="Did you mean 'title'"):
            sample_row(TASKS, "t1", titel="x")

    async def test_filters_are_the_reference(self, storage: MemoryStorage) -> None:
        """The double finds what `matches` says."""
        await storage.commit([Insert(TASKS, sample_row(TASKS, f"t{n}", estimated_minutes=n)) for n in range(3)])
        assert [row["id"] for row in await storage.find(TASKS, ~(Field("estimated_minutes") > 0))] == ["t0"]
