"""``pattern memory`` and ``pattern search``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

Pattern = Callable[..., CompletedProcess[str]]

COFFEE = "Ada drinks one espresso before ten and tea after lunch."


def _json(answer: CompletedProcess[str]) -> Any:
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@pytest.mark.usefixtures("archive")
class TestMemories:
    def test_add(self, pattern: Pattern) -> None:
        """`add` sets every field, and a search finds the memory."""
        options = ("--description", "for the train", "--metadata", "source=diary", "--id", "m1")
        made = _json(pattern("memory", "add", "Archive", "tunnel", "The Gotthard tunnel is dark.", *options, "--json"))

        assert (made["id"], made["label"], made["description"]) == ("m1", "tunnel", "for the train")
        assert made["metadata"] == {"source": "diary"}
        assert "embedding" not in made
        assert _json(pattern("search", "Archive", "gotthard tunnel", "--json"))["items"][0]["memory"]["id"] == "m1"

    def test_add_from_standard_input(self, pattern: Pattern) -> None:
        """- reads the content from standard input, with its line breaks."""
        assert pattern("memory", "add", "Archive", "poem", "-", input="Über allen Gipfeln\nist Ruh").returncode == 0
        assert _json(pattern("memory", "show", "Archive", "poem", "--json"))["content"] == "Über allen Gipfeln\nist Ruh"

    def test_label_that_exists(self, pattern: Pattern) -> None:
        """`add` rejects a label that exists, and the memory does not change."""
        refused = pattern("memory", "add", "Archive", "coffee", "Something else.")

        assert refused.returncode == 1
        assert "already has a memory labeled 'coffee'. `pattern memory edit`" in refused.stderr
        assert _json(pattern("memory", "show", "Archive", "coffee", "--json"))["content"] == COFFEE

    def test_list(self, pattern: Pattern) -> None:
        """`list` shows memories, oldest first, page by page; --all adds inactive ones."""
        pattern("memory", "edit", "Archive", "garden", "--inactive")

        lines = [line.split("\t") for line in pattern("memory", "list", "Archive").stdout.splitlines()]
        assert [line[0] for line in lines] == ["label", "coffee", "train"]
        assert lines[1][1] == COFFEE
        page = _json(pattern("memory", "list", "Archive", "--all", "--limit", "2", "--json"))
        assert [each["label"] for each in page["items"]] == ["coffee", "garden"]
        rest = _json(pattern("memory", "list", "Archive", "--all", "--cursor", page["cursor"], "--json"))
        assert [each["label"] for each in rest["items"]] == ["train"]

    def test_show(self, pattern: Pattern) -> None:
        """`show` takes an id, or an agent and a label."""
        shown = _json(pattern("memory", "show", "Archive", "coffee", "--json"))

        assert _json(pattern("memory", "show", shown["id"], "--json")) == shown
        assert f"content\t{COFFEE}" in pattern("memory", "show", "Archive", "coffee").stdout.splitlines()

    def test_unknown_memory(self, pattern: Pattern) -> None:
        """The error for an unknown label names the nearest one. A label or an agent alone is not enough."""
        misspelt = pattern("memory", "show", "Archive", "coffe")
        unknown = pattern("memory", "edit", "Archive", "xyz", "--label", "abc")
        alone = pattern("memory", "show", "Archive", "--json")

        assert (misspelt.returncode, unknown.returncode, alone.returncode) == (1, 1, 1)
        assert "Archive has no memory labeled 'coffe'. Did you mean 'coffee'?" in misspelt.stderr
        assert "`pattern memory list Archive` shows the labels" in unknown.stderr
        error = json.loads(alone.stderr)["error"]
        assert (error["type"], error["table"], error["id"]) == ("NotFoundError", "memory_blocks", "Archive")
        assert "AGENT LABEL" in error["message"]

    def test_deactivated_agent(self, pattern: Pattern) -> None:
        """A deactivated agent can be used, and a note beside the result says that it is deactivated."""
        pattern("agent", "deactivate", "Archive")

        for verb in (("memory", "add", "Archive", "new", "Something new."), ("search", "Archive", "espresso")):
            answer = pattern(*verb)
            assert answer.returncode == 0
            assert "The agent Archive is deactivated" in answer.stderr
            assert "deactivated" not in answer.stdout
        pattern("agent", "reactivate", "Archive")
        assert "deactivated" not in pattern("search", "Archive", "espresso").stderr

    def test_show_into_a_pipe(self, pattern: Pattern) -> None:
        """In a pipe, `show` keeps the line breaks of a content."""
        pattern("memory", "add", "Archive", "poem", "-", "--metadata", 'by={"name": "Goethe"}', input="Über\n\n  Ruh")

        shown = pattern("memory", "show", "Archive", "poem").stdout
        assert "content\tÜber\n\n  Ruh\n" in shown
        assert 'metadata\t{"by": {"name": "Goethe"}}\n' in shown

    def test_edit(self, pattern: Pattern) -> None:
        """`edit` embeds new content, and keeps the fields that are not given."""
        pattern("memory", "edit", "Archive", "coffee", "--metadata", "source=diary")
        changed = _json(pattern("memory", "edit", "Archive", "coffee", "--content", "-", "--json", input="Only cocoa."))
        assert changed["metadata"] == {"source": "diary"}
        assert changed["revision"] == 3
        assert _json(pattern("search", "Archive", "cocoa", "--json"))["items"][0]["memory"]["label"] == "coffee"

        options = ("--label", "drinks", "--description", "what she drinks")
        assert pattern("memory", "edit", "Archive", "coffee", *options).stdout == f"Changed drinks ({changed['id']}).\n"
        assert _json(pattern("memory", "show", "Archive", "drinks", "--json"))["description"] == "what she drinks"

    def test_edit_without_changes(self, pattern: Pattern) -> None:
        """`edit` without a change is a usage error."""
        assert pattern("memory", "edit", "Archive", "coffee").returncode == 2

    def test_rm(self, pattern: Pattern) -> None:
        """`rm --yes` deletes a memory, and searches no longer find it."""
        assert pattern("memory", "rm", "Archive", "coffee").returncode == 2
        assert pattern("memory", "rm", "Archive", "coffee", "--yes").stdout == "Deleted: 1 memory.\n"
        assert _json(pattern("memory", "rm", "Archive", "train", "--yes", "--json")) == {
            "deleted": {"memory_blocks": 1}
        }
        found = _json(pattern("search", "Archive", "espresso", "--json"))["items"]
        assert [hit["memory"]["label"] for hit in found] == ["garden"]

    def test_search(self, pattern: Pattern) -> None:
        """Hits are sorted by score, shown with three decimals; a note gives the time and says whether they are exact."""
        answer = pattern("search", "Archive", "when do I prune roses?")

        lines = [line.split("\t") for line in answer.stdout.splitlines()]
        assert lines[0] == ["score", "label", "content"]
        assert lines[1][1] == "garden"
        scores = [line[0] for line in lines[1:]]
        assert all(len(score.partition(".")[2]) == 3 for score in scores)
        assert [float(score) for score in scores] == sorted(map(float, scores), reverse=True)
        assert "3 found in" in answer.stderr
        assert "(exact)" in answer.stderr

    def test_search_as_json(self, pattern: Pattern) -> None:
        """--json prints the full scores."""
        found = _json(pattern("search", "Archive", "espresso", "--limit", "2", "--json"))

        assert len(found["items"]) == 2
        assert found["items"][0]["memory"]["content"] == COFFEE
        assert found["items"][0]["exact"] is True
        assert 0 < found["items"][0]["score"] <= 1
        assert found["milliseconds"] > 0

    def test_search_skips_inactive_memories(self, pattern: Pattern) -> None:
        """A search finds an inactive memory only with --all."""
        pattern("memory", "edit", "Archive", "coffee", "--inactive")

        def labels(*options: str) -> list[str]:
            found = _json(pattern("search", "Archive", "espresso", *options, "--json"))
            return [hit["memory"]["label"] for hit in found["items"]]

        assert "coffee" not in labels()
        assert labels("--all")[0] == "coffee"

    def test_search_of_another_agent(self, pattern: Pattern) -> None:
        """A search does not find another agent's memories."""
        pattern("agent", "add", "Scribe")

        answer = pattern("search", "Scribe", COFFEE)

        assert answer.returncode == 0
        assert "has no memories yet" in answer.stderr
        assert "espresso" not in answer.stdout

    @pytest.mark.parametrize("text", ["", "  "])
    def test_search_for_blank_text(self, pattern: Pattern, text: str) -> None:
        """A blank text is rejected."""
        answer = pattern("search", "Archive", text, "--json")

        assert answer.returncode == 1
        assert json.loads(answer.stderr)["error"]["type"] == "ValidationError"

    def test_hostile_texts(self, pattern: Pattern, archive: Path) -> None:
        """Any text is stored unchanged, and cannot command the terminal."""
        hostile = "\x1b[31m`red`\x07 'quoted' ⟩ [bold]x[/bold] 🎉 \\ \t\r\n end"
        pattern("memory", "add", "Archive", hostile, hostile)

        assert _json(pattern("memory", "show", "Archive", hostile, "--json"))["content"] == hostile
        shown = pattern("memory", "show", "Archive", hostile).stdout
        assert "\x1b" not in shown
        assert "\\x1b[31m`red`\\x07" in shown
        assert "[bold]x[/bold] 🎉" in shown


def test_list_needs_no_model(archive: Path, pattern: Pattern) -> None:
    """Verbs that embed nothing work with a model that cannot be used."""
    file = archive / "pattern.toml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"hashing"', '"hashing"\ndimensions = 512'), encoding="utf-8")

    assert pattern("memory", "list", "Archive").returncode == 0
    assert pattern("agent", "show", "Archive").returncode == 0
    refused = pattern("search", "Archive", "espresso", "--json")
    assert refused.returncode == 1
    assert json.loads(refused.stderr)["error"]["type"] == "SignatureMismatchError"
