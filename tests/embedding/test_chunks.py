"""Texts over the token limit: embedded in chunks, and found once, by any chunk."""

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
    """Return a model with a limit of 300 characters."""

    async def load() -> Embedder:
        return LetterEmbedder()

    return EmbeddingModel(load, EmbeddingPolicy(overflow=overflow))


@pytest.fixture
async def db(open_database: OpenDatabase) -> Database:
    database = await open_database(model("chunk"))
    await make_people(database)
    return database


async def count_vectors(db: Database) -> int:
    """Return the number of vectors of memories."""
    return await db.storage.count(VECTORS)


async def check_index(db: Database) -> None:
    """Check that the index agrees with the stored vectors."""
    for spec in await read_index_specs(db.storage, "cosine"):
        assert (await verify_index(db.storage, db.vectors, spec)).ok


class TestSearch:
    async def test_a_record_is_found_once_by_any_chunk(self, db: Database) -> None:
        """A long memory is found once, by any of its chunks, and the hit contains the matching passage."""
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
        await check_index(db)

    async def test_many_chunks_do_not_reduce_the_hits(self, db: Database) -> None:
        """If many chunks of one record are the closest, a search still returns as many records as there are."""
        await db.memories.create(agent_id="archive", label="long", content="\n\n".join([FILLER] * 5))
        others = [{"agent_id": "archive", "label": f"{n}", "content": f"Number {n}: {QUIZ}"} for n in range(8)]
        await db.memories.create_many(others)

        hits = await db.memories.search_semantic("archive", "a long and rather dull report", limit=9)
        assert hits[0].memory.label == "long"
        assert len({hit.memory.label for hit in hits}) == len(hits) == 9

    async def test_with_a_filter(self, db: Database) -> None:
        """A search with a filter finds a long record, however many other records are closer."""
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

    async def test_the_first_chunks_with_a_filter(self, db: Database) -> None:
        """A search with a filter finds the first record with chunks as soon as it is written."""
        closer = [{"agent_id": "archive", "label": f"{n}", "content": ZEPPELIN} for n in range(12)]
        await db.memories.create_many(closer)
        assert await db.memories.search_semantic("archive", ZEPPELIN, where=Field("label") == "long") == []
        await db.memories.create(agent_id="archive", label="long", content=f"{FILLER}\n\n{ZEPPELIN}")

        (hit,) = await db.memories.search_semantic("archive", ZEPPELIN, limit=1, where=Field("label") == "long")
        assert hit.memory.label == "long"

    async def test_another_agent_does_not_find_chunks(self, db: Database) -> None:
        """A search for another agent finds no chunk of the record."""
        await db.memories.create(agent_id="archive", label="long", content=f"{FILLER}\n\n{ZEPPELIN}")
        assert await db.memories.search_semantic("planner", ZEPPELIN) == []

    async def test_in_a_transaction(self, db: Database) -> None:
        """A search finds the chunks of a transaction's records, in the transaction and after it."""
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


class TestStorage:
    async def test_vectors_and_spans(self, db: Database) -> None:
        """An embedding holds the vectors, and the span of the text that each was made of."""
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

    async def test_chunks_follow_the_text(self, db: Database) -> None:
        """An update or deletion of a record removes the chunks of its previous text."""
        made = await db.memories.create(agent_id="archive", label="x", content=FILLER)
        long = await count_vectors(db)
        assert long > 4
        made = await db.memories.update(made, content=f"{FILLER}\n\n{FILLER}")
        assert await count_vectors(db) > long
        made = await db.memories.update(made, content=FILLER)
        assert await count_vectors(db) == long
        made = await db.memories.update(made, description="the text stays")
        assert await count_vectors(db) == long
        made = await db.memories.update(made, content="short")
        assert await count_vectors(db) == 1
        assert await db.memories.search_semantic("archive", FILLER[:200]) != []
        made = await db.memories.update(made, content=FILLER)
        assert await count_vectors(db) == long
        await check_index(db)
        await db.memories.delete(made)
        assert await count_vectors(db) == 0
        assert await db.memories.search_semantic("archive", FILLER[:200]) == []
        await check_index(db)

    async def test_a_cascade_deletes_all_chunks(self, db: Database) -> None:
        """Deleting an agent with its memories deletes all their vectors."""
        await db.memories.create(agent_id="archive", label="long", content=FILLER)
        await db.memories.create(agent_id="archive", label="short", content="short")
        await db.memories.create(agent_id="planner", label="short", content="short")
        await db.agents.delete("archive", cascade=True)

        assert await count_vectors(db) == 1
        await check_index(db)

    async def test_the_first_chunks_are_recorded_once(self, db: Database) -> None:
        """The first text with chunks changes the metadata; short texts and later chunks do not."""
        before = (await read_metadata(db.storage)).revision
        await db.memories.create(agent_id="archive", label="short", content="short")
        assert (await read_metadata(db.storage)).revision == before
        for label in ("one", "two", "three"):
            await db.memories.create(agent_id="archive", label=label, content=FILLER)
        metadata = await read_metadata(db.storage)
        assert metadata.revision == before + 1
        assert metadata.active is not None
        assert metadata.active.has_chunks

    async def test_messages_and_tasks(self, db: Database) -> None:
        """Long messages and tasks are found by any chunk, too."""
        thread = await db.conversations.create(user_id="ada", agent_id="archive")
        said = await db.messages.create(conversation_id=thread.id, role="user", content=f"{FILLER}\n\n{ZEPPELIN}")
        task = await db.tasks.create(user_id="ada", title="Write", description=f"{FILLER}\n\n{QUIZ}")

        assert [hit.record.id for hit in await db.messages.search(ZEPPELIN, agent_id="archive")] == [said.id]
        (hit,) = await db.tasks.search(QUIZ, user_id="ada")
        assert hit.record.id == task.id
        assert QUIZ in (hit.passage or "")


class TestOtherPolicies:
    async def test_error(self, open_database: OpenDatabase) -> None:
        """By default a text over the token limit is an error, and nothing is written."""
        db = await open_database(model("error"))
        await make_people(db)
        with pytest.raises(TextTooLongError):
            await db.memories.create(agent_id="archive", label="long", content=FILLER)
        assert await db.memories.count() == 0

    async def test_truncate(self, open_database: OpenDatabase) -> None:
        """A truncated text is embedded up to the limit, and its embedding is marked as truncated."""
        db = await open_database(model("truncate"))
        await make_people(db)
        made = await db.memories.create(agent_id="archive", label="long", content=f"{ESPRESSO}\n\n{FILLER}")
        embedding = (await db.memories.get(made.id, with_embedding=True)).embedding

        assert embedding is not None
        assert embedding.truncated
        assert embedding.spans == ((0, 300),)
        assert await db.storage.count(VECTORS, ~Field("ends_at").is_null()) == 1


def best_similarity(query: Vector, vectors: Sequence[Vector]) -> float:
    """Return the highest cosine similarity of a query with unit vectors."""
    return max(float(query @ vector) for vector in vectors)


async def test_the_score_is_that_of_the_closest_chunk(db: Database) -> None:
    """The score of a hit is the score of the record's closest vector."""
    made = await db.memories.create(agent_id="archive", label="long", content=f"{FILLER}\n\n{ZEPPELIN}")
    embedding = (await db.memories.get(made.id, with_embedding=True)).embedding
    (hit,) = await db.memories.search_semantic("archive", ZEPPELIN)

    assert embedding is not None
    query = await db.embeddings.embed_query(ZEPPELIN)
    assert hit.score == pytest.approx(best_similarity(query, list(embedding.vectors)), abs=1e-4)
