"""Memories: labels, upserts, embedding of new content, and search within one agent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from pattern_core.abc import Write
from pattern_core.database import Database
from pattern_core.errors import AlreadyExistsError, ConflictError, NotFoundError, StorageError, ValidationError
from pattern_core.filters import Field

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("people")]

COFFEE = "Ada drinks one espresso before ten and tea after lunch."
TRAIN = "The train to Lyon leaves at seven from platform four."


@pytest.fixture
def embedded(db: Database, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that the model has embedded as documents."""
    texts: list[str] = []
    loaded = db.embeddings.loaded
    assert loaded is not None
    embed = loaded.embed_documents

    async def record(given: Sequence[str]) -> NDArray[np.float32]:
        texts.extend(given)
        return await embed(given)

    monkeypatch.setattr(loaded, "embed_documents", record)
    return texts


class TestWriting:
    async def test_create(self, db: Database) -> None:
        """A memory is read as it was created; its vectors are read on request."""
        made = await db.memories.create(
            agent_id="archive", label="coffee", content=COFFEE, description="habits", metadata={"source": "diary"}
        )
        read = await db.memories.get(made.id)
        full = await db.memories.get(made.id, with_embedding=True)

        assert made == read == full
        assert read.embedding is None
        assert full.embedding is not None
        assert full.embedding.vectors.dtype == np.float32
        assert full.embedding.vectors.shape == (1, 256)
        assert np.linalg.norm(full.embedding.vectors) == pytest.approx(1)
        signature = await db.embeddings.signature()
        assert (full.embedding.model, full.embedding.signature) == (signature.model, signature.digest)
        assert (full.embedding.spans, full.embedding.truncated) == ((None,), False)

    async def test_labels_are_unique_for_the_agent(self, db: Database) -> None:
        """A label is unique for its agent; another agent can have the same."""
        await db.memories.create(agent_id="archive", label="coffee", content=COFFEE)
        await db.memories.create(agent_id="planner", label="coffee", content=COFFEE)
        with pytest.raises(AlreadyExistsError) as caught:
            await db.memories.create(agent_id="archive", label="coffee", content=TRAIN)

        assert caught.value.key == {"agent_id": "archive", "label": "coffee"}
        assert await db.memories.count() == 2

    async def test_a_missing_agent(self, db: Database) -> None:
        """A memory of a missing agent is rejected. The traceback is short: the engine's own error says nothing more."""
        with pytest.raises(NotFoundError, match="agents has no record 'nobody'. Check that it is an id") as caught:
            await db.memories.create(agent_id="nobody", label="x", content="y")
        assert caught.value.__cause__ is None

    async def test_errors_call_them_memories(self, db: Database) -> None:
        """Messages use the word of the API, and the attributes name the table."""
        await db.memories.create(agent_id="archive", label="coffee", content=COFFEE, id="m1")
        with pytest.raises(AlreadyExistsError, match="^memories already has a record with") as taken:
            await db.memories.create(agent_id="archive", label="coffee", content=TRAIN)
        read = await db.memories.get("m1")
        await db.memories.update("m1", description="new")
        with pytest.raises(ConflictError, match="'m1' of memories is no longer at revision 1: it was changed"):
            await db.memories.update(read, content=TRAIN)
        with pytest.raises(NotFoundError, match="^memories has no record 'm2'"):
            await db.memories.get("m2")
        assert taken.value.table == "memory_blocks"

    async def test_create_many_is_all_or_nothing(self, db: Database) -> None:
        """One invalid record of many makes the call write nothing, whatever rejects it."""
        good = [{"agent_id": "archive", "label": f"l{n}", "content": f"text {n}"} for n in range(5)]
        for bad, error in (
            ({"agent_id": "archive", "label": "l0", "content": "again"}, AlreadyExistsError),
            ({"agent_id": "nobody", "label": "x", "content": "y"}, NotFoundError),
            ({"agent_id": "archive", "label": "x", "content": "  "}, ValidationError),
            ({"agent_id": "archive", "label": "x", "content": "y", "colour": "red"}, ValidationError),
            ({"agent_id": "archive", "label": "x"}, ValidationError),
            ({"agent_id": "archive", "label": "x", "content": "y", "metadata": {"a": float("nan")}}, ValidationError),
        ):
            with pytest.raises(error):
                await db.memories.create_many([*good, bad])
            assert await db.memories.count() == 0
            assert await db.memories.search_semantic("archive", "text") == []
        made = await db.memories.create_many(good)

        assert [each.label for each in made] == ["l0", "l1", "l2", "l3", "l4"]
        assert await db.memories.create_many([]) == []

    async def test_by_label(self, db: Database) -> None:
        """A memory is found by agent and label."""
        made = await db.memories.create(agent_id="archive", label="coffee", content=COFFEE)

        assert await db.memories.by_label("archive", "coffee") == made
        with pytest.raises(NotFoundError):
            await db.memories.by_label("planner", "coffee")


