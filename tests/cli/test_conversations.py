"""``pattern conversation``, ``pattern message`` and ``pattern tool-call``."""

from __future__ import annotations

import json
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest

Pattern = Callable[..., CompletedProcess[str]]


def _json(answer: CompletedProcess[str]) -> Any:
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def _items(answer: CompletedProcess[str]) -> list[Any]:
    items: list[Any] = _json(answer)["items"]
    return items


@pytest.fixture(autouse=True)
def garden(archive: object, pattern: Pattern) -> None:
    """A conversation with Archive about the garden."""
    assert pattern("conversation", "add", "Archive", "--title", "The garden", "--id", "c1").returncode == 0


class TestConversations:
    def test_add_and_show(self, pattern: Pattern) -> None:
        """A conversation belongs to the agent's user by default, and is found by id and by title."""
        added = _json(pattern("conversation", "add", "Archive", "--title", "Tea", "--context", "cups=2", "--json"))

        assert added["context"] == {"cups": 2}
        assert added["user_id"] == _items(pattern("user", "list", "--json"))[0]["id"]
        assert _json(pattern("conversation", "show", "Tea", "--json")) == {**added, "messages": 0}
        assert _json(pattern("conversation", "show", added["id"], "--json")) == {**added, "messages": 0}
        assert pattern("conversation", "add", "Archive", "--id", "c9").stdout == "Added the conversation (c9).\n"

    def test_list(self, pattern: Pattern) -> None:
        """`list` shows open conversations, by agent or user if asked; --all adds the ended ones."""
        pattern("agent", "add", "Scribe")
        pattern("user", "add", "Bob")
        pattern("conversation", "add", "Scribe", "--user", "Bob", "--id", "c2")
        pattern("conversation", "end", "The garden")

        def ids(*options: str) -> list[str]:
            return [each["id"] for each in _items(pattern("conversation", "list", *options, "--json"))]

        assert ids() == ["c2"]
        assert ids("--all") == ["c1", "c2"]
        assert ids("--all", "--agent", "Archive") == ["c1"]
        assert ids("--all", "--user", "Bob") == ["c2"]
        assert ids("--all", "--where", "title=The garden") == ["c1"]
        assert "With --all: 1 ended." in pattern("conversation", "list", "--agent", "Archive").stderr

    def test_edit(self, pattern: Pattern) -> None:
        """`edit` changes the title, and the context entry by entry."""
        pattern("conversation", "edit", "The garden", "--context", "season=spring", "--context", "year=2026")

        changed = _json(pattern("conversation", "edit", "c1", "--title", "Beans", "--context", "year=null", "--json"))

        assert (changed["title"], changed["context"]) == ("Beans", {"season": "spring"})
        assert pattern("conversation", "edit", "Beans").returncode == 2

    def test_end(self, pattern: Pattern) -> None:
        """An ended conversation takes no more messages, and keeps those that it has."""
        pattern("message", "add", "The garden", "user", "When do I sow?")

        ended = _json(pattern("conversation", "end", "The garden", "--json"))
        refused = pattern("message", "add", "The garden", "user", "And now?")

        assert ended["ended_at"] is not None
        assert refused.returncode == 1
        assert "ended at" in refused.stderr
        assert len(_items(pattern("message", "list", "The garden", "--json"))) == 1

    def test_title_of_several(self, pattern: Pattern) -> None:
        """A title names the open one of several conversations; with two open ones, the error lists their ids."""
        pattern("conversation", "end", "c1")
        pattern("conversation", "add", "Archive", "--title", "The garden", "--id", "c2")
        assert _json(pattern("conversation", "show", "The garden", "--json"))["id"] == "c2"

        pattern("conversation", "add", "Archive", "--title", "The garden", "--id", "c3")
        refused = pattern("conversation", "show", "The garden")

        assert refused.returncode == 1
        assert "Give an id: c2, c3." in refused.stderr

    def test_unknown_conversation(self, pattern: Pattern) -> None:
        """The error for an unknown title names the nearest one."""
        refused = pattern("message", "list", "The gardn", "--json")

        assert refused.returncode == 1
        error = json.loads(refused.stderr)["error"]
        assert (error["type"], error["table"], error["id"]) == ("NotFoundError", "conversations", "The gardn")
        assert "Did you mean 'The garden'?" in error["message"]

    def test_rm(self, pattern: Pattern) -> None:
        """`rm` deletes a conversation with messages only with --cascade."""
        pattern("message", "add", "The garden", "user", "When do I sow?")

        assert pattern("conversation", "rm", "The garden").returncode == 2
        refused = pattern("conversation", "rm", "The garden", "--yes")
        assert refused.returncode == 1
        assert "The conversation c1 still has 1 message. Delete" in refused.stderr
        deleted = pattern("conversation", "rm", "The garden", "--yes", "--cascade")
        assert deleted.stdout == "Deleted: 1 conversation, 1 message.\n"


