"""Another embedding model for a database that several processes have open, or several tasks of one use."""

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
from pattern_core.maintenance.reembedding import run as work
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
    """A few records at a time, so that a run takes several commits."""
    monkeypatch.setattr(work, "_BATCH", 8)


class TestProcesses:
    """Several processes with one database: here several objects with one place."""

    async def test_others_learn_of_the_switch(self) -> None:
        """One who has the old model can neither write a text nor search after the switch; all else, it can."""
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

            taken = await reembed(session(other), embedding_model(Letters(NEW)))  # there it has been done already
            assert (taken.switched, taken.generation) == (False, 2)
            assert len(await other.memories.search_semantic("archive", "number", limit=40)) == 10

    async def test_others_write_meanwhile(self) -> None:
        """What a process writes that has yet to hear of the run is not missed."""
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
        """A run that another process is at is refused, until it is taken over; who was overtaken stops."""
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
        """Who died on this machine a moment ago is in nobody's way."""
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

    async def test_the_queue_is_its_generations(self) -> None:
        """One who removes old vectors while another makes new ones does not take away what these still lack."""
        data: MemoryData = {}
        async with open_in_memory(data, Letters(OLD)) as first, open_in_memory(data, Letters(OLD)) as other:
            await make_people(first)
            await add_records(first, 20)
            model = Letters(NEW)
            calls = 0

            async def meddle() -> None:
                nonlocal calls
                calls += 1
                if calls == 2:  # the first memories have their new vectors
                    await other.memories.upsert("archive", "m0", "a zeppelin over the lake")
                    assert await first.drop_old_vectors() == []
                    assert await other.storage.count(EMBEDDING_QUEUE) == 1

            model.before_each = meddle
            assert (await reembed(session(other), embedding_model(model))).switched
            await check_embeddings(first.storage, other.vectors)

    async def test_who_comes_too_late_takes_nothing_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One who was held up before he could begin, while another began, leaves that one's queue alone."""
        monkeypatch.setattr(work, "process_name", lambda: f"process {id(asyncio.current_task())} on another host")
        data: MemoryData = {}
        async with open_in_memory(data, Letters(OLD)) as first, open_in_memory(data, Letters(OLD)) as other:
            await make_people(first)
            await add_records(first, 20)
            there, begun, late = first.storage.tables, asyncio.Event(), asyncio.Event()
            looks = 0

            async def tables() -> frozenset[str]:
                nonlocal looks
                looks += 1
                found = await there()
                if looks == 2:  # the first look is for the generations: there is none in the making
                    late.set()
                    await begun.wait()
                return found

            monkeypatch.setattr(first.storage, "tables", tables)
            slower = asyncio.create_task(reembed(session(first), embedding_model(Letters(NEW))))
            await late.wait()
            model = Letters(NEW)

            async def let_go() -> None:
                if len(model.texts) == 8:
                    await other.memories.upsert("archive", "m0", "a zeppelin over the lake")
                    begun.set()
                    with pytest.raises(ReembedError, match="is building these vectors"):
                        await slower
                    assert await other.storage.count(EMBEDDING_QUEUE) == 1

            model.before_each = let_go
            assert (await reembed(session(other), embedding_model(model))).switched
            await check_embeddings(other.storage, other.vectors)

    async def test_abandoned_by_another(self) -> None:
        """A run whose vectors another process abandons ends, and says so; the old ones are used as before."""
        data: MemoryData = {}
        async with open_in_memory(data, Letters(OLD)) as first, open_in_memory(data, Letters(OLD)) as other:
            await make_people(first)
            await add_records(first, 20)
            model = Letters(NEW)

            async def meddle() -> None:
                if len(model.texts) > 8:
                    await abandon(session(other))

            model.before_each = meddle
            with pytest.raises(ReembedError, match="or has abandoned it"):
                await reembed(session(first), embedding_model(model))
            assert len(await first.memories.search_semantic("archive", "number", limit=40)) == 10
            assert await first.storage.count(EMBEDDING_QUEUE) == 0
            await check_embeddings(first.storage, first.vectors)

    async def test_writers_that_do_not_pause(self) -> None:
        """Where others write without a pause, they are made to wait for the switch, once, and none of it is lost."""
        data: MemoryData = {}
        async with open_in_memory(data, Letters(OLD)) as first, open_in_memory(data, Letters(OLD)) as other:
            await make_people(first)
            await add_records(first, 8)
            model, done, over_with, wrote = Letters(NEW), 0, False, asyncio.Event()

            async def write() -> None:
                nonlocal done
                with contextlib.suppress(SignatureMismatchError):
                    while not over_with:
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
            over_with = True
            await writer
            assert outcome.switched
            assert await first.memories.count() == 8 + done
            await check_embeddings(first.storage, first.vectors)


class TestTasks:
    """Several tasks of one process."""

    async def test_cancelled_in_the_midst_of_the_switch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is switched in the database is switched in the session, whatever becomes of who asked for it."""
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

    async def test_a_write_that_was_being_embedded(self, open_database: OpenDatabase) -> None:
        """A text that the old model was at when the new one took over is embedded by the new one."""
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
        """A transaction that has embedded a text by the old model says so after the switch; `run` repeats it."""
        db = await open_database(embedding_model(Letters(OLD)))
        await make_people(db)
        await add_records(db, 4)
        switching = True

        async def search_one_that_is_new(tx: Repositories) -> Hit[Memory]:
            nonlocal switching
            await tx.memories.upsert("archive", "tea", "tea after lunch")
            if switching:
                switching = False
                await reembed(session(db), embedding_model(Letters(NEW)))
                with pytest.raises(ModelChangedError):
                    await tx.memories.search_semantic("archive", "tea after lunch")
            (hit, *_) = await tx.memories.search_semantic("archive", "tea after lunch")
            return hit

        assert (await db.run(search_one_that_is_new)).score == pytest.approx(1, abs=1e-5)
        await check_embeddings(db.storage, db.vectors)

    async def test_a_search_that_looks_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A search that is at work when another model takes over goes on in the old vectors, or begins again."""
        async with open_in_memory({}, Letters(OLD)) as db:
            await make_people(db)
            closer = [{"agent_id": "archive", "label": f"{n}", "content": "espresso before ten"} for n in range(12)]
            await db.memories.create_many(closer)
            wanted = await db.memories.create(
                agent_id="archive", label="wanted", content="tea after lunch", metadata={"wanted": True}
            )
            look, looks = db.vectors.search, []

            async def search(table: Table, query: Vector, **how: Any) -> Matches:
                found = await look(table, query, **how)
                looks.append(table.name)
                if len(looks) == 1:
                    await reembed(session(db), embedding_model(Letters(NEW)))
                return found

            monkeypatch.setattr(db.vectors, "search", search)
            where = Field("metadata")["wanted"] == True
            (hit,) = await db.memories.search_semantic("archive", "espresso before ten", limit=1, where=where)
            assert hit.record == wanted
            assert len(looks) > 2
