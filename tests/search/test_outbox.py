"""An external index agrees with the storage, whatever happens between the two commits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pattern_core.abc import Delete, IndexSpec, Insert, Patch, Put, Storage, Vector, VectorChange, VectorStore, Write
from pattern_core.catalog.metadata import index_specs, read_metadata
from pattern_core.catalog.tables import OUTBOX, vector_table
from pattern_core.config import load_config
from pattern_core.database import Database
from pattern_core.embedding.chunks import chunk_id
from pattern_core.embedding.model import EmbeddingModel
from pattern_core.errors import ConflictError, StorageError
from pattern_core.maintenance.indexes import (
    IndexStatus,
    index_status,
    read_index_specs,
    rebuild_index,
    record_index_location,
    verify_index,
)
from pattern_core.maintenance.migrations.migrate import migrate_up
from pattern_core.schema import TABLES, DropTable, Table
from pattern_core.search import outbox as outboxes
from pattern_core.search.exact import ExactIndex
from pattern_core.search.indexer import ImmediateIndexer, IndexChange
from pattern_core.search.outbox import OutboxIndexer, make_indexer
from pattern_core.sessions.direct import DirectSession
from pattern_core.testing import DIMENSIONS, LetterEmbedder, MemoryData, MemoryStorage, MirrorIndex, sample_row

pytestmark = pytest.mark.anyio

VECTORS = vector_table(TABLES["tasks"], 1)


def vector(seed: int) -> Vector:
    """A vector, float32 ``[DIMENSIONS]``."""
    drawn: Vector = np.random.default_rng(seed).standard_normal(DIMENSIONS).astype(np.float32)
    return drawn


class Unreliable(MirrorIndex):
    """An index that can be out of reach, and can be slow to take what it is told."""

    down = False
    dying = False
    gate: asyncio.Event | None = None
    arrived: asyncio.Event

    async def apply(self, table: Table, changes: Sequence[VectorChange]) -> None:
        if self.down:
            raise StorageError("the index is out of reach")
        if self.gate is not None:
            self.arrived.set()
            gate, self.gate = self.gate, None
            await gate.wait()
        await super().apply(table, changes)
        if self.dying:
            await asyncio.Event().wait()


@attrs.define
class Process:
    """What one process has of a database: its storage, its index, and what keeps them in agreement."""

    storage: Storage
    vectors: Unreliable
    outbox: OutboxIndexer
    turn: asyncio.Lock = attrs.field(factory=asyncio.Lock)

    async def write(self, id: str, seed: int | None, user: str = "ada") -> None:
        """Write a task with a vector, or delete it."""
        write: Write
        if seed is None:
            write, change = Delete(VECTORS, id), VectorChange(id, user, None)
        else:
            row = sample_row(VECTORS, id, partition=user, embedding=vector(seed), revision=seed + 1)
            write, change = Put(VECTORS, row), VectorChange(id, user, vector(seed))
        async with self.turn:
            await self.outbox.commit([write], [(VECTORS, change)])

    async def closest(self, seed: int, user: str = "ada") -> tuple[str, ...]:
        """Search as a session does."""
        await self.outbox.catch_up(self.turn)
        return (await self.vectors.search(VECTORS, vector(seed), partitions=[user], limit=3)).ids

    async def entries(self) -> int:
        """Count what stands in the outbox."""
        return await self.storage.count(OUTBOX)


@pytest.fixture
async def places() -> tuple[MemoryData, MemoryData]:
    """Where the records and the index are kept, set up."""
    records: MemoryData = {}
    index: MemoryData = {}
    storage = MemoryStorage(records)
    await migrate_up(storage, attrs.evolve(LetterEmbedder().signature, dimensions=DIMENSIONS))
    return records, index


async def start(places: tuple[MemoryData, MemoryData], *, shared: bool = True) -> Process:
    """Open the database in another process."""
    storage = MemoryStorage(places[0])
    vectors = Unreliable(storage, MemoryStorage(places[1]))
    for spec in await read_index_specs(storage, "cosine"):
        await vectors.create(spec)
    return Process(storage, vectors, OutboxIndexer(storage, vectors, shared=shared))


@pytest.fixture(params=[True, False], ids=["shared", "alone"])
async def process(places: tuple[MemoryData, MemoryData], request: pytest.FixtureRequest) -> AsyncIterator[Process]:
    """A process that has the database open, alone or with others."""
    started = await start(places, shared=request.param)
    yield started
    await started.outbox.flush()


async def status(process: Process) -> IndexStatus:
    return await index_status(process.storage, process.vectors, VECTORS)


async def spec_of(process: Process) -> IndexSpec:
    (spec,) = [each for each in await read_index_specs(process.storage, "cosine") if each.table == VECTORS]
    return spec


class TestOutbox:
    async def test_only_external_indexes_have_one(self, process: Process) -> None:
        """An index that lives with the storage, or in this process, is told at once; another one has an outbox."""
        assert isinstance(make_indexer(process.storage, ExactIndex(process.storage)), ImmediateIndexer)
        assert isinstance(make_indexer(process.storage, process.vectors), OutboxIndexer)

    async def test_a_write_is_found_at_once(self, process: Process) -> None:
        """A write that was acknowledged is found, a deleted record is not, and the outbox is empty in the end."""
        await process.write("t1", 1)
        await process.write("t2", 2)
        assert await process.closest(2) == ("t2", "t1")
        await process.write("t2", None)
        assert await process.closest(2) == ("t1",)
        await process.outbox.flush()
        assert await process.entries() == 0

    async def test_a_crash_after_the_commit(
        self, process: Process, places: tuple[MemoryData, MemoryData], caplog: pytest.LogCaptureFixture
    ) -> None:
        """What was committed before the index had learned of it is found by the next process, before it searches."""
        await process.write("t1", 1)
        process.vectors.down = True
        with caplog.at_level(logging.WARNING, "pattern_core"):
            await process.write("t1", 2)
            await process.write("t2", 3)
        assert "1 updates of the vector index are pending" in caplog.text
        another = await start(places)
        assert (await status(another)).pending == 2
        assert not (await status(another)).ok
        assert (await another.closest(3))[0] == "t2"
        assert (await another.closest(2))[0] == "t1"
        assert (await status(another)).ok

    async def test_a_search_is_never_silently_incomplete(self, process: Process) -> None:
        """While the index cannot be told, writes stand and searches fail; once it can, they find everything."""
        process.vectors.down = True
        await process.write("t1", 1)
        with pytest.raises(StorageError, match="out of reach"):
            await process.closest(1)
        process.vectors.down = False
        assert await process.closest(1) == ("t1",)

    async def test_a_table_that_is_gone(self, process: Process) -> None:
        """What an index has yet to learn of a table that was removed meanwhile is in nobody's way."""
        process.vectors.down = True
        await process.write("t1", 1)
        process.vectors.down = False
        await process.storage.apply_schema(DropTable(VECTORS))
        await process.outbox.catch_up(asyncio.Lock())
        await process.outbox.flush()
        assert await process.entries() == 0

    async def test_a_batch_that_fails_leaves_no_entry(self, process: Process) -> None:
        """A commit that is refused writes nothing to the outbox, and what was done with is still removed later."""
        await process.write("t1", 1)
        change = VectorChange("t1", "ada", vector(2))
        with pytest.raises(ConflictError):
            await process.outbox.commit([Patch(VECTORS, "t1", {"parts": 2}, revision=99)], [(VECTORS, change)])
        assert await process.closest(1) == ("t1",)
        await process.outbox.flush()
        assert await process.entries() == 0

    async def test_a_large_batch_is_removed_at_once(self, process: Process) -> None:
        """Entries that are done with do not pile up: a few wait for the next commit, many do not wait."""
        rows = [sample_row(VECTORS, f"t{n}", partition="ada", embedding=vector(n)) for n in range(100)]
        changes: list[IndexChange] = [(VECTORS, VectorChange(row["id"], "ada", row["embedding"])) for row in rows]
        await process.outbox.commit([Insert(VECTORS, row) for row in rows], changes)
        assert await process.entries() == 0
        for n in range(5):
            await process.write(f"u{n}", n)
            assert await process.entries() <= 1

    async def test_the_slower_of_two_processes_does_not_win(
        self, process: Process, places: tuple[MemoryData, MemoryData]
    ) -> None:
        """A process that tells the index late, and what is old by then, looks again and puts it right."""
        another = await start(places)
        await process.write("t1", 1)
        process.vectors.gate, process.vectors.arrived = asyncio.Event(), asyncio.Event()
        gate = process.vectors.gate
        late = asyncio.create_task(process.write("t1", 2))
        await process.vectors.arrived.wait()
        await another.write("t1", 3, user="grace")
        gate.set()
        await late
        assert await another.closest(3, "ada") == ()
        assert await another.closest(3, "grace") == ("t1",)
        assert (await verify_index(another.storage, another.vectors, await spec_of(another))).ok

    async def test_the_slower_of_two_processes_does_not_bring_back_what_is_gone(
        self, process: Process, places: tuple[MemoryData, MemoryData]
    ) -> None:
        """A process that tells the index late of a record that another has deleted leaves nothing there."""
        another = await start(places)
        process.vectors.gate, process.vectors.arrived = asyncio.Event(), asyncio.Event()
        gate = process.vectors.gate
        late = asyncio.create_task(process.write("t1", 2))
        await process.vectors.arrived.wait()
        await another.write("t1", None)
        gate.set()
        await late
        assert await another.closest(2) == ()
        assert await another.vectors.count(VECTORS) == 0

    @pytest.mark.parametrize("who", ["a new process", "the other process"])
    async def test_a_process_that_dies_having_told_the_index_something_old(
        self, places: tuple[MemoryData, MemoryData], who: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What a dead process has told the index late is put right by any other, however far that one was."""
        monkeypatch.setattr(outboxes, "_AGAIN_S", 0)
        one, other = await start(places), await start(places)
        await one.write("t1", 1)
        one.vectors.gate, one.vectors.arrived, one.vectors.dying = asyncio.Event(), asyncio.Event(), True
        gate = one.vectors.gate
        dead = asyncio.create_task(one.write("t1", 2))
        await one.vectors.arrived.wait()
        await other.write("t1", 3, user="grace")
        assert await other.closest(3, "grace") == ("t1",)
        gate.set()
        for _ in range(10):  # it tells the index, and then no more
            await asyncio.sleep(0)
        assert (await other.vectors.search(VECTORS, vector(2), partitions=["ada"], limit=1)).ids == ("t1",)
        dead.cancel()
        await asyncio.gather(dead, return_exceptions=True)
        looking = other if who == "the other process" else await start(places)
        assert await looking.closest(3, "grace") == ("t1",)
        assert await looking.closest(3, "ada") == ()

    async def test_what_a_dead_process_left_goes_when_it_is_old(
        self, places: tuple[MemoryData, MemoryData], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Entries and claims whose owner must have died are carried out once more, and removed."""
        one = await start(places)
        one.vectors.dying = True
        dead = asyncio.create_task(one.write("t1", 2))
        for _ in range(20):
            await asyncio.sleep(0)
        dead.cancel()
        await asyncio.gather(dead, return_exceptions=True)
        other = await start(places)
        assert await other.closest(2) == ("t1",)
        assert await other.entries() == 1
        monkeypatch.setattr(outboxes, "LEASE_S", -1)
        monkeypatch.setattr(outboxes, "_AGAIN_S", 0)
        assert await other.closest(2) == ("t1",)
        assert await other.entries() == 0

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["write", "fail", "crash", "search"]),
                st.sampled_from(["t1", "t2", "t3"]),
                st.one_of(st.none(), st.integers(0, 50)),
                st.sampled_from(["ada", "grace"]),
            ),
            max_size=25,
        ),
        st.booleans(),
    )
    async def test_any_history(self, events: list[tuple[str, str, int | None, str]], shared: bool) -> None:
        """After any writes, failures of the index and deaths of the process, the index agrees with the storage."""
        records: MemoryData = {}
        places = (records, MemoryData())
        await migrate_up(MemoryStorage(records), attrs.evolve(LetterEmbedder().signature, dimensions=DIMENSIONS))
        process = await start(places, shared=shared)
        for event, id, seed, user in events:
            process.vectors.down = event == "fail"
            if event == "search":
                await process.closest(seed or 0, user)
            else:
                await process.write(id, seed, user)
            if event == "crash":
                process = await start(places, shared=shared)
        process.vectors.down = False
        await process.closest(0)
        await process.outbox.flush()
        report = await verify_index(process.storage, process.vectors, await spec_of(process))
        assert report.ok, report
        if not shared:  # with others, what a dead process has left stays until it is certain that it is dead
            assert await process.entries() == 0


