"""``pattern reembed``: another model for an existing database."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

Pattern = Callable[..., CompletedProcess[str]]

LIMITED = """
import attrs
from pattern_core.hookspecs import EmbeddingSpec, hookimpl
from pattern_core.testing import LetterEmbedder

@attrs.frozen
class Options:
    model: str = "pairs"
    limit: int = 300
    fails_after: int = 1_000_000

class Limited(LetterEmbedder):
    def __init__(self, options):
        self.options = options
        self.left = options.fails_after

    @property
    def signature(self):
        return attrs.evolve(super().signature, provider="limited", model=self.options.model, max_tokens=self.options.limit)

    @property
    def max_batch(self):
        return 1

    async def embed_documents(self, texts):
        self.left -= 1
        if self.left < 0:
            raise ValueError("the service is gone")
        return await super().embed_documents(texts)

async def connect(options):
    return Limited(options)

@hookimpl
def pattern_embeddings():
    return EmbeddingSpec(options=Options, open=connect, cached=False)
"""


def configure(project: Path, **embeddings: Any) -> None:
    """Name another model in the configuration."""
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in embeddings.items())
    text = f'[database]\ntype = "surreal-embedded"\npath = "./pattern.db"\n\n[embeddings]\n{lines}\n'
    (project / "pattern.toml").write_text(text, encoding="utf-8")


def answer(said: CompletedProcess[str]) -> Any:
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


@pytest.fixture
def limited(archive: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project with memories, with the plugin ``limited`` installed."""
    plugins = archive.parent / "plugins"
    info = plugins / "limited-1.0.dist-info"
    info.mkdir(parents=True)
    (plugins / "limited_plugin.py").write_text(LIMITED, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: limited\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[pattern_core]\nlimited = limited_plugin\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(plugins))
    return archive


