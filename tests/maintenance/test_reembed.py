"""Re-embedding with another model: no record is missed, no models are mixed, no vector is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from pattern_core import ReembedError, TextTooLongError
from pattern_core.abc import IndexSpec
from pattern_core.catalog.metadata import read_metadata
from pattern_core.catalog.tables import EMBEDDING_QUEUE, vector_table
from pattern_core.database import Database
from pattern_core.errors import EmbeddingError
from pattern_core.maintenance.reembedding import run as run_module
from pattern_core.maintenance.reembedding.estimate import estimate_reembedding
from pattern_core.maintenance.reembedding.generations import abandon, drop_retired
from pattern_core.maintenance.reembedding.reembed import reembed
from pattern_core.schema import EMBEDDED, TABLES
from pattern_core.sessions.direct import DirectSession
from pattern_core.testing import MemoryData, MemoryStorage, MirrorIndex
from tests.helpers.databases import OpenDatabase, make_people
from tests.helpers.dying import Death
from tests.helpers.reembedding import (
    NEW,
    OLD,
    WORDS,
    Letters,
    add_records,
    check_embeddings,
    embedding_model,
    failing_model,
    open_in_memory,
    session,
)

pytestmark = pytest.mark.anyio

MEMORIES: Final = TABLES["memory_blocks"]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Re-embed a few records per batch, so that a run takes several commits."""
    monkeypatch.setattr(run_module, "_BATCH", 8)


@pytest.fixture
async def db(open_database: OpenDatabase) -> Database:
    """A database with vectors of 64 dimensions, and with memories, messages and a task."""
    database = await open_database(embedding_model(Letters(OLD)))
    await make_people(database)
    await add_records(database, 40)
    return database


