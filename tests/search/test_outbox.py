"""The agreement of an external index with its storage, across failures between the two commits."""

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
    """Return a random vector, float32 ``[DIMENSIONS]``."""
    drawn: Vector = np.random.default_rng(seed).standard_normal(DIMENSIONS).astype(np.float32)
    return drawn


class UnreliableIndex(MirrorIndex):
    """An index that can be unreachable or slow, and whose process can die after a change."""

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
    """The storage, the index and the indexer of one process."""

    storage: Storage
    vectors: UnreliableIndex
    outbox: OutboxIndexer
    lock: asyncio.Lock = attrs.field(factory=asyncio.Lock)

    async def write(self, id: str, seed: int | None, user: str = "ada") -> None:
        """Write a task with a vector; without a seed, delete it."""
        write: Write
        if seed is None:
            write, change = Delete(VECTORS, id), VectorChange(id, user, None)
        else:
            row = sample_row(VECTORS, id, partition=user, embedding=vector(seed), revision=seed + 1)
            write, change = Put(VECTORS, row), VectorChange(id, user, vector(seed))
        async with self.lock:
            await self.outbox.commit([write], [(VECTORS, change)])

    async def closest(self, seed: int, user: str = "ada") -> tuple[str, ...]:
        """Search as a session does: after pending updates."""
        await self.outbox.catch_up(self.lock)
        return (await self.vectors.search(VECTORS, vector(seed), partitions=[user], limit=3)).ids

    async def entries(self) -> int:
        """Count the entries of the outbox."""
        return await self.storage.count(OUTBOX)


@pytest.fixture
async def stores() -> tuple[MemoryData, MemoryData]:
    """The data of a database and of its index, set up."""
    records: MemoryData = {}
    index: MemoryData = {}
    storage = MemoryStorage(records)
    await migrate_up(storage, attrs.evolve(LetterEmbedder().signature, dimensions=DIMENSIONS))
    return records, index


async def start(stores: tuple[MemoryData, MemoryData], *, shared: bool = True) -> Process:
    """Open the database as another process."""
    storage = MemoryStorage(stores[0])
    vectors = UnreliableIndex(storage, MemoryStorage(stores[1]))
    for spec in await read_index_specs(storage, "cosine"):
        await vectors.create(spec)
    return Process(storage, vectors, OutboxIndexer(storage, vectors, shared=shared))


@pytest.fixture(params=[True, False], ids=["shared", "alone"])
async def process(stores: tuple[MemoryData, MemoryData], request: pytest.FixtureRequest) -> AsyncIterator[Process]:
    """A process that has the database open, alone or with others."""
    started = await start(stores, shared=request.param)
    yield started
    await started.outbox.flush()


async def status(process: Process) -> IndexStatus:
    return await index_status(process.storage, process.vectors, VECTORS)


async def spec_of(process: Process) -> IndexSpec:
    (spec,) = [each for each in await read_index_specs(process.storage, "cosine") if each.table == VECTORS]
    return spec