class TestChange:
    def test_to_another_model_and_back(self, pattern: Pattern, archive: Path) -> None:
        """Plan, run, status, rollback and drop: each step says what it did and what comes next."""
        configure(archive, provider="hashing", dimensions=128)
        refused = pattern("search", "Archive", "train")
        assert refused.returncode == 1
        assert "pattern reembed run" in refused.stderr
        assert "pattern reembed run" in pattern("status").stderr

        planned = answer(pattern("reembed", "plan", "--json"))
        assert (planned["records"], planned["done"], planned["needed"], planned["cost"]) == (3, 0, True, None)
        assert planned["target"]["dimensions"] == 128
        assert planned["tokens"] > 10

        done = pattern("reembed", "run")
        assert done.returncode == 0
        assert "(128 dimensions, revision 1) is in use now. 3 records were embedded." in done.stdout
        assert "reembed drop" in done.stderr
        assert "train" in pattern("search", "Archive", "the train to Vienna", "--limit", "1").stdout
        states = {each["number"]: (each["state"], each["vectors"]) for each in self._items(pattern)}
        assert states == {1: ("retired", 3), 2: ("active", 3)}
        assert "Nothing to do" in pattern("reembed", "run").stdout
        assert "nothing to do" in pattern("reembed", "plan").stderr

        assert pattern("memory", "add", "Archive", "boat", "The boat leaves at six.").returncode == 0
        lost = pattern("reembed", "rollback")
        assert lost.returncode == 2
        assert "name hashing lexical (1024 dimensions" in lost.stderr
        configure(archive, provider="hashing")
        back = answer(pattern("reembed", "rollback", "--json"))
        assert back == {"switched": True, "generation": 1, "embedded": 1}
        assert "boat" in pattern("search", "Archive", "the boat", "--limit", "1").stdout

        assert pattern("reembed", "drop").returncode == 2
        assert answer(pattern("reembed", "drop", "--yes", "--json")) == {"dropped": [2]}
        assert "Nothing to remove" in pattern("reembed", "drop").stdout
        assert [each["number"] for each in self._items(pattern)] == [1]
        assert "no vectors of a previous model" in pattern("reembed", "rollback").stderr
        assert answer(pattern("reembed", "run", "--again", "--json"))["generation"] == 3

    def test_same_model_again(self, pattern: Pattern, archive: Path) -> None:
        """After `run --again` there is no way back, so neither the note nor `rollback` names one."""
        again = pattern("reembed", "run", "--again")

        assert "reembed drop" in again.stderr
        assert "rollback" not in again.stderr
        refused = pattern("reembed", "rollback")
        assert refused.returncode == 2
        assert "The kept vectors are of the model in use. `pattern reembed drop` removes them." in refused.stderr
        configure(archive, provider="hashing", dimensions=128)
        changed = pattern("reembed", "run")
        assert "`pattern reembed rollback` goes back to them" in changed.stderr
        configure(archive, provider="hashing")
        assert answer(pattern("reembed", "rollback", "--json"))["switched"] is True

    def test_cost(self, pattern: Pattern, limited: Path) -> None:
        """With a configured price, `plan` shows the cost; a note counts the texts over the token limit."""
        configure(limited, provider="limited", limit=45, price_per_million_tokens=1_000_000)
        planned = answer(pattern("reembed", "plan", "--json"))
        assert planned["cost"] == planned["tokens"] > 100
        assert planned["too_long"] == 2
        said = pattern("reembed", "plan")
        assert f"cost\tabout {planned['cost']:,.2f}" in said.stdout
        assert "About 2 records are over the token limit of pairs" in said.stderr

    def test_long_texts(self, pattern: Pattern, limited: Path) -> None:
        """`status` counts truncated and chunked texts; a search shows the chunk that it found."""
        configure(limited, provider="limited", limit=45)
        refused = pattern("reembed", "run")
        assert refused.returncode == 1
        assert 'overflow = "chunk"' in refused.stderr

        configure(limited, provider="limited", limit=45, overflow="chunk")
        assert pattern("reembed", "run").returncode == 0
        assert "long texts\t2 in chunks" in pattern("status").stdout
        found = answer(pattern("search", "Archive", "at nine from platform four.", "--limit", "1", "--json"))["items"][
            0
        ]
        assert found["passage"] in found["memory"]["content"]
        assert "platform four" in found["passage"]
        shown = pattern("search", "Archive", "at nine from platform four.", "--limit", "1").stdout
        assert found["passage"] in shown
        assert "The night train" not in shown

        configure(limited, provider="limited", limit=45, overflow="truncate")
        assert pattern("reembed", "run", "--again").returncode == 0
        assert "long texts\t2 truncated" in pattern("status").stdout
        assert answer(pattern("status", "--json"))["vectors"]["truncated"]["memory_blocks"] == 2

    def test_interrupted_run(self, pattern: Pattern, limited: Path) -> None:
        """After a failure the previous model is in use, and `resume` continues the run."""
        assert "No run was interrupted" in pattern("reembed", "resume").stderr
        configure(limited, provider="limited", fails_after=0)
        failed = pattern("reembed", "run")
        assert failed.returncode == 1
        assert "the service is gone" in failed.stderr
        (_, building) = self._items(pattern)
        assert building["state"] == "building"
        assert "To continue: pattern reembed resume" in pattern("reembed", "status").stderr
        assert "warn\treembed\tvectors of limited pairs" in pattern("doctor").stdout

        configure(limited, provider="hashing")
        assert "train" in pattern("search", "Archive", "the train to Vienna", "--limit", "1").stdout
        assert pattern("memory", "add", "Archive", "boat", "The boat leaves at six.").returncode == 0
        assert answer(pattern("reembed", "status", "--json"))["waiting"] == 1
        other = pattern("reembed", "resume")
        assert other.returncode == 1
        assert "are half built" in other.stderr

        configure(limited, provider="limited")
        assert answer(pattern("reembed", "resume", "--json")) == {"switched": True, "generation": 2, "embedded": 4}
        assert "boat" in pattern("search", "Archive", "The boat leaves at six.", "--limit", "1").stdout

    def test_abandoned_run(self, pattern: Pattern, limited: Path) -> None:
        """`rollback` of an interrupted run asks, and removes its vectors."""
        configure(limited, provider="limited", fails_after=0)
        assert pattern("reembed", "run").returncode == 1
        assert pattern("reembed", "rollback").returncode == 2
        assert answer(pattern("reembed", "rollback", "--yes", "--json")) == {"dropped": [2]}
        assert [each["state"] for each in self._items(pattern)] == ["active"]

    def test_no_database(self, pattern: Pattern, project: Path) -> None:
        """Without a database, `plan` and `run` say so, and create none."""
        for verb in ("plan", "run"):
            assert "no database yet" in pattern("reembed", verb).stderr
        assert not (project / "pattern.db").exists()

    def _items(self, pattern: Pattern) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = answer(pattern("reembed", "status", "--json"))["items"]
        return items