class TestEmbedding:
    async def test_only_new_content_is_embedded(self, db: Database, embedded: list[str]) -> None:
        """Content is embedded when it is created or changed, and not when other fields change."""
        made = await db.memories.create(agent_id="archive", label="coffee", content=COFFEE)
        made = await db.memories.update(made, label="drinks", metadata={"n": 1}, is_active=True, description="x")
        made = await db.memories.update(made, content=COFFEE)
        assert embedded == [COFFEE]
        made = await db.memories.update(made, content=TRAIN)

        assert embedded == [COFFEE, TRAIN]
        (hit,) = await db.memories.search_semantic("archive", TRAIN, limit=1)
        assert hit.score == pytest.approx(1, abs=1e-5)

    async def test_repeats_are_embedded_once(self, db: Database, embedded: list[str]) -> None:
        """A repeated text is embedded once per call."""
        records = [{"agent_id": "archive", "label": str(n), "content": f"text {n % 3}"} for n in range(30)]
        await db.memories.create_many(records)

        assert sorted(embedded) == ["text 0", "text 1", "text 2"]
        assert len(await db.memories.search_semantic("archive", "text", limit=50)) == 30

    async def test_upsert(self, db: Database, embedded: list[str]) -> None:
        """An upsert creates or changes a memory, and neither writes nor embeds what has not changed."""
        first = await db.memories.upsert("archive", "coffee", COFFEE, metadata={"n": 1})
        same = await db.memories.upsert("archive", "coffee", COFFEE)
        other = await db.memories.upsert("archive", "coffee", TRAIN)

        assert same == first
        assert (other.id, other.revision, other.metadata) == (first.id, 2, {"n": 1})
        assert embedded == [COFFEE, TRAIN]
        assert await db.memories.count() == 1

    async def test_upsert_many(self, db: Database, embedded: list[str]) -> None:
        """Several upserts are one commit. A second import embeds nothing. The last memory with a label counts."""
        blocks = [{"label": f"l{n}", "content": f"text {n}"} for n in range(10)]
        await db.memories.upsert_many("archive", [*blocks, {"label": "l0", "content": "another"}])
        count = len(embedded)
        again = await db.memories.upsert_many("archive", [{"label": "l0", "content": "another"}, *blocks[1:]])

        assert count == len(embedded) == 10
        assert {each.revision for each in again} == {1}
        assert (await db.memories.by_label("archive", "l0")).content == "another"
        assert await db.memories.upsert_many("archive", []) == []
        with pytest.raises(NotFoundError):
            await db.memories.upsert("nobody", "a", "b")

    async def test_a_taken_id(self, db: Database) -> None:
        """An upsert of a new label with a taken id is an error that is not retried."""
        await db.memories.create(agent_id="archive", label="a", content="b", id="one")
        with pytest.raises(AlreadyExistsError) as caught:
            await db.memories.upsert("archive", "fresh", "x", id="one")

        assert caught.value.key == {"id": "one"}

    async def test_by_agent(self, db: Database) -> None:
        """The memories of an agent are listed by label; inactive ones only on request."""
        for label in ("b", "a", "c"):
            await db.memories.create(agent_id="archive", label=label, content="text", is_active=label != "c")
        await db.memories.create(agent_id="planner", label="d", content="text")

        assert [each.label for each in await db.memories.by_agent("archive")] == ["a", "b"]
        assert len(await db.memories.by_agent("archive", include_inactive=True)) == 3

    async def test_the_order_of_keys_does_not_matter(self, db: Database) -> None:
        """JSON that differs only in the order of keys is not written."""
        first = await db.memories.upsert("archive", "a", "b", metadata={"x": 1, "y": [{"p": 1, "q": 2}]})

        assert await db.memories.upsert("archive", "a", "b", metadata={"y": [{"q": 2, "p": 1}], "x": 1}) == first
        assert (await db.memories.upsert("archive", "a", "b", metadata={"x": True, "y": []})).revision == 2

    async def test_concurrent_upserts_of_a_new_label(self, db: Database) -> None:
        """Concurrent upserts of a new label create one memory, without an error."""
        await asyncio.gather(*(db.memories.upsert("archive", "race", f"text {n}") for n in range(10)))

        assert await db.memories.count() == 1
        assert len(await db.memories.search_semantic("archive", "text")) == 1