class TestRunning:
    async def test_from_one_model_to_another(self, db: Database) -> None:
        """All records get vectors of the new model, which becomes active; the old vectors are kept until dropped."""
        before = [hit.record.id for hit in await db.memories.search_semantic("archive", "fox number", limit=40)]
        steps: list[tuple[int, int]] = []
        model = Letters(NEW)
        outcome = await reembed(session(db), embedding_model(model), progress=lambda *step: steps.append(step))

        assert (outcome.signature, outcome.generation, outcome.switched) == (model.signature, 2, True)
        assert outcome.embedded == 42
        assert steps[0] == (0, 43)
        assert steps[-1] == (43, 43)
        assert (await db.embeddings.signature()).dimensions == NEW
        await check_embeddings(db.storage, db.vectors)
        after = [hit.record.id for hit in await db.memories.search_semantic("archive", "fox number", limit=40)]
        assert sorted(after) == sorted(before)
        assert (await db.messages.search("fox", conversation_id="thread"))[0].record.content.endswith("fox.")
        assert len(await db.tasks.search("letter", user_id="ada")) == 1
        await db.memories.create(agent_id="archive", label="new", content="a zeppelin")
        assert (await db.memories.search_semantic("archive", "a zeppelin", limit=1))[0].memory.label == "new"
        await check_embeddings(db.storage, db.vectors)

        states = {each.number: each.state for each in (await read_metadata(db.storage)).generations}
        assert states == {1: "retired", 2: "active"}
        assert await db.storage.count(vector_table(MEMORIES, 1)) == 40
        assert [each.number for each in await drop_retired(session(db))] == [1]
        assert vector_table(MEMORIES, 1).name not in await db.storage.tables()
        assert await drop_retired(session(db)) == []
        assert [(each.number, each.state) for each in await db.generations()] == [(2, "active")]
        await check_embeddings(db.storage, db.vectors)

    async def test_concurrent_use(self, db: Database) -> None:
        """Records that are written or deleted during a run are not missed, and searches find as many as before."""
        generator = random.Random(1)
        ended = asyncio.Event()
        least = 100

        async def write() -> None:
            number = 0
            while not ended.is_set():
                number += 1
                label = f"m{generator.randrange(60)}"
                if generator.random() < 0.7:
                    text = f"{generator.choice(WORDS)} again {generator.random()}"
                    await db.memories.upsert("archive", label, text)
                else:
                    for memory in await db.memories.by_agent("archive", limit=1):
                        await db.memories.delete(memory.id)
                await asyncio.sleep(0)

        async def search() -> None:
            nonlocal least
            while not ended.is_set():
                least = min(least, len(await db.memories.search_semantic("planner", "number", limit=15)))
                await asyncio.sleep(0)

        async def change() -> None:
            try:
                for model in (Letters(NEW), Letters(16), Letters(OLD)):
                    outcome = await reembed(session(db), embedding_model(model))
                    assert outcome.switched
            finally:
                ended.set()

        await db.memories.create_many(
            [{"agent_id": "planner", "label": f"kept {n}", "content": f"number {n}"} for n in range(15)]
        )
        async with asyncio.TaskGroup() as group:
            for task in (write, write, search, change):
                group.create_task(task())

        assert least == 15
        assert await db.storage.count(EMBEDDING_QUEUE) == 0
        await check_embeddings(db.storage, db.vectors)

    async def test_searches_use_the_old_vectors_until_the_switch(self, db: Database) -> None:
        """Until the switch, searches use the old model and its vectors."""
        model = Letters(NEW)
        seen: list[int] = []
        queries = list(range(3))

        def record_active_generation() -> None:
            seen.append(session(db).active.number)

        model.before_each = record_active_generation
        running = asyncio.create_task(reembed(session(db), embedding_model(model)))
        for _ in queries:
            hits = await db.memories.search_semantic("archive", "tea number 0", limit=40)
            if session(db).active.number == 1:
                assert len(hits) == 20
        await running
        assert set(seen) <= {1}

    async def test_the_same_model(self, db: Database) -> None:
        """A run with the active model does nothing, unless `again` asks for new vectors."""
        model = Letters(OLD)
        outcome = await reembed(session(db), embedding_model(model))
        assert (outcome.switched, outcome.generation, model.texts) == (False, 1, [])
        outcome = await reembed(session(db), embedding_model(model), again=True)
        assert (outcome.switched, outcome.generation, outcome.embedded) == (True, 2, 42)
        await check_embeddings(db.storage, db.vectors)

    async def test_going_back_embeds_changed_records(self, db: Database) -> None:
        """Going back to a kept generation embeds only texts written since, and removes vectors of deleted records."""
        await reembed(session(db), embedding_model(Letters(NEW)))
        await db.memories.upsert("archive", "m0", "a new text")
        await db.memories.upsert("archive", "fresh", "another new text")
        await db.memories.delete((await db.memories.by_label("planner", "m1")).id)
        model = Letters(OLD)
        outcome = await reembed(session(db), embedding_model(model, cache=False))

        assert (outcome.generation, outcome.embedded) == (1, 2)
        assert {"a new text", "another new text"} <= set(model.texts)
        await check_embeddings(db.storage, db.vectors)

    async def test_going_back_after_a_record_has_moved(self, db: Database) -> None:
        """Going back also updates the partition of a record that has moved with the same text."""
        await db.memories.create(agent_id="archive", label="x", content="espresso before ten", id="moved")
        await reembed(session(db), embedding_model(Letters(NEW)))
        await db.memories.delete("moved")
        await db.memories.create(agent_id="planner", label="x", content="espresso before ten", id="moved")
        await reembed(session(db), embedding_model(Letters(OLD)))
        (hit,) = await db.memories.search_semantic("planner", "espresso before ten", limit=1)
        assert hit.record.id == "moved"
        await check_embeddings(db.storage, db.vectors)