class TestMessages:
    def test_add_and_list(self, pattern: Pattern) -> None:
        """Messages are listed in order, page by page; --last lists the last ones, in order too."""
        for number in range(4):
            pattern("message", "add", "The garden", "user", f"Message {number}.", "--id", f"m{number}")
        added = _json(
            pattern(
                *(
                    "message",
                    "add",
                    "The garden",
                    "assistant",
                    "-",
                    "--id",
                    "m4",
                    "--metadata",
                    "model=small",
                    "--json",
                ),
                *("--tool-call", '{"name": "weather"}'),
                input="Let me see.",
            )
        )

        def ids(*options: str) -> list[str]:
            return [each["id"] for each in _items(pattern("message", "list", "The garden", *options, "--json"))]

        assert (added["content"], added["metadata"]) == ("Let me see.", {"model": "small"})
        assert added["tool_calls"] == [{"name": "weather"}]
        assert ids() == ["m0", "m1", "m2", "m3", "m4"]
        assert ids("--last", "--limit", "2") == ["m3", "m4"]
        assert ids("--where", "role=assistant") == ["m4"]
        page = _json(pattern("message", "list", "The garden", "--limit", "3", "--json"))
        assert ids("--cursor", page["cursor"]) == ["m3", "m4"]
        assert pattern("message", "list", "The garden", "--last", "--cursor", page["cursor"]).returncode == 2

    @pytest.mark.parametrize("options", [("robot", "x"), ("user", "x", "--tool-call", "3")], ids=["role", "tool call"])
    def test_invalid_message(self, pattern: Pattern, options: tuple[str, ...]) -> None:
        """`add` rejects an unknown role, and a tool call that is not a JSON object."""
        assert pattern("message", "add", "The garden", *options).returncode == 2
        assert _items(pattern("message", "list", "The garden", "--json")) == []

    def test_search(self, pattern: Pattern) -> None:
        """`search` finds messages of a conversation, or of all conversations of an agent."""
        pattern("conversation", "add", "Archive", "--title", "Travel")
        pattern("message", "add", "The garden", "user", "When do I sow the beans?")
        pattern("message", "add", "Travel", "user", "Who sells beans on the train?")

        def found(*options: str) -> set[str]:
            hits = _items(pattern("message", "search", "beans", *options, "--json"))
            return {hit["message"]["content"] for hit in hits}

        assert len(found("--agent", "Archive")) == 2
        assert found("--conversation", "Travel") == {"Who sells beans on the train?"}
        assert found("--agent", "Archive", "--where", "content~sow") == {"When do I sow the beans?"}
        assert found("--agent", "Archive", "--min-score", "0.99") == set()
        assert len(found("--agent", "Archive", "--limit", "1")) == 1
        assert "When do I sow" in pattern("message", "search", "beans", "--agent", "Archive").stdout
        for scopes in ((), ("--agent", "Archive", "--conversation", "Travel")):
            assert pattern("message", "search", "beans", *scopes).returncode == 2

    def test_edit_and_rm(self, pattern: Pattern) -> None:
        """`edit` embeds new content and keeps other metadata; `rm` deletes one message."""
        pattern("message", "add", "The garden", "user", "When do I sow?", "--id", "m1", "--metadata", "mood=calm")

        changed = _json(
            pattern("message", "edit", "m1", "--content", "Who sells umbrellas?", "--metadata", "seen=true", "--json")
        )
        assert changed["metadata"] == {"mood": "calm", "seen": True}
        found = _items(pattern("message", "search", "umbrellas", "--conversation", "The garden", "--json"))
        assert found[0]["score"] > 0.3
        assert _json(pattern("message", "show", "m1", "--json"))["content"] == "Who sells umbrellas?"
        assert pattern("message", "edit", "m1").returncode == 2

        assert pattern("message", "rm", "m1").returncode == 2
        assert pattern("message", "rm", "m1", "--yes").stdout == "Deleted: 1 message.\n"
        assert "There is no message with the id 'm1'." in pattern("message", "show", "m1").stderr


class TestToolCalls:
    def test_add_list_show(self, pattern: Pattern) -> None:
        """A tool call belongs to the conversation's agent; results may be any JSON value."""
        add = ("tool-call", "add", "The garden")
        rain = _json(
            pattern(
                *add, "weather", "--parameter", "place=London", "--result", '{"rain": true}', "--id", "t1", "--json"
            )
        )
        pattern(*add, "weather", "--error", "no network", "--duration-ms", "1200", "--id", "t2")
        pattern(*add, "dice", "--result", "6", "--id", "t3")

        def ids(*options: str) -> list[str]:
            return [each["id"] for each in _items(pattern("tool-call", "list", *options, "--json"))]

        assert (rain["parameters"], rain["result"]) == ({"place": "London"}, {"rain": True})
        assert rain["agent_id"] == _json(pattern("agent", "show", "Archive", "--json"))["id"]
        assert ids() == ["t1", "t2", "t3"]
        assert ids("--tool", "weather", "--where", "duration_ms>1000") == ["t2"]
        assert ids("--agent", "Archive", "--conversation", "The garden", "--limit", "1") == ["t1"]
        assert ids("--where", "error!=null") == ["t2"]
        assert _json(pattern("tool-call", "show", "t3", "--json"))["result"] == 6
        assert "no network" in pattern("tool-call", "list").stdout
        assert "There is no tool call with the id 't4'." in pattern("tool-call", "show", "t4").stderr