class TestSearch:
    async def test_best_first(self, db: Database) -> None:
        """Hits come by descending cosine similarity."""
        await db.memories.create(agent_id="archive", label="train", content=TRAIN)
        coffee = await db.memories.create(agent_id="archive", label="coffee", content=COFFEE)
        hits = await db.memories.search_semantic("archive", "When does she drink espresso?")
        query = await db.embeddings.embed_query("When does she drink espresso?")
        embedding = (await db.memories.get(coffee.id, with_embedding=True)).embedding
        assert embedding is not None

        assert [hit.memory.label for hit in hits] == ["coffee", "train"]
        assert hits[0].score == pytest.approx(float(embedding.vectors[0] @ query), abs=1e-5)
        assert hits[0].score > hits[1].score

    async def test_ties_by_id(self, db: Database) -> None:
        """Hits with equal scores come by id, not in the order of their creation."""
        for id in ("c", "a", "d", "b"):
            await db.memories.create(agent_id="archive", label=id, content=COFFEE, id=id)

        assert [hit.memory.id for hit in await db.memories.search_semantic("archive", "tea", limit=3)] == [
            "a",
            "b",
            "c",
        ]

    async def test_an_agent_finds_only_its_own_memories(self, db: Database) -> None:
        """No text or label makes a search find a memory of another agent."""
        secrets = [{"agent_id": "planner", "label": f"s{n}", "content": COFFEE} for n in range(30)]
        await db.memories.create_many(secrets)
        await db.memories.create(agent_id="archive", label="planner", content=TRAIN)
        for text in (COFFEE, "planner", "s1", "' OR agent_id = 'planner", "archive` OR true --"):
            hits = await db.memories.search_semantic("archive", text, limit=100)
            assert [hit.memory.agent_id for hit in hits] == ["archive"]

        with pytest.raises(NotFoundError, match="agents has no record 'nobody'"):
            await db.memories.search_semantic("nobody", COFFEE)
        assert len(await db.memories.search_semantic("planner", TRAIN, limit=100)) == 30

    async def test_changes_take_effect_at_once(self, db: Database) -> None:
        """Searches find no deleted memory, and a changed one by its current text."""
        first = await db.memories.create(agent_id="archive", label="a", content=COFFEE)
        second = await db.memories.create(agent_id="archive", label="b", content=TRAIN)
        assert len(await db.memories.search_semantic("archive", "tea")) == 2
        await db.memories.delete(first)
        await db.memories.update(second, content="Tea is at four.")
        hits = await db.memories.search_semantic("archive", "Tea is at four.")

        assert [(hit.memory.label, hit.memory.content) for hit in hits] == [("b", "Tea is at four.")]
        assert hits[0].score == pytest.approx(1, abs=1e-5)

    async def test_the_index_follows_the_order_of_the_commits(self, db: Database) -> None:
        """After concurrent changes of one memory, searches find it by its last text only."""
        made = await db.memories.create(agent_id="archive", label="a", content="start")
        await db.memories.search_semantic("archive", "start")  # loads the index, which has to follow
        await asyncio.gather(*(db.memories.update(made.id, content=f"number{n} word{n}") for n in range(12)))
        (hit,) = await db.memories.search_semantic("archive", (await db.memories.get(made.id)).content)

        assert hit.score == pytest.approx(1, abs=1e-5)

    @pytest.mark.parametrize("took_effect", [True, False])
    async def test_a_commit_with_an_unknown_result(
        self, db: Database, monkeypatch: pytest.MonkeyPatch, took_effect: bool
    ) -> None:
        """If a commit fails and may have taken effect, searches agree with the stored text."""
        made = await db.memories.create(agent_id="archive", label="a", content="zebra stripes")
        await db.memories.search_semantic("archive", "zebra")  # loads the index
        commit = db.storage.commit

        async def fail(batch: Sequence[Write]) -> None:
            if took_effect:
                await commit(batch)
            raise StorageError("the connection was cut; whether the batch took effect is not known")

        with monkeypatch.context() as cut:
            cut.setattr(db.storage, "commit", fail)
            with pytest.raises(StorageError, match="not known"):
                await db.memories.update(made, content="green tea")
        expected = "green tea" if took_effect else "zebra stripes"
        (hit,) = await db.memories.search_semantic("archive", expected)

        assert (await db.memories.get(made.id)).content == hit.memory.content == expected
        assert hit.score == pytest.approx(1, abs=1e-5)

    async def test_inactive_memories(self, db: Database) -> None:
        """Inactive memories are found only on request."""
        made = await db.memories.create(agent_id="archive", label="a", content=COFFEE)
        await db.memories.update(made, is_active=False)

        assert await db.memories.search_semantic("archive", "tea") == []
        assert len(await db.memories.search_semantic("archive", "tea", include_inactive=True)) == 1

    @pytest.mark.parametrize("matching", [0, 1, 7, 200])
    async def test_a_filter_never_costs_hits(self, db: Database, matching: int) -> None:
        """A search returns as many hits as the filter allows, best first, however few records satisfy it."""
        records = [
            {
                "agent_id": "archive",
                "label": str(n),
                "content": f"espresso number {n}" if n >= matching else f"unrelated words {n}",
                "metadata": {"wanted": n < matching},
            }
            for n in range(200)
        ]
        await db.memories.create_many(records)
        hits = await db.memories.search_semantic(
            "archive", "espresso", limit=5, where=Field("metadata")["wanted"] == True
        )

        assert len(hits) == min(5, matching)
        assert all(hit.memory.metadata["wanted"] for hit in hits)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)

    @pytest.mark.parametrize("text", ["", "  \n", 5, None])
    async def test_a_blank_query(self, db: Database, text: str) -> None:
        """A query that is blank or no text is rejected."""
        with pytest.raises(ValidationError):
            await db.memories.search_semantic("archive", text)

    @pytest.mark.parametrize("limit", [0, -1, "5", 1.5])
    async def test_an_invalid_limit(self, db: Database, limit: int) -> None:
        """A limit that is not a whole number of at least 1 is rejected."""
        with pytest.raises(ValidationError, match="limit"):
            await db.memories.search_semantic("archive", "tea", limit=limit)

    async def test_an_invalid_filter(self, db: Database) -> None:
        """An error about an unknown field suggests the closest name."""
        with pytest.raises(ValidationError, match="Did you mean 'label'"):
            await db.memories.search_semantic("archive", "tea", where=Field("lable") == "x")
        with pytest.raises(ValidationError, match="expected a filter"):
            await db.memories.search_semantic("archive", "tea", where={"label": "x"})  # type: ignore[arg-type]  # a mistake


class TestRevisions:
    async def test_a_stale_record(self, db: Database) -> None:
        """Updating or deleting a record that has changed since is a conflict; with the id, it is not."""
        old = await db.memories.create(agent_id="archive", label="a", content=COFFEE)
        new = await db.memories.update(old, content=TRAIN)
        with pytest.raises(ConflictError):
            await db.memories.update(old, content="x")
        with pytest.raises(ConflictError):
            await db.memories.delete(old)
        assert await db.memories.get(old.id) == new

        assert await db.memories.delete(old.id) == {"memory_blocks": 1}
        assert await db.memories.delete(old.id) == {}
        assert await db.memories.delete(new) == {}

    async def test_updated_at(self, db: Database) -> None:
        """An update increases `updated_at` and keeps `created_at`."""
        old = await db.memories.create(agent_id="archive", label="a", content=COFFEE)
        new = await db.memories.update(old.id, content=TRAIN)

        assert new.created_at == old.created_at
        assert new.updated_at > old.updated_at
