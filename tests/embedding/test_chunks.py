"""Texts that are longer than the model reads: embedded in parts, found by any of them, once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pattern_core import Field, TextTooLongError
from pattern_core.abc import Embedder, Vector
from pattern_core.catalog.metadata import read_metadata
from pattern_core.catalog.tables import vector_table
from pattern_core.config import EmbeddingPolicy, Overflow
from pattern_core.database import Database
from pattern_core.embedding.model import EmbeddingModel
from pattern_core.maintenance.indexes import read_index_specs, verify_index
from pattern_core.schema import TABLES
from pattern_core.testing import LetterEmbedder
from tests.helpers.databases import OpenDatabase, make_people

pytestmark = pytest.mark.anyio

VECTORS = vector_table(TABLES["memory_blocks"], 1)
ESPRESSO = "Ada drinks one espresso before ten and tea after lunch."
ZEPPELIN = "The zeppelin from Friedrichshafen crosses the lake every evening."
QUIZ = "A quick quiz: which judge vexed the fox, and why did he jump?"
FILLER = "\n\n".join(f"Line {n} of a long and rather dull report." for n in range(40))


def model(overflow: Overflow) -> EmbeddingModel:
    """A model that reads 300 characters."""

    async def load() -> Embedder:
        return LetterEmbedder()

    return EmbeddingModel(load, EmbeddingPolicy(overflow=overflow))


@pytest.fixture
async def db(open_database: OpenDatabase) -> Database:
    database = await open_database(model("chunk"))
    await make_people(database)
    return database


async def rows(db: Database) -> int:
    """How many vectors there are of memories."""
    return await db.storage.count(VECTORS)


async def check(db: Database) -> None:
    """Fail unless the index agrees with the vectors."""
    for spec in await read_index_specs(db.storage, "cosine"):
        assert (await verify_index(db.storage, db.vectors, spec)).ok


class TestFinding:
    async def test_by_any_part_once(self, db: Database) -> None:
        """A long memory is found by each of its parts, comes once, and the hit tells which part it was."""
        content = f"{ESPRESSO}\n\n{FILLER}\n\n{ZEPPELIN}\n\n{FILLER}\n\n{QUIZ}"
        long = await db.memories.create(agent_id="archive", label="long", content=content)
        short = await db.memories.create(agent_id="archive", label="short", content="Something else altogether.")

        for text in (ESPRESSO, ZEPPELIN, QUIZ):
            hits = await db.memories.search_semantic("archive", text)
            assert [hit.record.id for hit in hits] == [long.id, short.id]
            passage = hits[0].passage
            assert passage is not None
            assert text in passage
            assert len(passage) <= 300
            assert passage in content
            assert hits[1].passage is None
        assert [hit.record.id for hit in await db.memories.search_semantic("archive", QUIZ, limit=1)] == [long.id]
        await check(db)

    async def test_many_parts_do_not_crowd_others_out(self, db: Database) -> None:
        """However many parts of one record are the closest, as many records are found as there are."""
        await db.memories.create(agent_id="archive", label="long", content="\n\n".join([FILLER] * 5))
        others = [{"agent_id": "archive", "label": f"{n}", "content": f"Number {n}: {QUIZ}"} for n in range(8)]
        await db.memories.create_many(others)

        hits = await db.memories.search_semantic("archive", "a long and rather dull report", limit=9)
        assert hits[0].memory.label == "long"
        assert len({hit.memory.label for hit in hits}) == len(hits) == 9

    async def test_with_a_filter(self, db: Database) -> None:
        """A filter keeps long records that fit, however many others are closer."""
        kept = await db.memories.create(
            agent_id="archive", label="kept", content=f"{FILLER}\n\n{ZEPPELIN}", metadata={"kept": True}
        )
        closer = [
            {"agent_id": "archive", "label": f"{n}", "content": f"{ZEPPELIN}\n\n{FILLER}\n\n{ZEPPELIN}"}
            for n in range(12)
        ]
        await db.memories.create_many(closer)

        hits = await db.memories.search_semantic("archive", ZEPPELIN, limit=2, where=Field("metadata")["kept"] == True)
        assert [hit.record.id for hit in hits] == [kept.id]
        assert ZEPPELIN in (hits[0].passage or "")

    async def test_the_first_one_with_a_filter(self, db: Database) -> None:
        """A filter knows at once that there are records in parts, also of the one that is the first."""
        closer = [{"agent_id": "archive", "label": f"{n}", "content": ZEPPELIN} for n in range(12)]
        await db.memories.create_many(closer)
        assert await db.memories.search_semantic("archive", ZEPPELIN, where=Field("label") == "long") == []
        await db.memories.create(agent_id="archive", label="long", content=f"{FILLER}\n\n{ZEPPELIN}")

        (hit,) = await db.memories.search_semantic("archive", ZEPPELIN, limit=1, where=Field("label") == "long")
        assert hit.memory.label == "long"

    async def test_another_agent_sees_none_of_it(self, db: Database) -> None:
        """The parts belong to the agent as the record does."""
        await db.memories.create(agent_id="archive", label="long", content=f"{FILLER}\n\n{ZEPPELIN}")
        assert await db.memories.search_semantic("planner", ZEPPELIN) == []

    async def test_in_a_transaction(self, db: Database) -> None:
        """What a transaction has written is found by any of its parts before it ends, and after."""
        async with db.transaction() as tx:
            await tx.memories.create(agent_id="archive", label="long", content=f"{FILLER}\n\n{ZEPPELIN}")
            (hit,) = await tx.memories.search_semantic("archive", ZEPPELIN)
            assert ZEPPELIN in (hit.passage or "")
            embedding = (await tx.memories.get(hit.record.id, with_embedding=True)).embedding
            assert embedding is not None
            assert len(embedding.vectors) > 1
        (again,) = await db.memories.search_semantic("archive", ZEPPELIN)
        assert (again.record.id, again.passage) == (hit.record.id, hit.passage)
        assert again.score == pytest.approx(hit.score, abs=1e-5)


class TestKeeping:
    async def test_what_is_recorded(self, db: Database) -> None:
        """A record tells its vectors, and which part of the text each was made of."""
        content = f"{ESPRESSO}\n\n{FILLER}"
        made = await db.memories.create(agent_id="archive", label="long", content=content)
        embedding = (await db.memories.get(made.id, with_embedding=True)).embedding

        assert embedding is not None
        assert embedding.vectors.shape == (len(embedding.spans), 64)
        assert not embedding.truncated
        texts = [content[slice(*span)] for span in embedding.spans if span is not None]
        assert " ".join(" ".join(texts).split()) == " ".join(content.split())
        alone = await db.embeddings.embed_documents(texts)
        assert np.allclose(embedding.vectors, [each.vectors[0] for each in alone], atol=1e-6)

    async def test_parts_come_and_go_with_the_text(self, db: Database) -> None:
        """A text that becomes longer or shorter leaves no part behind, nor does a record that is deleted."""
        made = await db.memories.create(agent_id="archive", label="x", content=FILLER)
        long = await rows(db)
        assert long > 4
        made = await db.memories.update(made, content=f"{FILLER}\n\n{FILLER}")
        assert await rows(db) > long
        made = await db.memories.update(made, content=FILLER)
        assert await rows(db) == long
        made = await db.memories.update(made, description="the text stays")
        assert await rows(db) == long
        made = await db.memories.update(made, content="short")
        assert await rows(db) == 1
        assert await db.memories.search_semantic("archive", FILLER[:200]) != []
        made = await db.memories.update(made, content=FILLER)
        assert await rows(db) == long
        await check(db)
        await db.memories.delete(made)
        assert await rows(db) == 0
        assert await db.memories.search_semantic("archive", FILLER[:200]) == []
        await check(db)

    async def test_a_cascade_takes_all_parts(self, db: Database) -> None:
        """Deleting an agent with its memories leaves no vector of them."""
        await db.memories.create(agent_id="archive", label="long", content=FILLER)
        await db.memories.create(agent_id="archive", label="short", content="short")
        await db.memories.create(agent_id="planner", label="short", content="short")
        await db.agents.delete("archive", cascade=True)

        assert await rows(db) == 1
        await check(db)

    async def test_that_there_are_chunks_is_noted_once(self, db: Database) -> None:
        """The first long text changes what the database says of itself; short ones before and all after do not."""
        before = (await read_metadata(db.storage)).revision
        await db.memories.create(agent_id="archive", label="short", content="short")
        assert (await read_metadata(db.storage)).revision == before
        for label in ("one", "two", "three"):
            await db.memories.create(agent_id="archive", label=label, content=FILLER)
        known = await read_metadata(db.storage)
        assert known.revision == before + 1
        assert known.active is not None
        assert known.active.has_chunks

    async def test_messages_and_tasks(self, db: Database) -> None:
        """Long messages and tasks are found by any part, too."""
        thread = await db.conversations.create(user_id="ada", agent_id="archive")
        said = await db.messages.create(conversation_id=thread.id, role="user", content=f"{FILLER}\n\n{ZEPPELIN}")
        task = await db.tasks.create(user_id="ada", title="Write", description=f"{FILLER}\n\n{QUIZ}")

        assert [hit.record.id for hit in await db.messages.search(ZEPPELIN, agent_id="archive")] == [said.id]
        (hit,) = await db.tasks.search(QUIZ, user_id="ada")
        assert hit.record.id == task.id
        assert QUIZ in (hit.passage or "")


class TestOtherPolicies:
    async def test_refused(self, open_database: OpenDatabase) -> None:
        """Unless it is configured otherwise, a text that is too long is refused, and nothing was written."""
        db = await open_database(model("error"))
        await make_people(db)
        with pytest.raises(TextTooLongError):
            await db.memories.create(agent_id="archive", label="long", content=FILLER)
        assert await db.memories.count() == 0

    async def test_cut_off(self, open_database: OpenDatabase) -> None:
        """A text that was cut off is found by its beginning only, and its record says so."""
        db = await open_database(model("truncate"))
        await make_people(db)
        made = await db.memories.create(agent_id="archive", label="long", content=f"{ESPRESSO}\n\n{FILLER}")
        embedding = (await db.memories.get(made.id, with_embedding=True)).embedding

        assert embedding is not None
        assert embedding.truncated
        assert embedding.spans == ((0, 300),)
        assert await db.storage.count(VECTORS, ~Field("ends_at").is_null()) == 1


def closeness(query: Vector, vectors: Sequence[Vector]) -> float:
    """The cosine similarity of the closest of unit vectors."""
    return max(float(query @ vector) for vector in vectors)


async def test_a_record_counts_by_its_closest_part(db: Database) -> None:
    """The score of a hit is that of the closest of the record's vectors."""
    made = await db.memories.create(agent_id="archive", label="long", content=f"{FILLER}\n\n{ZEPPELIN}")
    embedding = (await db.memories.get(made.id, with_embedding=True)).embedding
    (hit,) = await db.memories.search_semantic("archive", ZEPPELIN)

    assert embedding is not None
    query = await db.embeddings.embed_query(ZEPPELIN)
    assert hit.score == pytest.approx(closeness(query, list(embedding.vectors)), abs=1e-4)
