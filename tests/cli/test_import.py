"""``pattern memory import``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

LIMITED = """
import attrs
from pattern_core.embedding import hashing
from pattern_core.hookspecs import EmbeddingSpec, hookimpl

@attrs.frozen
class Options:
    limit: int
    fails_at: int = 1_000_000

class Limited(hashing.HashingEmbedder):
    def __init__(self, options):
        super().__init__(hashing.HashingOptions())
        self.limit = options.limit
        self.left = options.fails_at

    async def embed_documents(self, texts):
        self.left -= len(texts)
        if self.left < 0:
            raise ValueError("the model has gone away")
        return await super().embed_documents(texts)

    @property
    def signature(self):
        return attrs.evolve(super().signature, provider="limited", max_tokens=self.limit)

    async def count_tokens(self, texts):
        return [len(text.split()) for text in texts]

async def connect(options):
    return Limited(options)

@hookimpl
def pattern_embeddings():
    return EmbeddingSpec(options=Options, open=connect, cached=False)
"""

Pattern = Callable[..., CompletedProcess[str]]

NOTES = """# Travel

The night train to Vienna leaves at nine.

## Luggage

Two bags and the umbrella.

# Garden

Prune the roses in March.
"""


def _json(answer: CompletedProcess[str]) -> Any:
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@pytest.fixture
def agent(project: Path, pattern: Pattern) -> Path:
    """Return a project with the agent Archive, without memories."""
    assert pattern("agent", "add", "Archive").returncode == 0
    return project


@pytest.fixture
def limited(agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project whose model has a token limit of eight words."""
    about = tmp_path / "site" / "third_limited-1.0.dist-info"
    about.mkdir(parents=True)
    (tmp_path / "site" / "third_limited.py").write_text(LIMITED, encoding="utf-8")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: third-limited\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text("[pattern_core]\nlimited = third_limited\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    text = '[database]\npath = "./limited.db"\n\n[embeddings]\nprovider = "limited"\nlimit = 8\n'
    (agent / "pattern.toml").write_text(text, encoding="utf-8")
    return agent


def _memories(pattern: Pattern) -> dict[str, str]:
    page = _json(pattern("memory", "list", "Archive", "--limit", "10000", "--json"))
    return {each["label"]: each["content"] for each in page["items"]}


def _import(pattern: Pattern, *args: str, **given: str) -> Any:
    return _json(pattern("memory", "import", "Archive", *args, "--json", **given))


def _counts(**counts: int) -> dict[str, int]:
    return {"added": 0, "changed": 0, "unchanged": 0, "older": 0, "pruned": 0} | counts


def test_markdown(agent: Path, pattern: Pattern) -> None:
    """A Markdown file becomes memories, labeled by file and section, and searches find them."""
    (agent / "notes.md").write_text(NOTES, encoding="utf-8")

    counts = _import(pattern, "notes.md")

    memories = _memories(pattern)
    assert counts == _counts(added=len(memories))
    assert all(label.startswith("notes.md: ") for label in memories)
    for sentence in (
        "The night train to Vienna leaves at nine.",
        "Two bags and the umbrella.",
        "Prune the roses in March.",
    ):
        assert sum(sentence in content for content in memories.values()) == 1
    assert "Luggage" in next(label for label, content in memories.items() if "umbrella" in content)
    hit = _json(pattern("search", "Archive", "pruning roses", "--limit", "1", "--json"))["items"][0]
    assert "Prune the roses" in hit["memory"]["content"]


def test_import_again(agent: Path, pattern: Pattern) -> None:
    """A second import of a file writes only what has changed."""
    file = agent / "notes.md"
    file.write_text(NOTES, encoding="utf-8")
    first = _import(pattern, "notes.md")
    before = _json(pattern("memory", "list", "Archive", "--json"))

    assert _import(pattern, "notes.md") == _counts(unchanged=first["added"])
    assert _json(pattern("memory", "list", "Archive", "--json")) == before

    file.write_text(NOTES.replace("nine", "ten") + "\n# New\n\nSomething else.\n", encoding="utf-8")
    assert _import(pattern, "notes.md") == _counts(added=1, changed=1, unchanged=first["added"] - 1)
    assert any("leaves at ten" in content for content in _memories(pattern).values())


def test_model_fails_midway(limited: Path, pattern: Pattern) -> None:
    """If the model fails, the error says what was imported. Another import completes it, without duplicates."""
    assert pattern("agent", "add", "Archive").returncode == 0
    blocks = [f"Paragraph number {n}." for n in range(150)]
    (limited / "long.txt").write_text("\n\n".join(blocks), encoding="utf-8")
    settings = (limited / "pattern.toml").read_text(encoding="utf-8")
    (limited / "pattern.toml").write_text(f"{settings}fails_at = 100\n", encoding="utf-8")

    failed = pattern("memory", "import", "Archive", "long.txt", "--max-chars", "40")
    assert failed.returncode == 1
    assert "the model has gone away" in failed.stderr
    there = _memories(pattern)
    assert 0 < len(there) < 100
    assert f"Before that, the first {len(there)} of " in failed.stderr
    assert f"({len(there)} added, 0 changed, 0 unchanged)" in failed.stderr

    (limited / "pattern.toml").write_text(settings, encoding="utf-8")
    counts = _import(pattern, "long.txt", "--max-chars", "40")
    assert counts["unchanged"] == len(there)
    memories = _memories(pattern)
    assert len(memories) == counts["added"] + counts["unchanged"]
    assert sorted("\n\n".join(memories.values()).split("\n\n")) == sorted(blocks)


def test_files_with_the_same_name(agent: Path, pattern: Pattern) -> None:
    """Files with the same name in several folders stay apart, also when they are imported again."""
    for folder in ("a", "b", "c/b"):
        (agent / folder).mkdir(parents=True)
        (agent / folder / "README.md").write_text(f"# Title\n\nThis is {folder}.\n", encoding="utf-8")

    assert _import(pattern, "a/README.md") == _counts(added=1)
    answer = pattern("memory", "import", "Archive", "b/README.md")
    assert "1 added" in answer.stdout
    assert 'begin with "b/README.md"' in answer.stderr
    assert _import(pattern, "c/../c/b/README.md") == _counts(added=1)

    memories = _memories(pattern)
    assert {label.partition(":")[0] for label in memories} == {"README.md", "b/README.md", "c/b/README.md"}
    assert "This is c/b." in memories["c/b/README.md: Title"]
    sources = [each["metadata"]["source"] for each in _json(pattern("memory", "list", "Archive", "--json"))["items"]]
    assert sources == [str(agent / folder / "README.md") for folder in ("a", "b", "c/b")]

    pattern("memory", "rm", "Archive", "README.md: Title", "--yes")
    for file in ("b/README.md", str(agent / "c" / "b" / "README.md")):
        assert _import(pattern, file) == _counts(unchanged=1)


def test_files_with_the_same_prefix(agent: Path, pattern: Pattern) -> None:
    """A prefix that another file has is followed by the file's name; standard input needs another prefix."""
    (agent / "one.txt").write_text("The same beginning.", encoding="utf-8")
    (agent / "two.txt").write_text("The same beginning.", encoding="utf-8")

    for prefix in ("mine", ""):
        assert _import(pattern, "one.txt", "--prefix", prefix) == _counts(added=1, older=int(not prefix))
        assert _import(pattern, "two.txt", "--prefix", prefix) == _counts(added=1, older=int(not prefix))
        assert _import(pattern, "two.txt", "--prefix", prefix) == _counts(unchanged=1, older=int(not prefix))
    refused = pattern("memory", "import", "Archive", "-", "--prefix", "mine", input="The same beginning.")

    assert refused.returncode == 2
    assert "--prefix" in refused.stderr
    starts = [label.rpartition("The")[0] for label in _memories(pattern)]
    assert starts == ["mine: ", "mine/two.txt: ", "", "two.txt: "]


def test_prune(agent: Path, pattern: Pattern) -> None:
    """Memories of removed sections remain and are counted, until --prune deletes them, and nothing else."""
    file = agent / "notes.md"
    file.write_text(NOTES, encoding="utf-8")
    (agent / "other.md").write_text(NOTES, encoding="utf-8")
    first = _import(pattern, "notes.md")
    _import(pattern, "other.md")
    pattern("memory", "add", "Archive", "notes.md: by hand", "Not from the file.")
    file.write_text("# Garden\n\nPrune the roses in March.\n", encoding="utf-8")
    gone = first["added"] - 1

    kept = pattern("memory", "import", "Archive", "notes.md").stdout
    assert f"; {gone} older ones remain (--prune deletes them)." in kept
    assert _json(pattern("search", "Archive", "night train to Vienna", "--json"))["items"][0]["score"] > 0.3

    pruned = pattern("memory", "import", "Archive", "notes.md", "--prune").stdout
    assert f"; {gone} older ones were deleted." in pruned
    assert _import(pattern, "notes.md", "--prune") == _counts(unchanged=1)
    labels = set(_memories(pattern))
    assert {label for label in labels if label.startswith("notes.md: ")} == {"notes.md: Garden", "notes.md: by hand"}
    assert len(labels) == 2 + first["added"]


def test_other_metadata_remain(agent: Path, pattern: Pattern) -> None:
    """Other metadata of an imported memory remain when it is imported again."""
    (agent / "notes.txt").write_text("One thought.", encoding="utf-8")
    pattern("memory", "add", "Archive", "notes.txt: One thought.", "An older thought.", "--metadata", "mood=calm")

    assert _import(pattern, "notes.txt") == _counts(changed=1)
    pattern("memory", "edit", "Archive", "notes.txt: One thought.", "--metadata", "seen=true")
    assert _import(pattern, "notes.txt") == _counts(unchanged=1)

    metadata = _json(pattern("memory", "show", "Archive", "notes.txt: One thought.", "--json"))["metadata"]
    assert metadata == {"mood": "calm", "seen": True, "source": str(agent / "notes.txt")}


def test_long_file(agent: Path, pattern: Pattern) -> None:
    """A long file is written in several batches, and every paragraph is imported."""
    facts = [f"Fact number {number} is about the thing called thing{number}." for number in range(200)]
    (agent / "facts.txt").write_text("\n\n".join(facts), encoding="utf-8")

    counts = _import(pattern, "facts.txt", "--max-chars", "60")

    memories = _memories(pattern)
    assert counts["added"] == len(memories) >= 200
    everything = "\n".join(memories.values())
    assert [fact for fact in facts if fact not in everything] == []


def test_standard_input(agent: Path, pattern: Pattern) -> None:
    """- reads standard input; --markdown and --prefix describe it."""
    answer = pattern("memory", "import", "Archive", "-", "--markdown", "--prefix", "mine", input=NOTES)

    assert answer.returncode == 0
    assert answer.stdout.startswith("Imported - into Archive: ")
    assert " added, 0 changed, 0 unchanged." in answer.stdout
    assert all(label.startswith("mine: ") for label in _memories(pattern))
    _import(pattern, "-", input="Another thought.")
    assert any(label.startswith("stdin: ") for label in _memories(pattern))


def test_empty_file(agent: Path, pattern: Pattern) -> None:
    """An empty file adds nothing, and is no error."""
    (agent / "empty.txt").write_text(" \n", encoding="utf-8")

    assert _import(pattern, "empty.txt") == _counts()


def test_invalid_input(agent: Path, pattern: Pattern) -> None:
    """A missing file, a folder without texts, bytes that are not text, an unknown agent: clear errors, nothing written."""
    (agent / "latin.txt").write_bytes(b"caf\xe9")
    (agent / "notes.md").write_text(NOTES, encoding="utf-8")

    assert pattern("memory", "import", "Archive", "nowhere.txt").returncode == 2
    assert pattern("memory", "import", "Archive", ".").returncode == 2
    refused = pattern("memory", "import", "Archive", "latin.txt")
    assert refused.returncode == 2
    assert "UTF-8" in refused.stderr
    assert pattern("memory", "import", "Nobody", "notes.md").returncode == 1
    assert _memories(pattern) == {}


def test_many_files_and_folders(agent: Path, pattern: Pattern) -> None:
    """Files and folders are imported together, each file once; a folder stands for its text and Markdown files."""
    for name, text in {
        "notes/b.md": "# B\n\nThe second.\n",
        "notes/a.txt": "The first.",
        "notes/deep/c.MD": "# C\n\nThe third.\n",
        "notes/.hidden/d.md": "Hidden.",
        "notes/e.csv": "no,text",
        "f.md": "# F\n\nThe fourth.\n",
    }.items():
        (agent / name).parent.mkdir(parents=True, exist_ok=True)
        (agent / name).write_text(text, encoding="utf-8")

    counts = _import(pattern, "notes", "f.md", "notes/b.md")

    assert counts == {"files": 4, **_counts(added=4)}
    assert [label.partition(":")[0] for label in _memories(pattern)] == ["a.txt", "b.md", "c.MD", "f.md"]
    again = pattern("memory", "import", "Archive", "f.md", "notes")
    assert again.stdout == "Imported 4 files into Archive: 0 added, 0 changed, 4 unchanged.\n"
    (agent / "notes" / "b.md").write_text("# B\n\nChanged.\n# New\n\nMore.\n", encoding="utf-8")
    (agent / "f.md").write_text("# G\n\nThe fifth.\n", encoding="utf-8")
    assert _import(pattern, "notes", "f.md", "--prune") == {
        "files": 4,
        **_counts(added=2, changed=1, unchanged=2, older=1, pruned=1),
    }


def test_many_files_under_one_prefix(agent: Path, pattern: Pattern) -> None:
    """With several files, --prefix comes before each file's name."""
    (agent / "one.txt").write_text("One.", encoding="utf-8")
    (agent / "two.txt").write_text("Two.", encoding="utf-8")

    _import(pattern, "one.txt", "two.txt", "--prefix", "mine")

    assert list(_memories(pattern)) == ["mine/one.txt: One.", "mine/two.txt: Two."]
    assert _import(pattern, "one.txt", "two.txt", "--prefix", "mine") == {"files": 2, **_counts(unchanged=2)}


def test_one_of_many_files_fails(limited: Path, pattern: Pattern) -> None:
    """The error names the file and how many were imported; nothing of that file is written; another import continues."""
    pattern("agent", "add", "Archive")
    for name in ("a", "b", "c"):
        (limited / f"{name}.txt").write_text(f"First {name}.\n\nSecond {name}.", encoding="utf-8")
    settings = (limited / "pattern.toml").read_text(encoding="utf-8")
    (limited / "pattern.toml").write_text(f"{settings}fails_at = 1\n", encoding="utf-8")

    failed = pattern("memory", "import", "Archive", "a.txt", "b.txt", "c.txt", "--max-chars", "40")

    assert failed.returncode == 1
    assert failed.stderr.startswith("Error: b.txt: ")
    assert "1 of 3 files are imported." in failed.stderr
    assert {label.partition(":")[0] for label in _memories(pattern)} == {"a.txt"}
    (limited / "pattern.toml").write_text(settings, encoding="utf-8")
    counts = _import(pattern, "a.txt", "b.txt", "c.txt", "--max-chars", "40")
    assert counts["unchanged"] >= 1
    assert {label.partition(":")[0] for label in _memories(pattern)} == {"a.txt", "b.txt", "c.txt"}


def test_many_files_that_cannot_be_read(agent: Path, pattern: Pattern) -> None:
    """One file that cannot be read, a folder without texts, or standard input among files: nothing is imported."""
    (agent / "good.txt").write_text("Good.", encoding="utf-8")
    (agent / "latin.txt").write_bytes(b"caf\xe9")
    (agent / "empty").mkdir()

    for files, message in {
        ("good.txt", "latin.txt"): "latin.txt is not UTF-8 text (byte 3)",
        ("good.txt", "empty"): "empty has no text or Markdown files",
        ("good.txt", "-"): "Standard input (-) cannot be imported together with files",
        ("good.txt", "nowhere.txt"): "'nowhere.txt' does not exist",
    }.items():
        refused = pattern("memory", "import", "Archive", *files)
        assert refused.returncode == 2
        assert message in refused.stderr
    assert _memories(pattern) == {}


def test_hostile_texts(agent: Path, pattern: Pattern) -> None:
    """Quotes, markup, emoji, a byte order mark and a megabyte without a line break are imported unchanged."""
    odd = 'It\'s `quoted` "text" ⟩ with 🎉 and [bold]markup[/bold].'
    (agent / "odd.txt").write_text(f"\ufeff{odd}", encoding="utf-8")
    (agent / "big.txt").write_text("word" * 250_000, encoding="utf-8")

    assert _import(pattern, "odd.txt")["added"] == 1
    assert list(_memories(pattern).values()) == [odd]
    assert _import(pattern, "big.txt", "--max-chars", "4000")["added"] >= 250
    assert sum(len(content) for content in _memories(pattern).values()) == len(odd) + 1_000_000


def test_section_over_the_token_limit(limited: Path, pattern: Pattern) -> None:
    """A section over the token limit is split further; its parts are numbered, and a second import changes none."""
    pattern("agent", "add", "Archive")
    words = [f"word{number}" for number in range(30)]
    (limited / "notes.md").write_text(f"# Short\n\nOne line.\n\n# Long\n\n{' '.join(words)}\n", encoding="utf-8")

    counts = _import(pattern, "notes.md")

    memories = _memories(pattern)
    parts = [label for label in memories if label.startswith("notes.md: Long [")]
    assert all(len(content.split()) <= 8 for content in memories.values())
    assert len(parts) == len(memories) - 1 == counts["added"] - 1 >= 4
    assert set(words) <= set(" ".join(memories.values()).split())
    assert _import(pattern, "notes.md") == _counts(unchanged=counts["added"])


def test_truncation_is_configured(limited: Path, pattern: Pattern) -> None:
    """If the configuration allows truncated texts, long texts are not split."""
    file = limited / "pattern.toml"
    file.write_text(f'{file.read_text(encoding="utf-8")}overflow = "truncate"\n', encoding="utf-8")
    pattern("agent", "add", "Archive")
    (limited / "long.txt").write_text("word " * 30, encoding="utf-8")

    assert _import(pattern, "long.txt")["added"] == 1


def test_word_over_the_token_limit(limited: Path, pattern: Pattern) -> None:
    """A text over the token limit that cannot be split is rejected."""
    file = limited / "pattern.toml"
    file.write_text(file.read_text(encoding="utf-8").replace("limit = 8", "limit = 0"), encoding="utf-8")
    pattern("agent", "add", "Archive")
    (limited / "word.txt").write_text("w", encoding="utf-8")

    refused = pattern("memory", "import", "Archive", "word.txt", "--json")

    assert refused.returncode == 1
    assert json.loads(refused.stderr)["error"]["type"] == "TextTooLongError"
    assert _memories(pattern) == {}