class TestUpkeep:
    async def test_what_is_wrong_is_found_and_mended(self, process: Process) -> None:
        """`verify_index` finds what is missing, elsewhere, different, or too much; `rebuild_index` puts it right."""
        for n in range(6):
            await process.write(chunk_id(f"t{n}", 0), n)
        spec = await spec_of(process)
        assert (await verify_index(process.storage, process.vectors, spec)).ok
        await process.vectors.apply(
            VECTORS,
            [
                VectorChange(chunk_id("t0", 0), "ada", None),
                VectorChange(chunk_id("t1", 0), "grace", vector(1)),
                VectorChange(chunk_id("t2", 0), "ada", -vector(2)),
                VectorChange("ghost", "ada", vector(9)),
                VectorChange("ghoul", "ada", vector(9)),
            ],
        )
        report = await verify_index(process.storage, process.vectors, spec)
        assert (report.checked, report.wrong, sorted(report.examples)) == (6, 3, ["t0", "t1", "t2"])
        assert report.surplus == 1
        assert not report.ok
        await rebuild_index(process.vectors, spec)
        assert (await verify_index(process.storage, process.vectors, spec)).ok
        await process.outbox.flush()
        assert (await status(process)).ok

    async def test_a_missing_index_is_told(self, process: Process) -> None:
        """The status of a table whose index was dropped says so."""
        await process.write("t1", 1)
        await process.vectors.drop(VECTORS)
        assert attrs.evolve(await status(process), pending=0) == IndexStatus(VECTORS.name, 1, None, 0)

    async def test_an_index_of_another_database_is_made_anew(
        self, process: Process, places: tuple[MemoryData, MemoryData]
    ) -> None:
        """An index that belongs to another database is not taken for one's own."""
        await process.write("t1", 1)
        other: MemoryData = {}
        await migrate_up(MemoryStorage(other), attrs.evolve(LetterEmbedder().signature, dimensions=DIMENSIONS))
        stranger = await start((other, places[1]))
        assert await stranger.vectors.count(VECTORS) == 0
        assert await stranger.closest(1) == ()
        back = await start(places)
        assert await back.closest(1) == ("t1",)

    async def test_a_database_that_was_never_set_up(self) -> None:
        """Without a signature there are no indexes, and the error says what to do."""
        with pytest.raises(StorageError, match="not set up yet"):
            await read_index_specs(MemoryStorage(), "cosine")