class TestEstimate:
    async def test_records_tokens_time_and_cost(self, open_database: OpenDatabase) -> None:
        """An estimate counts records and tokens, and derives time and cost from a sample."""
        db = await open_database(embedding_model(Letters(OLD)))
        await make_people(db)
        await add_records(db, 40)
        found = await estimate_reembedding(
            session(db), embedding_model(Letters(NEW, limit=12), price_per_million_tokens=2.0, overflow="truncate")
        )

        texts = [text for table in EMBEDDED for row in await db.storage.find(table) if (text := table.text(row))]
        assert (found.current.dimensions, found.target.dimensions) == (OLD, NEW)
        assert (found.records, found.done) == (43, 0)
        assert found.tokens == pytest.approx(sum(map(len, texts)), rel=0.05)
        assert found.too_long == pytest.approx(sum(len(text) > 12 for text in texts), abs=2)
        assert found.cost == pytest.approx(found.tokens * 2e-6)
        assert found.seconds is not None
        assert found.seconds > 0

    async def test_an_interrupted_run(self, db: Database) -> None:
        """Records that have new vectors already are counted as done."""
        with pytest.raises(EmbeddingError):
            await reembed(session(db), embedding_model(failing_model(after=3)))
        found = await estimate_reembedding(session(db), embedding_model(Letters(NEW)))
        assert 0 < found.done < found.records

    async def test_without_records(self, open_database: OpenDatabase) -> None:
        """An empty database takes no time and no cost, and is switched at once."""
        db = await open_database(embedding_model(Letters(OLD)))
        found = await estimate_reembedding(session(db), embedding_model(Letters(NEW), price_per_million_tokens=1.0))
        assert (found.records, found.tokens, found.seconds, found.cost) == (0, 0, 0, 0)
        assert (await reembed(session(db), embedding_model(Letters(NEW)))).switched


class TestInterruptions:
    async def test_a_model_that_fails(self, db: Database) -> None:
        """A failure changes nothing that is in use, and the next run embeds only the missing texts."""
        with pytest.raises(EmbeddingError, match="had enough"):
            await reembed(session(db), embedding_model(failing_model(after=3), cache=False))
        assert (await db.embeddings.signature()).dimensions == OLD
        assert len(await db.memories.search_semantic("archive", "fox", limit=40)) == 20
        await db.memories.upsert("archive", "m0", "changed meanwhile")
        model = Letters(NEW)
        outcome = await reembed(session(db), embedding_model(model))
        assert outcome.switched
        assert 0 < outcome.embedded < 42
        await check_embeddings(db.storage, db.vectors)

    async def test_a_cancelled_run(self, db: Database) -> None:
        """A cancelled run changes no search, and can be resumed."""
        model, begun = Letters(NEW), asyncio.Event()
        model.before_each = begun.set
        running = asyncio.create_task(reembed(session(db), embedding_model(model)))
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert len(await db.memories.search_semantic("archive", "fox", limit=40)) == 20
        assert (await reembed(session(db), embedding_model(Letters(NEW)))).switched
        await check_embeddings(db.storage, db.vectors)

    async def test_another_model_is_half_built(self, db: Database) -> None:
        """A half-built generation of one model prevents a run with another, until it is abandoned."""
        with pytest.raises(EmbeddingError):
            await reembed(session(db), embedding_model(failing_model(after=1)))
        with pytest.raises(ReembedError, match="half built"):
            await reembed(session(db), embedding_model(Letters(16)))
        abandoned = await abandon(session(db))
        assert abandoned is not None
        assert abandoned.number == 2
        assert await abandon(session(db)) is None
        assert vector_table(MEMORIES, 2).name not in await db.storage.tables()
        await db.memories.upsert("archive", "m0", "nobody waits for this")
        assert await db.storage.count(EMBEDDING_QUEUE) == 0
        outcome = await reembed(session(db), embedding_model(Letters(16)))
        assert outcome.generation == 3  # a number is never used again
        await check_embeddings(db.storage, db.vectors)

    async def test_too_long_for_the_new_model(self, db: Database) -> None:
        """A text over the new model's token limit ends the run, unless the policy is to chunk or truncate it."""
        await db.memories.create(agent_id="archive", label="long", content="word " * 50)
        with pytest.raises(TextTooLongError):
            await reembed(session(db), embedding_model(Letters(NEW, limit=100)))
        outcome = await reembed(session(db), embedding_model(Letters(NEW, limit=100), overflow="chunk"))
        assert outcome.switched
        (hit,) = await db.memories.search_semantic("archive", "word word", limit=1)
        assert hit.memory.label == "long"
        assert hit.passage is not None
        # The same model with another policy makes one vector of the chunked text.
        outcome = await reembed(session(db), embedding_model(Letters(NEW, limit=100), overflow="truncate"), again=True)
        embedding = (await db.memories.get(hit.record.id, with_embedding=True)).embedding
        assert embedding is not None
        assert embedding.truncated

    async def test_vectors_that_do_not_verify(self, db: Database) -> None:
        """A model that makes other vectors of the same texts in the check does not become active."""

        class Fickle(Letters):
            async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
                generator = np.random.default_rng(len(self.texts))
                self.texts += texts
                return generator.standard_normal((len(texts), NEW)).astype(np.float32)

        with pytest.raises(ReembedError, match="differs from what"):
            await reembed(session(db), embedding_model(Fickle(NEW), cache=False))
        assert (await db.embeddings.signature()).dimensions == OLD


