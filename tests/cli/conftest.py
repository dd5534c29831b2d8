"""Fixtures of the command line's tests."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from pattern_core.cli import main

CONFIG = """
[database]
type = "surreal-embedded"
path = "./pattern.db"

[embeddings]
provider = "hashing"
"""


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Let Ctrl-C interrupt this process and those that it starts; a shell's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working folder, without a configuration from outside."""
    for variable in ("PATTERN_CONFIG", "PATTERN_TRACEBACK", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def pattern(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., CompletedProcess[str]]:
    """Return a function that runs the program in this process: ``pattern("memory", "list", "Archive", input="…")``."""

    def run(*args: str, input: str = "") -> CompletedProcess[str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(input.encode())))
        capsys.readouterr()
        code = main(args)
        said = capsys.readouterr()
        return CompletedProcess(args, code, said.out, said.err)

    return run


@pytest.fixture
def project(here: Path) -> Path:
    """Return a folder with a configuration of the embedded storage and the provider that needs no download."""
    pytest.importorskip("pattern_surreal_embedded", reason="needs the plugin surreal-embedded")
    (here / "pattern.toml").write_text(CONFIG, encoding="utf-8")
    return here


@pytest.fixture
def archive(project: Path, pattern: Callable[..., CompletedProcess[str]]) -> Path:
    """Return a project with the user Ada, the agent Archive and three memories."""
    memories = {
        "coffee": "Ada drinks one espresso before ten and tea after lunch.",
        "garden": "Prune the roses in March, before they bud.",
        "train": "The night train to Vienna leaves at nine from platform four.",
    }
    assert pattern("user", "add", "Ada").returncode == 0
    assert pattern("agent", "add", "Archive").returncode == 0
    for label, content in memories.items():
        assert pattern("memory", "add", "Archive", label, content).returncode == 0
    return project
