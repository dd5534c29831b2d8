"""``pattern user`` and ``pattern agent``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

Pattern = Callable[..., CompletedProcess[str]]


def _json(answer: CompletedProcess[str]) -> Any:
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@pytest.mark.usefixtures("project")
class TestUsers:
    def test_add_and_show(self, pattern: Pattern) -> None:
        """`show` takes an id or a name, and values that are JSON are read as JSON."""
        made = _json(pattern("user", "add", "Ada", "--setting", "language=en", "--setting", "level=3", "--json"))
        assert made["settings"] == {"language": "en", "level": 3}
        assert made["metadata"] == {"name": "Ada"}

        assert _json(pattern("user", "show", "Ada", "--json")) == made
        assert _json(pattern("user", "show", made["id"], "--json")) == made
        assert "language" in pattern("user", "show", "Ada").stdout

    def test_add_in_words(self, pattern: Pattern) -> None:
        """Without --json, a sentence reports the new user."""
        assert pattern("user", "add", "Ada", "--id", "u1").stdout == "Added the user Ada (u1).\n"

    def test_list(self, pattern: Pattern) -> None:
        """`list` shows users, oldest first, page by page; a note says if there are none."""
        assert "There are none." in pattern("user", "list").stderr
        for name in ("Ada", "Bob", "Cleo"):
            pattern("user", "add", name, "--id", name.lower())

        lines = pattern("user", "list").stdout.splitlines()
        assert [line.split("\t")[:2] for line in lines] == [
            ["name", "id"],
            ["Ada", "ada"],
            ["Bob", "bob"],
            ["Cleo", "cleo"],
        ]
        page = _json(pattern("user", "list", "--limit", "2", "--json"))
        assert [each["id"] for each in page["items"]] == ["ada", "bob"]
        rest = _json(pattern("user", "list", "--limit", "2", "--cursor", page["cursor"], "--json"))
        assert [each["id"] for each in rest["items"]] == ["cleo"]
        assert rest["cursor"] is None
        assert "--cursor" in pattern("user", "list", "--limit", "2").stderr

    def test_edit(self, pattern: Pattern) -> None:
        """`edit` sets single entries, removes those that are null, and keeps the others."""
        pattern("user", "add", "Ada", "--setting", "language=en", "--setting", "level=3")

        assert "Changed" in pattern("user", "edit", "Ada", "--setting", "level=null", "--metadata", "city=Bath").stdout
        changed = _json(pattern("user", "edit", "Ada", "--setting", "language=de", "--json"))

        assert changed["settings"] == {"language": "de"}
        assert changed["metadata"] == {"name": "Ada", "city": "Bath"}

    def test_rm(self, pattern: Pattern) -> None:
        """`rm` deletes the records that belong to a user only with --cascade."""
        pattern("user", "add", "Ada")
        pattern("agent", "add", "Archive")

        refused = pattern("user", "rm", "Ada", "--yes")
        assert refused.returncode == 1
        assert "The user " in refused.stderr
        assert "still has 1 agent. Delete those first, or add --cascade" in refused.stderr
        assert "cascade=True" not in refused.stderr
        assert _json(pattern("user", "rm", "Ada", "--yes", "--cascade", "--json")) == {
            "deleted": {"users": 1, "agents": 1}
        }
        assert pattern("user", "show", "Ada").returncode == 1

    def test_name_that_exists_is_refused(self, pattern: Pattern) -> None:
        """`add` rejects a name that a user has, names that user, and adds nothing."""
        assert pattern("user", "add", "Ada", "--id", "first").returncode == 0

        by_argument = pattern("user", "add", "Ada", "--id", "second")
        by_entry = pattern("user", "add", "--metadata", "name=Ada", "--id", "second", "--json")

        assert (by_argument.returncode, by_entry.returncode) == (1, 1)
        assert "already a user with the name 'Ada': first." in by_argument.stderr
        assert "--another" in json.loads(by_entry.stderr)["error"]["message"]
        assert [each["id"] for each in _json(pattern("user", "list", "--json"))["items"]] == ["first"]
        assert _json(pattern("user", "show", "Ada", "--json"))["id"] == "first"

    def test_second_user_of_a_name(self, pattern: Pattern) -> None:
        """--another adds a second user with the same name; the name is then ambiguous, and the error lists the ids."""
        pattern("user", "add", "Ada", "--id", "first")
        assert pattern("user", "add", "Ada", "--id", "second", "--another").returncode == 0

        answer = pattern("user", "show", "Ada")

        assert answer.returncode == 1
        assert "first, second" in answer.stderr

    def test_edit_to_a_name_that_exists(self, pattern: Pattern) -> None:
        """`edit` rejects the name of another user, unless --another is given."""
        pattern("user", "add", "Ada", "--id", "first")
        pattern("user", "add", "Bob", "--id", "second")

        refused = pattern("user", "edit", "Bob", "--metadata", "name=Ada")

        assert refused.returncode == 1
        assert "already a user with the name 'Ada': first." in refused.stderr
        assert pattern("user", "edit", "Bob", "--metadata", "name=Bob", "--metadata", "city=Bath").returncode == 0
        assert pattern("user", "edit", "Bob", "--metadata", "name=Ada", "--another").returncode == 0

    @pytest.mark.parametrize("entry", ["no-separator", "=value"])
    def test_invalid_entry(self, pattern: Pattern, entry: str) -> None:
        """An entry that is not KEY=VALUE is a usage error."""
        answer = pattern("user", "add", "Ada", "--setting", entry)

        assert answer.returncode == 2
        assert "KEY=VALUE" in answer.stderr


@pytest.mark.usefixtures("project")
class TestAgents:
    def test_first_agent(self, pattern: Pattern) -> None:
        """`add` creates a user for the first agent, and uses it for the next one."""
        first = _json(pattern("agent", "add", "The Archive", "--json"))
        second = _json(pattern("agent", "add", "Scribe", "--json"))

        assert first["agent_type"] == "the-archive"
        assert first["user_id"] == second["user_id"]
        assert len(_json(pattern("user", "list", "--json"))["items"]) == 1

    def test_several_users(self, pattern: Pattern) -> None:
        """With several users, --user is required: a name or an id."""
        pattern("user", "add", "Ada", "--id", "ada")
        pattern("user", "add", "Bob", "--id", "bob")

        refused = pattern("agent", "add", "Archive")
        assert refused.returncode == 1
        assert "Name one with --user: Ada (ada), Bob (bob)" in refused.stderr
        assert _json(pattern("agent", "add", "Archive", "--user", "Bob", "--json"))["user_id"] == "bob"
        assert "Added the agent Archive of type archive" in pattern("agent", "add", "Archive", "--user", "ada").stdout
        unknown = pattern("agent", "add", "Scribe", "--user", "Adda")
        assert unknown.returncode == 1
        assert "Did you mean 'Ada'?" in unknown.stderr

    def test_no_user_without_its_agent(self, pattern: Pattern) -> None:
        """If the agent is rejected, no user is created."""
        assert pattern("agent", "add", " ", "--json").returncode == 1
        assert _json(pattern("user", "list", "--json"))["items"] == []

    def test_one_agent_of_each_type(self, pattern: Pattern) -> None:
        """A second agent of the same type is rejected, with the option that names another one."""
        pattern("agent", "add", "Archive")
        refused = pattern("agent", "add", "Archive")
        assert refused.returncode == 1
        assert "The user already has an agent of type 'archive'. --type names another type." in refused.stderr
        assert pattern("agent", "add", "Archive", "--type", "keeper").returncode == 0

    def test_prompt_from_standard_input(self, pattern: Pattern) -> None:
        """- reads the prompt from standard input."""
        made = _json(pattern("agent", "add", "Archive", "--prompt", "-", "--json", input="Zwölf\nRegeln"))

        assert made["system_prompt"] == "Zwölf\nRegeln"

    def test_list(self, pattern: Pattern) -> None:
        """`list` shows active agents, by user or type if asked; --all adds deactivated ones."""
        pattern("user", "add", "Ada", "--id", "ada")
        pattern("agent", "add", "Archive", "--user", "ada", "--id", "a1")
        pattern("agent", "add", "Scribe", "--user", "ada", "--type", "writer", "--id", "a2")
        pattern("agent", "deactivate", "Scribe")

        def ids(*options: str) -> list[str]:
            return [each["id"] for each in _json(pattern("agent", "list", *options, "--json"))["items"]]

        assert ids() == ["a1"]
        assert "With --all: 1 deactivated." in pattern("agent", "list", "--type", "writer").stderr
        assert "deactivated" not in pattern("agent", "list", "--type", "nothing").stderr
        assert ids("--all") == ["a1", "a2"]
        assert ids("--all", "--type", "writer") == ["a2"]
        assert ids("--user", "Ada") == ["a1"]
        assert pattern("agent", "list", "--all").stdout.splitlines() == [
            "name\ttype\tactive\tid",
            "Archive\tarchive\tyes\ta1",
            "Scribe\twriter\tno\ta2",
        ]

    def test_show(self, pattern: Pattern) -> None:
        """`show` takes an id, a name or a type, and counts the memories."""
        made = _json(pattern("agent", "add", "Archive", "--type", "keeper", "--json"))
        pattern("memory", "add", "keeper", "one", "text")

        for word in ("Archive", "keeper", made["id"]):
            assert _json(pattern("agent", "show", word, "--json")) == {**made, "memories": 1}
        assert "keeper" in pattern("agent", "show", "Archive").stdout

    def test_edit(self, pattern: Pattern) -> None:
        """`edit` changes the given fields, and keeps the others."""
        pattern("agent", "add", "Archive", "--state", "mood=calm", "--prompt", "Remember.", "--agent-config", "k=1")

        assert "Changed the agent Keeper" in pattern("agent", "edit", "Archive", "--name", "Keeper").stdout
        options = ("--state", 'seen=["a", 2]', "--agent-config", "k=null", "--type", "keeper", "--prompt", "-")
        changed = _json(pattern("agent", "edit", "Keeper", *options, "--json", input="New."))

        assert changed["name"] == "Keeper"
        assert changed["agent_type"] == "keeper"
        assert changed["system_prompt"] == "New."
        assert changed["state"] == {"mood": "calm", "seen": ["a", 2]}
        assert changed["config"] == {}

    def test_edit_without_changes(self, pattern: Pattern) -> None:
        """`edit` without a change is a usage error."""
        assert pattern("agent", "edit", "Archive").returncode == 2

    def test_deactivate_and_reactivate(self, pattern: Pattern) -> None:
        """An agent is deactivated and reactivated."""
        pattern("agent", "add", "Archive")

        assert pattern("agent", "deactivate", "Archive").stdout == "The agent Archive is deactivated.\n"
        assert _json(pattern("agent", "deactivate", "Archive", "--json"))["is_active"] is False
        assert pattern("agent", "reactivate", "Archive").stdout == "The agent Archive is active.\n"
        assert _json(pattern("agent", "reactivate", "Archive", "--json"))["is_active"] is True

    def test_rm(self, pattern: Pattern, archive: Path) -> None:
        """`rm` deletes an agent with memories only with --cascade, and shows the counts."""
        assert pattern("agent", "rm", "Archive", "--yes").returncode == 1
        assert pattern("agent", "rm", "Archive", "--yes", "--cascade").stdout == "Deleted: 1 agent, 3 memories.\n"

    def test_rm_asks(self, pattern: Pattern) -> None:
        """Without --yes and without a terminal, `rm` deletes nothing."""
        pattern("agent", "add", "Archive")

        refused = pattern("agent", "rm", "Archive", input="y\n")

        assert refused.returncode == 2
        assert "--yes" in refused.stderr
        assert pattern("agent", "show", "Archive").returncode == 0

    def test_unknown_agent(self, pattern: Pattern) -> None:
        """The error for an unknown agent names the nearest one; --json prints its attributes."""
        assert "pattern agent add NAME" in pattern("agent", "show", "Archive").stderr
        pattern("agent", "add", "Archive")

        answer = pattern("agent", "show", "Archve", "--json")

        assert answer.returncode == 1
        assert answer.stdout == ""
        assert json.loads(answer.stderr)["error"] == {
            "type": "NotFoundError",
            "message": "There is no agent 'Archve'. Did you mean 'Archive'? Known: Archive.",
            "table": "agents",
            "id": "Archve",
            "key": {},
        }

    def test_several_agents_of_one_name(self, pattern: Pattern) -> None:
        """The error for a name that two agents have lists their ids."""
        pattern("agent", "add", "Archive", "--id", "first")
        pattern("agent", "add", "Archive", "--id", "second", "--type", "other")

        answer = pattern("agent", "show", "Archive")

        assert answer.returncode == 1
        assert "first, second" in answer.stderr