@pytest.mark.parametrize("external", [False, True], ids=["own", "external"])
async def test_killed_before_any_change(external: bool) -> None:
    """If a run dies before any change, the old vectors stay complete, and the next run completes the switch."""
    survived = 0
    while True:
        data: MemoryData = {}
        mirror: MemoryData | None = {} if external else None
        async with open_in_memory(data, Letters(OLD), mirror=mirror) as db:
            await make_people(db)
            await add_records(db, 20)
        async with open_in_memory(data, Letters(OLD), dying=survived, mirror=mirror) as db:
            with contextlib.suppress(Death):
                await reembed(session(db), embedding_model(Letters(NEW)))
        switched = (await read_metadata(MemoryStorage(data))).active
        assert switched is not None
        if switched.number == 2:
            break
        async with open_in_memory(data, Letters(OLD), mirror=mirror) as db:
            assert len(await db.memories.search_semantic("archive", "number", limit=40)) == 10
            await db.memories.upsert("archive", "m0", "changed after the death")
            await check_embeddings(db.storage, db.vectors)
            assert (await reembed(session(db), embedding_model(Letters(NEW)), take_over=True)).switched
            await check_embeddings(db.storage, db.vectors)
        survived += 1
    assert survived > 8


class DyingIndex(MirrorIndex):
    """An index whose process dies when it creates the index of messages of generation 2."""

    async def create(self, index: IndexSpec) -> None:
        if index.table.name == "messages_vectors_2":
            raise Death
        await super().create(index)


async def test_killed_between_two_indexes() -> None:
    """After a resumed run, an index that existed before it has all writes, earlier and later ones."""
    data, mirror = MemoryData({}), MemoryData({})
    async with open_in_memory(data, Letters(OLD), mirror=mirror) as db:
        await make_people(db)
        await add_records(db, 20)
        dying = DirectSession(
            db.storage,
            DyingIndex(db.storage, MemoryStorage(mirror)),
            db.embeddings,
            session(db).model.metadata,
            metric="cosine",
        )
        with pytest.raises(Death):
            await reembed(dying, embedding_model(Letters(NEW)))
    async with open_in_memory(data, Letters(OLD), mirror=mirror) as db:
        await db.memories.upsert("archive", "m0", "a zeppelin over the lake")
        assert (await reembed(session(db), embedding_model(Letters(NEW)), take_over=True)).switched
        (hit,) = await db.memories.search_semantic("archive", "a zeppelin over the lake", limit=1)
        assert hit.memory.label == "m0"
        await check_embeddings(db.storage, db.vectors)