class TestOutbox:
    async def test_only_external_indexes_have_an_outbox(self, process: Process) -> None:
        """An index in the storage or in the process is updated at once; an external one has an outbox."""
        assert isinstance(make_indexer(process.storage, ExactIndex(process.storage)), ImmediateIndexer)
        assert isinstance(make_indexer(process.storage, process.vectors), OutboxIndexer)

    async def test_a_write_is_found_at_once(self, process: Process) -> None:
        """Searches find an acknowledged write at once, and no deleted record. The outbox is empty at the end."""
        await process.write("t1", 1)
        await process.write("t2", 2)
        assert await process.closest(2) == ("t2", "t1")
        await process.write("t2", None)
        assert await process.closest(2) == ("t1",)
        await process.outbox.flush()
        assert await process.entries() == 0

    async def test_a_crash_after_the_commit(
        self, process: Process, stores: tuple[MemoryData, MemoryData], caplog: pytest.LogCaptureFixture
    ) -> None:
        """After a crash between the two commits, the next process updates the index before it searches."""
        await process.write("t1", 1)
        process.vectors.down = True
        with caplog.at_level(logging.WARNING, "pattern_core"):
            await process.write("t1", 2)
            await process.write("t2", 3)
        assert "1 updates of the vector index are pending" in caplog.text
        another = await start(stores)
        assert (await status(another)).pending == 2
        assert not (await status(another)).ok
        assert (await another.closest(3))[0] == "t2"
        assert (await another.closest(2))[0] == "t1"
        assert (await status(another)).ok

    async def test_a_search_is_never_silently_incomplete(self, process: Process) -> None:
        """While the index is unreachable, writes succeed and searches fail; afterwards, searches find all."""
        process.vectors.down = True
        await process.write("t1", 1)
        with pytest.raises(StorageError, match="out of reach"):
            await process.closest(1)
        process.vectors.down = False
        assert await process.closest(1) == ("t1",)

    async def test_a_dropped_table(self, process: Process) -> None:
        """Pending updates of a table that was dropped meanwhile are discarded."""
        process.vectors.down = True
        await process.write("t1", 1)
        process.vectors.down = False
        await process.storage.apply_schema(DropTable(VECTORS))
        await process.outbox.catch_up(asyncio.Lock())
        await process.outbox.flush()
        assert await process.entries() == 0

    async def test_a_batch_that_fails_leaves_no_entry(self, process: Process) -> None:
        """A rejected commit leaves nothing in the outbox, and completed entries are still removed later."""
        await process.write("t1", 1)
        change = VectorChange("t1", "ada", vector(2))
        with pytest.raises(ConflictError):
            await process.outbox.commit([Patch(VECTORS, "t1", {"parts": 2}, revision=99)], [(VECTORS, change)])
        assert await process.closest(1) == ("t1",)
        await process.outbox.flush()
        assert await process.entries() == 0

    async def test_a_large_batch_is_removed_at_once(self, process: Process) -> None:
        """Many completed entries are removed at once; a few wait for the next commit."""
        rows = [sample_row(VECTORS, f"t{n}", partition="ada", embedding=vector(n)) for n in range(100)]
        changes: list[IndexChange] = [(VECTORS, VectorChange(row["id"], "ada", row["embedding"])) for row in rows]
        await process.outbox.commit([Insert(VECTORS, row) for row in rows], changes)
        assert await process.entries() == 0
        for n in range(5):
            await process.write(f"u{n}", n)
            assert await process.entries() <= 1

    async def test_a_late_update_does_not_replace_a_newer_one(
        self, process: Process, stores: tuple[MemoryData, MemoryData]
    ) -> None:
        """A process that updates the index late reads the record again and corrects its update."""
        another = await start(stores)
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

    async def test_a_late_update_does_not_restore_a_deleted_record(
        self, process: Process, stores: tuple[MemoryData, MemoryData]
    ) -> None:
        """A process that updates the index late, after another one has deleted the record, leaves no vector."""
        another = await start(stores)
        process.vectors.gate, process.vectors.arrived = asyncio.Event(), asyncio.Event()
        gate = process.vectors.gate
        late = asyncio.create_task(process.write("t1", 2))
        await process.vectors.arrived.wait()
        await another.write("t1", None)
        gate.set()
        await late
        assert await another.closest(2) == ()
        assert await another.vectors.count(VECTORS) == 0

    @pytest.mark.parametrize("searcher", ["a new process", "the other process"])
    async def test_a_process_that_dies_after_a_late_update(
        self, stores: tuple[MemoryData, MemoryData], searcher: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Any other process corrects the late update of a dead process."""
        monkeypatch.setattr(outboxes, "_AGAIN_S", 0)
        one, other = await start(stores), await start(stores)
        await one.write("t1", 1)
        one.vectors.gate, one.vectors.arrived, one.vectors.dying = asyncio.Event(), asyncio.Event(), True
        gate = one.vectors.gate
        dead = asyncio.create_task(one.write("t1", 2))
        await one.vectors.arrived.wait()
        await other.write("t1", 3, user="grace")
        assert await other.closest(3, "grace") == ("t1",)
        gate.set()
        for _ in range(10):  # until it has updated the index, but not the outbox
            await asyncio.sleep(0)
        assert (await other.vectors.search(VECTORS, vector(2), partitions=["ada"], limit=1)).ids == ("t1",)
        dead.cancel()
        await asyncio.gather(dead, return_exceptions=True)
        reader = other if searcher == "the other process" else await start(stores)
        assert await reader.closest(3, "grace") == ("t1",)
        assert await reader.closest(3, "ada") == ()

    async def test_old_entries_of_a_dead_process_are_removed(
        self, stores: tuple[MemoryData, MemoryData], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Entries and claims older than the lease of their owner are applied again, and removed."""
        one = await start(stores)
        one.vectors.dying = True
        dead = asyncio.create_task(one.write("t1", 2))
        for _ in range(20):
            await asyncio.sleep(0)
        dead.cancel()
        await asyncio.gather(dead, return_exceptions=True)
        other = await start(stores)
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
        """After any sequence of writes, index failures and crashes, the index agrees with the storage."""
        records: MemoryData = {}
        stores = (records, MemoryData())
        await migrate_up(MemoryStorage(records), attrs.evolve(LetterEmbedder().signature, dimensions=DIMENSIONS))
        process = await start(stores, shared=shared)
        for event, id, seed, user in events:
            process.vectors.down = event == "fail"
            if event == "search":
                await process.closest(seed or 0, user)
            else:
                await process.write(id, seed, user)
            if event == "crash":
                process = await start(stores, shared=shared)
        process.vectors.down = False
        await process.closest(0)
        await process.outbox.flush()
        report = await verify_index(process.storage, process.vectors, await spec_of(process))
        assert report.ok, report
        if not shared:  # in a shared database, entries of a dead process stay until their lease ends
            assert await process.entries() == 0


class TestMaintenance:
    async def test_verify_and_rebuild(self, process: Process) -> None:
        """`verify_index` finds missing, moved, different and surplus vectors; `rebuild_index` corrects them."""
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

    async def test_the_status_of_a_missing_index(self, process: Process) -> None:
        """The status of a table shows that its index is missing."""
        await process.write("t1", 1)
        await process.vectors.drop(VECTORS)
        assert attrs.evolve(await status(process), pending=0) == IndexStatus(VECTORS.name, 1, None, 0)

    async def test_an_index_of_another_database_is_rebuilt(
        self, process: Process, stores: tuple[MemoryData, MemoryData]
    ) -> None:
        """An index of another database is rebuilt, not used."""
        await process.write("t1", 1)
        other: MemoryData = {}
        await migrate_up(MemoryStorage(other), attrs.evolve(LetterEmbedder().signature, dimensions=DIMENSIONS))
        other_database = await start((other, stores[1]))
        assert await other_database.vectors.count(VECTORS) == 0
        assert await other_database.closest(1) == ()
        back = await start(stores)
        assert await back.closest(1) == ("t1",)

    async def test_a_database_that_was_never_set_up(self) -> None:
        """A database without a signature has no indexes; the error names the remedy."""
        with pytest.raises(StorageError, match="not set up yet"):
            await read_index_specs(MemoryStorage(), "cosine")


class TestIndexLocations:
    """The database records which external index is kept up to date."""

    @staticmethod
    async def open_database(records: MemoryData, index: MemoryData | None) -> tuple[Database, VectorStore]:
        """Open a database as `pattern_core.open` does, with an external index or an index of its own."""

        async def load() -> LetterEmbedder:
            return LetterEmbedder()

        storage = MemoryStorage(records)
        embeddings = EmbeddingModel(load)
        await migrate_up(storage, await embeddings.signature())
        vectors = ExactIndex(storage) if index is None else MirrorIndex(storage, MemoryStorage(index))
        metadata = await record_index_location(storage, await read_metadata(storage), vectors)
        for spec in index_specs(metadata, "cosine"):
            await vectors.create(spec)
        return Database(
            load_config({}), DirectSession(storage, vectors, embeddings, metadata, metric="cosine")
        ), vectors

    async def test_an_outdated_index_is_rebuilt(self) -> None:
        """An index that missed updates while another or none was in use is rebuilt."""
        records: MemoryData = {}
        indexes: list[MemoryData | None] = [{}, None, {}]
        first, _ = await self.open_database(records, indexes[0])
        async with first:
            await first.users.create(id="u")
            await first.agents.create(user_id="u", agent_type="a", name="A", id="a")
        for number, index in enumerate([*indexes, indexes[0], indexes[2], indexes[0], indexes[0], None, indexes[2]]):
            db, vectors = await self.open_database(records, index)
            async with db:
                await db.memories.create(agent_id="a", label=f"{number}", content=f"number {number}")
                found = await db.memories.search_semantic("a", "number", limit=100)
                assert len(found) == number + 1
                status = await index_status(db.storage, vectors, vector_table(TABLES["memory_blocks"], 1))
                assert status.vectors == status.indexed == number + 1

    async def test_sessions_must_use_the_same_index(self) -> None:
        """A session cannot write once another one has opened the database with another index."""
        records: MemoryData = {}
        first, _ = await self.open_database(records, None)
        await first.users.create(id="u")
        await first.agents.create(user_id="u", agent_type="a", name="A", id="a")
        second, _ = await self.open_database(records, {})
        with pytest.raises(StorageError, match="another vector search"):
            await first.memories.create(agent_id="a", label="x", content="not written")
        await second.memories.create(agent_id="a", label="y", content="written")
        assert [each.label for each in await second.memories.list()] == ["y"]
        await first.aclose()
        await second.aclose()
