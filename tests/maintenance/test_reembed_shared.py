"""Re-embedding of a database that several processes, or several tasks of a process, use."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import attrs
import pytest

from pattern_core import Field, Hit, Memory, ReembedError, Repositories, SignatureMismatchError
from pattern_core.abc import Matches, Patch, Vector, Write
from pattern_core.catalog.metadata import Generation, read_metadata, record_generation
from pattern_core.catalog.tables import EMBEDDING_QUEUE
from pattern_core.errors import EmbeddingError, ModelChangedError
from pattern_core.maintenance.reembedding import run as run_module
from pattern_core.maintenance.reembedding.generations import abandon
from pattern_core.maintenance.reembedding.reembed import ReembedResult, reembed
from pattern_core.schema import Table
from pattern_core.support.clock import utc_now
from pattern_core.support.processes import HOST
from pattern_core.testing import MemoryData
from tests.helpers.databases import OpenDatabase, make_people
from tests.helpers.reembedding import (
    NEW,
    OLD,
    Letters,
    add_records,
    check_embeddings,
    embedding_model,
    failing_model,
    open_in_memory,
    session,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Re-embed a few records per batch, so that a run takes several commits."""
    monkeypatch.setattr(run_module, "_BATCH", 8)


class TestProcesses:
    """Several processes with one database, as several `Database` objects with the same data."""

    async def test_the_previous_model_is_rejected_after_the_switch(self) -> None:
        """After the switch, a process with the old model can read, update and delete, but not embed or search."""
        data: MemoryData = {}
        async with open_in_memory(data, Letters(OLD)) as first, open_in_memory(data, Letters(OLD)) as other:
            await make_people(first)
            await add_records(first, 20)
            await first.memories.create(agent_id="archive", label="there", content="number", id="there")
            assert len(await other.memories.search_semantic("archive", "number")) == 10
            await reembed(session(first), embedding_model(Letters(NEW)))
            await other.users.create(id="grace")
            memory = await other.memories.by_label("archive", "m0")
            await other.memories.update(memory, description="no text of it is embedded")
            with pytest.raises(SignatureMismatchError, match="pairs 32"):
                await other.memories.create(agent_id="archive", label="late", content="too late")
            with pytest.raises(SignatureMismatchError):
                await other.memories.search_semantic("archive", "number")
            assert await other.memories.delete(memory.id) == {"memory_blocks": 1}
            embedding = (await other.memories.get("there", with_embedding=True)).embedding
            assert embedding is not None
            assert embedding.vectors.shape == (1, NEW)
            await check_embeddings(first.storage, first.vectors)
            await check_embeddings(other.storage, other.vectors)

            taken = await reembed(
                session(other), embedding_model(Letters(NEW))
            )  # the first process has done it already
            assert (taken.switched, taken.generation) == (False, 2)
            assert len(await other.memories.search_semantic("archive", "number", limit=40)) == 10

    async def test_concurrent_writes(self) -> None:
        """Writes of a process that has not seen the run yet are not missed."""
        data: MemoryData = {}
        async with open_in_memory(data, Letters(OLD)) as first, open_in_memory(data, Letters(OLD)) as other:
            await make_people(first)
            await add_records(first, 20)
            model = Letters(NEW)
            done = 0

            async def write() -> None:
                nonlocal done
                for number in range(30):
                    await other.memories.upsert("archive", f"other {number}", f"written elsewhere {number}")
                    done += 1
                    await asyncio.sleep(0)

            outcome, _ = await asyncio.gather(
                reembed(session(first), embedding_model(model)), write(), return_exceptions=True
            )
            assert isinstance(outcome, ReembedResult)
            assert await first.memories.count() == 20 + done
            await check_embeddings(first.storage, first.vectors)

    async def test_one_at_a_time(self) -> None:
        """A second run is rejected while another process works, unless it takes over; then the first one stops."""
        data: MemoryData = {}
        async with open_in_memory(data, Letters(OLD)) as db:
            await make_people(db)
            await add_records(db, 20)
            with pytest.raises(EmbeddingError):
                await reembed(session(db), embedding_model(failing_model(after=1)))
            building = (await read_metadata(db.storage)).building
            assert building is not None
            elsewhere = attrs.evolve(building, worker="process 1 on another host", worker_seen_at=utc_now())
            await db.storage.commit([record_generation(elsewhere)])
            with pytest.raises(ReembedError, match="process 1 on another host is building these vectors"):
                await reembed(session(db), embedding_model(Letters(NEW)))

            slow, gate = Letters(NEW), asyncio.Event()
            slow.before_each = gate.set
            first = asyncio.create_task(reembed(session(db), embedding_model(slow), take_over=True))
            await gate.wait()
            assert (await reembed(session(db), embedding_model(Letters(NEW)), take_over=True)).switched
            with pytest.raises((ReembedError, SignatureMismatchError)):
                await first
            await check_embeddings(db.storage, db.vectors)

    async def test_a_dead_process_is_not_waited_for(self) -> None:
        """A process of this machine that has died does not prevent another run."""
        data: MemoryData = {}
        async with open_in_memory(data, Letters(OLD)) as db:
            await make_people(db)
            with pytest.raises(EmbeddingError):
                await add_records(db, 20)
                await reembed(session(db), embedding_model(failing_model(after=1)))
            building = (await read_metadata(db.storage)).building
            assert isinstance(building, Generation)
            dead = attrs.evolve(building, worker=f"process {2**22 + 1} on {HOST}", worker_seen_at=utc_now())
            await db.storage.commit([record_generation(dead)])
            assert (await reembed(session(db), embedding_model(Letters(NEW)))).switched

    async def test_the_queue_belongs_to_its_generation(self) -> None:
        """Dropping old vectors keeps the queue of the generation that another process builds."""
        data: MemoryData = {}
        async with open_in_memory(data, Letters(OLD)) as first, open_in_memory(data, Letters(OLD)) as other:
            await make_people(first)
            await add_records(first, 20)
            model = Letters(NEW)
            calls = 0

            async def interfere() -> None:
                nonlocal calls
                calls += 1
                if calls == 2:  # the first memories have their new vectors
                    await other.memories.upsert("archive", "m0", "a zeppelin over the lake")
                    assert await first.drop_old_vectors() == []
                    assert await other.storage.count(EMBEDDING_QUEUE) == 1

            model.before_each = interfere
            assert (await reembed(session(other), embedding_model(model))).switched
            await check_embeddings(first.storage, other.vectors)

    async def test_a_late_start_keeps_the_queue(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run that starts late, after another process has started one, keeps that one's queue."""
        monkeypatch.setattr(run_module, "process_name", lambda: f"process {id(asyncio.current_task())} on another host")
        data: MemoryData = {}
        async with open_in_memory(data, Letters(OLD)) as first, open_in_memory(data, Letters(OLD)) as other:
            await make_people(first)
            await add_records(first, 20)
            list_tables, begun, late = first.storage.tables, asyncio.Event(), asyncio.Event()
            calls = 0

            async def tables() -> frozenset[str]:
                nonlocal calls
                calls += 1
                found = await list_tables()
                if calls == 2:  # the first call finds that no generation is being built
                    late.set()
                    await begun.wait()
                return found

            monkeypatch.setattr(first.storage, "tables", tables)
            slower = asyncio.create_task(reembed(session(first), embedding_model(Letters(NEW))))
            await late.wait()
            model = Letters(NEW)

            async def release() -> None:
                if len(model.texts) == 8:
                    await other.memories.upsert("archive", "m0", "a zeppelin over the lake")
                    begun.set()
                    with pytest.raises(ReembedError, match="is building these vectors"):
                        await slower
                    assert await other.storage.count(EMBEDDING_QUEUE) == 1

            model.before_each = release
            assert (await reembed(session(other), embedding_model(model))).switched
            await check_embeddings(other.storage, other.vectors)

    async def test_abandoned_by_another_process(self) -> None:
        """A run that another process abandons raises an error, and the old vectors stay in use."""
        data: MemoryData = {}
        async with open_in_memory(data, Letters(OLD)) as first, open_in_memory(data, Letters(OLD)) as other:
            await make_people(first)
            await add_records(first, 20)
            model = Letters(NEW)

            async def interfere() -> None:
                if len(model.texts) > 8:
                    await abandon(session(other))

            model.before_each = interfere
            with pytest.raises(ReembedError, match="or has abandoned it"):
                await reembed(session(first), embedding_model(model))
            assert len(await first.memories.search_semantic("archive", "number", limit=40)) == 10
            assert await first.storage.count(EMBEDDING_QUEUE) == 0
            await check_embeddings(first.storage, first.vectors)

    async def test_continuous_writes(self) -> None:
        """Continuous writes of another process wait once for the switch, and none is lost."""
        data: MemoryData = {}
        async with open_in_memory(data, Letters(OLD)) as first, open_in_memory(data, Letters(OLD)) as other:
            await make_people(first)
            await add_records(first, 8)
            model, done, finished, wrote = Letters(NEW), 0, False, asyncio.Event()

            async def write() -> None:
                nonlocal done
                with contextlib.suppress(SignatureMismatchError):
                    while not finished:
                        await other.memories.upsert("archive", f"other {done}", f"written elsewhere {done}")
                        done += 1
                        wrote.set()
                wrote.set()

            async def wait_for_a_write() -> None:
                building = (await read_metadata(first.storage)).building
                if building is not None and building.held_until is None:
                    wrote.clear()
                    await wrote.wait()

            model.before_each = wait_for_a_write
            writer = asyncio.create_task(write())
            outcome = await reembed(session(first), embedding_model(model, cache=False))
            finished = True
            await writer
            assert outcome.switched
            assert await first.memories.count() == 8 + done
            await check_embeddings(first.storage, first.vectors)


class TestTasks:
    """Several tasks of one process."""

    async def test_cancelled_during_the_switch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """If a run is cancelled during the switch, the session uses the generation that the database does."""
        async with open_in_memory({}, Letters(OLD)) as db:
            await make_people(db)
            await add_records(db, 20)
            commit, at, go = db.storage.commit, asyncio.Event(), asyncio.Event()

            async def slow(batch: Sequence[Write]) -> None:
                if any(isinstance(each, Patch) and each.changes.get("state") == "active" for each in batch):
                    at.set()
                    await go.wait()
                await commit(batch)

            monkeypatch.setattr(db.storage, "commit", slow)
            running = asyncio.create_task(reembed(session(db), embedding_model(Letters(NEW))))
            await at.wait()
            running.cancel()
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert (await read_metadata(db.storage)).in_use.number == session(db).generation == 2
            await db.memories.upsert("archive", "m0", "a zeppelin over the lake")
            assert len(await db.memories.search_semantic("archive", "zeppelin", limit=40)) == 10
            assert not (await reembed(session(db), embedding_model(Letters(NEW)))).switched
            await check_embeddings(db.storage, db.vectors)

    async def test_a_write_during_the_switch(self, open_database: OpenDatabase) -> None:
        """A text that was being embedded by the old model during the switch is embedded by the new one."""
        model = Letters(OLD)
        db = await open_database(embedding_model(model, cache=False))
        await make_people(db)
        await add_records(db, 4)
        switching = True

        async def switch() -> None:
            nonlocal switching
            if switching:
                switching = False
                await reembed(session(db), embedding_model(Letters(NEW)))

        model.before_each = switch
        memory = await db.memories.by_label("archive", "m0")
        assert (await db.memories.update(memory, content="a zeppelin over the lake")).revision == 2
        await check_embeddings(db.storage, db.vectors)

    async def test_a_transaction_does_not_mix_models(self, open_database: OpenDatabase) -> None:
        """After the switch, a transaction with an embedding of the old model raises an error; `run` retries it."""
        db = await open_database(embedding_model(Letters(OLD)))
        await make_people(db)
        await add_records(db, 4)
        switching = True

        async def search_new_memory(tx: Repositories) -> Hit[Memory]:
            nonlocal switching
            await tx.memories.upsert("archive", "tea", "tea after lunch")
            if switching:
                switching = False
                await reembed(session(db), embedding_model(Letters(NEW)))
                with pytest.raises(ModelChangedError):
                    await tx.memories.search_semantic("archive", "tea after lunch")
            (hit, *_) = await tx.memories.search_semantic("archive", "tea after lunch")
            return hit

        assert (await db.run(search_new_memory)).score == pytest.approx(1, abs=1e-5)
        await check_embeddings(db.storage, db.vectors)

    async def test_a_search_during_the_switch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A search during the switch continues with the old vectors or is repeated with the new ones."""
        async with open_in_memory({}, Letters(OLD)) as db:
            await make_people(db)
            closer = [{"agent_id": "archive", "label": f"{n}", "content": "espresso before ten"} for n in range(12)]
            await db.memories.create_many(closer)
            wanted = await db.memories.create(
                agent_id="archive", label="wanted", content="tea after lunch", metadata={"wanted": True}
            )
            original, searched = db.vectors.search, []

            async def search(table: Table, query: Vector, **options: Any) -> Matches:
                found = await original(table, query, **options)
                searched.append(table.name)
                if len(searched) == 1:
                    await reembed(session(db), embedding_model(Letters(NEW)))
                return found

            monkeypatch.setattr(db.vectors, "search", search)
            where = Field("metadata")["wanted"] == True
            (hit,) = await db.memories.search_semantic("archive", "espresso before ten", limit=1, where=where)
            assert hit.record == wanted
            assert len(searched) > 2