class TestPlaces:
    """Which external index is kept up is known to the database."""

    @staticmethod
    async def opened(records: MemoryData, index: MemoryData | None) -> tuple[Database, VectorStore]:
        """Open a database as `pattern_core.open` does, with an external index or with one of its own."""

        async def load() -> LetterEmbedder:
            return LetterEmbedder()

        storage = MemoryStorage(records)
        embeddings = EmbeddingModel(load)
        await migrate_up(storage, await embeddings.signature())
        vectors = ExactIndex(storage) if index is None else MirrorIndex(storage, MemoryStorage(index))
        known = await record_index_location(storage, await read_metadata(storage), vectors)
        for spec in index_specs(known, "cosine"):
            await vectors.create(spec)
        return Database(load_config({}), DirectSession(storage, vectors, embeddings, known, metric="cosine")), vectors

    async def test_an_index_that_was_left_behind_is_made_anew(self) -> None:
        """An index that was not told of everything, since another or none was in use, does not pass for complete."""
        records: MemoryData = {}
        places: list[MemoryData | None] = [{}, None, {}]
        first, _ = await self.opened(records, places[0])
        async with first:
            await first.users.create(id="u")
            await first.agents.create(user_id="u", agent_type="a", name="A", id="a")
        for turn, place in enumerate([*places, places[0], places[2], places[0], places[0], None, places[2]]):
            db, vectors = await self.opened(records, place)
            async with db:
                await db.memories.create(agent_id="a", label=f"{turn}", content=f"number {turn}")
                found = await db.memories.search_semantic("a", "number", limit=100)
                assert len(found) == turn + 1
                status = await index_status(db.storage, vectors, vector_table(TABLES["memory_blocks"], 1))
                assert status.vectors == status.indexed == turn + 1

    async def test_two_at_once_have_to_have_the_same(self) -> None:
        """A session whose writes the index of another one would not learn of is told so before it writes."""
        records: MemoryData = {}
        first, _ = await self.opened(records, None)
        await first.users.create(id="u")
        await first.agents.create(user_id="u", agent_type="a", name="A", id="a")
        second, _ = await self.opened(records, {})
        with pytest.raises(StorageError, match="another vector search"):
            await first.memories.create(agent_id="a", label="x", content="not written")
        await second.memories.create(agent_id="a", label="y", content="written")
        assert [each.label for each in await second.memories.list()] == ["y"]
        await first.aclose()
        await second.aclose()
