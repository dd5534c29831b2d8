"""One way to search memories, messages and tasks: the same arguments, with the scope by keyword."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest

from pattern_core.database import Database
from pattern_core.errors import FilterError, NotFoundError, ValidationError
from pattern_core.filters import Field
from pattern_core.repositories import MemoryRepository, MessageRepository, TaskRepository

pytestmark = pytest.mark.anyio

CLASSES: dict[str, Any] = {"memories": MemoryRepository, "messages": MessageRepository, "tasks": TaskRepository}
SCOPES = {"memories": {"agent_id"}, "messages": {"conversation_id", "agent_id"}, "tasks": {"user_id"}}


@pytest.fixture
async def filled(db: Database, people: None) -> None:
    """Three memories, messages and tasks each; one memory is inactive."""
    await db.memories.create(agent_id="archive", label="tea", content="Ada drinks tea after lunch.")
    await db.memories.create(agent_id="archive", label="roses", content="Prune the roses in March.")
    await db.memories.create(agent_id="archive", label="old", content="Ada drank tea at school.", is_active=False)
    await db.memories.create(agent_id="planner", label="tea", content="Buy more tea.")
    await db.conversations.create(user_id="ada", agent_id="archive", id="thread")
    for text in ("Tea or coffee?", "Tea, please.", "The roses need water."):
        await db.messages.create(conversation_id="thread", role="user", content=text)
    for title in ("Buy tea", "Prune the roses", "Call the bank"):
        await db.tasks.create(user_id="ada", title=title)


def scope_of(name: str) -> dict[str, str]:
    return {"memories": {"agent_id": "archive"}, "messages": {"agent_id": "archive"}, "tasks": {"user_id": "ada"}}[name]


@pytest.mark.parametrize("name", SCOPES)
def test_the_arguments_are_the_same(name: str) -> None:
    """Every search takes the text, its scope by keyword, and the same further arguments with the same defaults."""
    parameters = dict(inspect.signature(CLASSES[name].search).parameters)
    parameters.pop("self")
    scopes = {each: parameters.pop(each) for each in SCOPES[name]}

    assert all(each.kind is each.KEYWORD_ONLY for each in scopes.values())
    assert parameters.pop("text").kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert {key: each.default for key, each in parameters.items()} == {
        "limit": 10,
        "where": None,
        "min_score": None,
        "include_inactive": False,
    }
    assert all(each.kind is each.KEYWORD_ONLY for each in parameters.values())


@pytest.mark.usefixtures("filled")
class TestEverySearch:
    @pytest.mark.parametrize("name", SCOPES)
    async def test_min_score(self, db: Database, name: str) -> None:
        """`min_score` removes exactly the hits with a lower score; a hit with that score stays."""
        search, scope = getattr(db, name).search, scope_of(name)
        hits = await search("tea", **scope)
        assert len(hits) >= 2
        middle = hits[1].score

        assert await search("tea", **scope, min_score=-1.0) == hits
        assert await search("tea", **scope, min_score=middle) == [hit for hit in hits if hit.score >= middle]
        assert await search("tea", **scope, min_score=2) == []

    @pytest.mark.parametrize("name", SCOPES)
    @pytest.mark.parametrize("wrong", [math.nan, math.inf, "0.5", True])
    async def test_min_score_is_a_number(self, db: Database, name: str, wrong: Any) -> None:
        """A `min_score` that is not a finite number raises an error that names it."""
        with pytest.raises(ValidationError, match="min_score"):
            await getattr(db, name).search("tea", **scope_of(name), min_score=wrong)

    @pytest.mark.parametrize("name", SCOPES)
    async def test_limit_and_filter(self, db: Database, name: str) -> None:
        """A limit shortens the list and a filter removes hits; neither changes a score."""
        search, scope = getattr(db, name).search, scope_of(name)
        hits = await search("tea", **scope)
        others = Field("id") != hits[0].record.id

        assert await search("tea", **scope, limit=1) == hits[:1]
        assert await search("tea", **scope, where=others) == hits[1:]
        with pytest.raises(FilterError, match="no_such_field"):
            await search("tea", **scope, where=Field("no_such_field") == 1)

    @pytest.mark.parametrize("name", SCOPES)
    async def test_the_scope_must_exist(self, db: Database, name: str) -> None:
        """An unknown scope is an error, and not an empty list."""
        with pytest.raises(NotFoundError, match="nobody"):
            await getattr(db, name).search("tea", **dict.fromkeys(scope_of(name), "nobody"))

    async def test_inactive_memories(self, db: Database) -> None:
        """Inactive memories are found only on request; another agent's never are."""
        labels = [hit.record.label for hit in await db.memories.search("tea", agent_id="archive")]
        every = await db.memories.search("tea", agent_id="archive", include_inactive=True)

        assert sorted(labels) == ["roses", "tea"]
        assert sorted(hit.record.label for hit in every) == ["old", "roses", "tea"]
        assert {hit.record.agent_id for hit in every} == {"archive"}

    async def test_search_semantic_stays(self, db: Database) -> None:
        """`memories.search_semantic`, the original's name, finds the same; the others point to `search`."""
        assert await db.memories.search_semantic("archive", "tea", 2) == await db.memories.search(
            "tea", agent_id="archive", limit=2
        )
        with pytest.warns(DeprecationWarning, match=r"messages\.search"):
            assert await db.messages.search_semantic("tea", agent_id="archive")
        with pytest.warns(DeprecationWarning, match=r"tasks\.search"):
            assert await db.tasks.search_semantic("ada", "tea")
