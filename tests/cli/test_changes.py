"""``pattern changes``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Pattern = Callable[..., CompletedProcess[str]]


def test_what_has_changed_since_a_position(archive: Path, pattern: Pattern) -> None:
    """The verb shows changes, oldest first, and a position from which a later call continues."""
    first = json.loads(pattern("changes", "--json").stdout)
    kinds = [(each["table"], each["kind"]) for each in first["items"]]
    assert kinds[:2] == [("users", "create"), ("agents", "create")]
    assert kinds.count(("memory_blocks", "create")) == 3
    assert pattern("memory", "edit", "Archive", "coffee", "--content", "Ada has given up coffee.").returncode == 0
    later = json.loads(pattern("changes", "--since", first["position"], "--records", "--json").stdout)
    (change,) = later["items"]
    assert (change["kind"], change["revision"], change["record"]["label"]) == ("update", 2, "coffee")
    assert change["partition"] == change["record"]["agent_id"]
    assert json.loads(pattern("changes", "--since", later["position"], "--json").stdout)["items"] == []


def test_in_words(archive: Path, pattern: Pattern) -> None:
    """Without --json it is a table, with the position in the note."""
    answer = pattern("changes")
    assert answer.returncode == 0
    lines = answer.stdout.splitlines()
    assert lines[0].split("\t") == ["time", "change", "table", "id", "position"]
    assert "create 1\tmemory_blocks" in lines[-1]
    assert f"--since {lines[-1].split(chr(9))[-1]}" in answer.stderr


def test_a_wrong_position(archive: Path, pattern: Pattern) -> None:
    """A text that is not a position, and one of another database, are errors that say what to do."""
    assert "expected a position" in pattern("changes", "--since", "yesterday").stderr
    assert "db.position()" in pattern("changes", "--since", "1.0123456789abcdef").stderr


def test_follow(tmp_path: Path, pattern: Pattern) -> None:
    """With --follow it prints changes as they come, one JSON document a line, until Ctrl-C."""
    (tmp_path / "pattern.toml").write_text(
        '[database]\ntype = "lancedb"\npath = "./db"\n[embeddings]\nprovider = "hashing"\n', encoding="utf-8"
    )
    config = ("--config", str(tmp_path / "pattern.toml"))
    created = pattern("user", "add", "Ada", *config)
    if created.returncode:  # an embedded engine has one owner, so nobody could write meanwhile
        pytest.skip("needs the plugin lancedb")

    position = json.loads(pattern("changes", "--json", *config).stdout)["position"]
    program = "import sys; from pattern_core.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-u", "-c", program, "changes", "--follow", "--json", "--since", position]
    with subprocess.Popen([*command, *config], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert pattern("user", "add", "Grace", *config).returncode == 0
        change = json.loads(follower.stdout.readline())
        assert (change["table"], change["kind"]) == ("users", "create")
        follower.send_signal(signal.SIGINT)
        assert follower.wait(30) == 130
