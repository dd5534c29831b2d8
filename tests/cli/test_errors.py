"""Errors of the command line: messages, JSON and exit codes."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, CompletedProcess

import pytest

from pattern_core.cli import main

Pattern = Callable[..., CompletedProcess[str]]

PROGRAM = (sys.executable, "-c", "import sys; from pattern_core.cli import main; sys.exit(main())")
HOLD = """
import asyncio, sys, pattern_core
async def hold():
    async with pattern_core.open("pattern.toml", load_model=False):
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(hold())
"""


def test_no_configuration(pattern: Pattern) -> None:
    """Without a configuration, the error says how to create one, and the exit code is 2."""
    answer = pattern("memory", "list", "Archive")

    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith("Error: no configuration found")
    assert "pattern init" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("[databse]", "UnknownOptionError", "Did you mean 'database'?"),
        ("[database]\npaht = 'x'", "UnknownOptionError", "Did you mean 'path'?"),
        ("[database]\npath = '${NOT_SET_ANYWHERE}'", "MissingVariableError", "NOT_SET_ANYWHERE"),
        ("[database]\ntype = 3", "ConfigError", "expected a text"),
        ("[database", "ConfigError", "cannot be read as TOML"),
        ("[database]\ntype = embedded", "ConfigError", "Texts stand in quotes"),
    ],
)
def test_invalid_configuration(pattern: Pattern, project: Path, text: str, kind: str, said: str) -> None:
    """An invalid configuration ends with exit code 2; the error names the mistake and the file."""
    (project / "pattern.toml").write_text(f"{text}\n", encoding="utf-8")

    in_words = pattern("user", "list")
    as_json = pattern("user", "list", "--json")

    assert (in_words.returncode, as_json.returncode) == (2, 2)
    assert said in in_words.stderr
    assert "Traceback" not in in_words.stderr
    error = json.loads(as_json.stderr)["error"]
    assert error["type"] == kind
    assert said in error["message"]
    assert str(error["source"]).endswith("pattern.toml")


def test_named_configuration(pattern: Pattern, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--config works before and after the verb, and wins over PATTERN_CONFIG, which wins over the folder."""
    monkeypatch.chdir(tmp_path)
    named = str(archive / "pattern.toml")

    assert pattern("--config", named, "agent", "show", "Archive").returncode == 0
    assert pattern("agent", "show", "Archive", "--config", named).returncode == 0
    monkeypatch.setenv("PATTERN_CONFIG", named)
    assert pattern("agent", "show", "Archive").returncode == 0
    assert pattern("agent", "show", "Archive", "--config", "nowhere.toml").returncode == 2


def test_unknown_plugin(pattern: Pattern, project: Path) -> None:
    """A plugin that is not installed is an error of the configuration: exit code 2."""
    (project / "pattern.toml").write_text('[embeddings]\nprovider = "hashng"', encoding="utf-8")

    answer = pattern("user", "list")

    assert answer.returncode == 2
    assert "Did you mean 'hashing'?" in answer.stderr


def test_locked_database(pattern: Pattern, archive: Path) -> None:
    """A database that another process has open is rejected at once, and can be used when that process ends."""
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=PIPE, stdout=PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"

        refused = pattern("memory", "list", "Archive", "--json")
        examined = pattern("doctor")
        other.communicate("")

    error = json.loads(refused.stderr)["error"]
    assert refused.returncode == 1
    assert error["type"] == "DatabaseLockedError"
    assert error["path"] == str(archive / "pattern.db")
    assert examined.returncode == 1
    assert "fail\tdatabase\t" in examined.stdout
    assert pattern("memory", "list", "Archive").returncode == 0


@pytest.mark.parametrize("how", ["option", "variable"])
def test_traceback(pattern: Pattern, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """--traceback and PATTERN_TRACEBACK show a traceback above the message."""
    if how == "variable":
        monkeypatch.setenv("PATTERN_TRACEBACK", "1")

    answer = pattern("user", "list", *(["--traceback"] if how == "option" else []))

    assert answer.returncode == 2
    assert "Traceback (most recent call last)" in answer.stderr
    assert "Error: no configuration found" in answer.stderr


def test_bug(pattern: Pattern, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception is raised, not reported as a user's error."""
    monkeypatch.setattr("pattern_core.config.find_config", lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        pattern("user", "list")


def test_text_that_is_not_utf8(pattern: Pattern, archive: Path) -> None:
    """Input that is not UTF-8 is rejected, and nothing is written."""
    answer = subprocess.run(
        [*PROGRAM, "memory", "add", "Archive", "x", "-"], input=b"caf\xe9", capture_output=True, check=False
    )

    assert answer.returncode == 2
    assert b"is not UTF-8 text" in answer.stderr
    assert pattern("memory", "show", "Archive", "x").returncode == 1


def test_terminal_with_few_characters(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A character that the terminal cannot show is printed as an escape, and JSON stays valid."""
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    subprocess.run([*PROGRAM, "memory", "add", "Archive", "x", "tea 🎉 é"], check=True)

    in_words = subprocess.run([*PROGRAM, "memory", "show", "Archive", "x"], capture_output=True, check=True)
    as_json = subprocess.run([*PROGRAM, "memory", "show", "Archive", "x", "--json"], capture_output=True, check=True)

    assert b"tea \\U0001f389 \xe9" in in_words.stdout
    assert json.loads(as_json.stdout)["content"] == "tea 🎉 é"


class _Interrupted(io.BytesIO):
    """Standard input that is interrupted with Ctrl-C."""

    def read(self, *_: object) -> bytes:
        signal.raise_signal(signal.SIGINT)
        return b""

    read1 = readinto = read  # type: ignore[assignment]


def test_ctrl_c(archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C ends the program with exit code 130, without a traceback."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(_Interrupted()))

    code = main(["memory", "add", "Archive", "x", "-"])

    assert code == 130
    assert capsys.readouterr().err.strip() == "Interrupted."


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_closed_pipe(archive: Path, options: list[str]) -> None:
    """A reader that closes the pipe early causes no error message."""
    with subprocess.Popen([*PROGRAM, "memory", "list", "Archive", *options], stdout=PIPE, stderr=PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()

    assert process.returncode == 1
    assert errors == b""
