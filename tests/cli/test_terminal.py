"""Output on a terminal: tables, progress, questions, interrupts."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from pattern_core.maintenance.migrations.migrate import LATEST

pty = pytest.importorskip("pty", reason="needs a system with pseudo-terminals")
termios = pytest.importorskip("termios")

Pattern = Callable[..., CompletedProcess[str]]

PROGRAM = (sys.executable, "-c", "import sys; from pattern_core.cli import main; sys.exit(main())")
COLOR = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
PATIENCE = 3
"""Seconds until one presses Ctrl-C again. Python misses an interrupt between the showing of a question and the wait for
an answer, until the next key."""
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def _at_terminal(
    *args: str, columns: int = 80, answer: str = "", interrupt_at: str = "(?!)", **environment: str
) -> tuple[int, str]:
    """Run the program on a terminal, and return its exit code and its output.

    Args:
        *args: The command line.
        columns: The width of the terminal.
        answer: The text that is typed.
        interrupt_at: A pattern; the program is interrupted when its output matches.
        **environment: Variables to set.
    """
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (40, columns))
    kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "CI"}}
    kept |= {"TERM": "xterm-256color", "PYTHONUTF8": "1"} | environment
    with subprocess.Popen([*PROGRAM, *args], stdin=its, stdout=its, stderr=its, env=kept) as process:
        os.close(its)
        os.write(ours, answer.encode())
        output = b""
        waiting = True
        while True:
            if not waiting and not select.select([ours], [], [], PATIENCE)[0]:
                process.send_signal(signal.SIGINT)
            if not (part := _read(ours)):
                break
            output += part
            if waiting and re.search(interrupt_at.encode(), output):
                waiting = False
                process.send_signal(signal.SIGINT)
    os.close(ours)
    return process.returncode, output.decode().replace("\r\n", "\n")


def _shown(output: str) -> str:
    """Return what the terminal shows in the end, without escape sequences and erased text."""
    return SEQUENCE.sub("", output).rpartition("Loading the model …")[2].lstrip("\r\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other side is closed
        return b""


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_tables_fit(archive: Path, pattern: Pattern, columns: int) -> None:
    """A table is at most as wide as the terminal, with an ellipsis for truncated texts."""
    pattern("memory", "add", "Archive", "long " * 50, "a word and another one, " * 50)

    for args in (["memory", "list", "Archive"], ["search", "Archive", "word"]):
        code, output = _at_terminal(*args, columns=columns)

        assert code == 0
        lines = _shown(output).splitlines()
        assert max(map(len, lines)) <= columns
        assert any("…" in line for line in lines)
        assert any(line.split()[0] == "coffee" for line in lines[2:]) or "search" in args
        assert "Ada drinks" in output


def test_long_labels_show_their_end(archive: Path, pattern: Pattern) -> None:
    """Labels that differ only at the end are truncated in the middle."""
    words = ("Importing", "Searching")
    text = "\n\n".join(f"## {word}\n\nAbout this, there is {word.lower()}." for word in words)
    (archive / "NOTES.md").write_text(f"# A framework for memory\n\n{text}\n", encoding="utf-8")
    pattern("memory", "import", "Archive", "NOTES.md")

    for args in (["memory", "list", "Archive"], ["search", "Archive", "about framework"]):
        output = _shown(_at_terminal(*args)[1])
        for word in words:
            assert re.search(rf"^\s*(-?\d\.\d+ +)?NOTES.*….* {word} ", output, re.MULTILINE)


def test_loading_is_shown(archive: Path) -> None:
    """A terminal shows that the model is loading; --json does not."""
    for args in (
        ["search", "Archive", "espresso"],
        ["memory", "add", "Archive", "new", "Something."],
        ["memory", "edit", "Archive", "new", "--content", "Something else."],
    ):
        assert "Loading the model" in _at_terminal(*args)[1]
    assert "Loading the model" not in _at_terminal("search", "Archive", "espresso", "--json")[1]
    assert "Loading the model" not in _at_terminal("memory", "list", "Archive")[1]


def test_sentences_are_wrapped(here: Path) -> None:
    """Sentences are broken between words at the width of the terminal."""
    _, output = _at_terminal("init", "--provider", "hashing", columns=50)

    lines = output.splitlines()
    assert max(map(len, lines)) <= 50
    assert "To search by meaning, install a language model" in " ".join(lines)


def test_record_shows_everything(archive: Path, pattern: Pattern) -> None:
    """`show` truncates nothing."""
    words = [f"word{number}" for number in range(100)]
    pattern("memory", "add", "Archive", "long", " ".join(words), "--metadata", "source=diary")

    _, output = _at_terminal("memory", "show", "Archive", "long")

    assert set(words) <= set(SEQUENCE.sub("", output).split())
    assert '"source": "diary"' in output
    assert "description" not in output  # it has none


def test_colors(archive: Path) -> None:
    """A terminal gets colors, unless NO_COLOR is set; errors are red."""
    assert COLOR.search(_at_terminal("doctor")[1])
    assert COLOR.search(_at_terminal("agent", "show", "Nobody")[1])
    assert not COLOR.search(_at_terminal("doctor", NO_COLOR="1")[1])
    assert not COLOR.search(_at_terminal("agent", "show", "Nobody", NO_COLOR="1")[1])


def test_hostile_texts(archive: Path, pattern: Pattern) -> None:
    """Stored texts cannot command the terminal, and are not read as markup."""
    pattern("memory", "add", "Archive", "evil", "\x1b]0;owned\x07\x1b[2J [red]x[/red] :smile: \x9b31m")

    for args in (["memory", "list", "Archive"], ["memory", "show", "Archive", "evil"], ["search", "Archive", "owned"]):
        _, output = _at_terminal(*args, columns=120)

        assert "\x1b]0;owned" not in output
        assert "\x1b[2J" not in output
        assert "\x9b" not in output
        assert "[red]x[/red] :smile:" in output
    _, output = _at_terminal("agent", "show", "\x1b[2J[red]x[/red]")
    assert "\x1b[2J" not in output
    assert "[red]x[/red]" in output


def test_questions(archive: Path, pattern: Pattern) -> None:
    """Deletions ask first: after no, nothing is changed."""
    code, output = _at_terminal("memory", "rm", "Archive", "coffee", answer="n\n")
    assert code == 1
    assert "Delete coffee" in output
    assert "Nothing was changed." in output
    assert pattern("memory", "show", "Archive", "coffee").returncode == 0

    code, output = _at_terminal("memory", "rm", "Archive", "coffee", answer="y\n")
    assert code == 0
    assert "Deleted: 1 memory." in output
    assert pattern("memory", "show", "Archive", "coffee").returncode == 1

    for verb in ("user", "agent"):
        name = "Ada" if verb == "user" else "Archive"
        code, output = _at_terminal(verb, "rm", name, "--cascade", answer="n\n")
        assert code == 1
        assert f"Delete the {verb} {name}" in output
    code, output = _at_terminal("migrate", "down", "--to", "0", answer="n\n")
    assert code == 1
    assert f"from version {LATEST} down to 0" in output
    assert pattern("agent", "show", "Archive").returncode == 0


@pytest.mark.parametrize("how", [{"answer": "\x04"}, {"interrupt_at": "Delete coffee"}], ids=["ctrl-d", "ctrl-c"])
def test_interrupt_at_a_question(archive: Path, pattern: Pattern, how: dict[str, str]) -> None:
    """Ctrl-C and Ctrl-D at a question interrupt the program, and change nothing."""
    code, output = _at_terminal("memory", "rm", "Archive", "coffee", **how)  # type: ignore[arg-type]  # never `columns`

    assert code == 130
    assert "Traceback" not in output
    assert pattern("memory", "show", "Archive", "coffee").returncode == 0


def test_progress_of_a_backup(archive: Path) -> None:
    """Long work shows how much is done, and of how much."""
    code, output = _at_terminal("backup", "safe", columns=120)

    assert code == 0
    assert "Writing safe" in output
    assert "10/10" in output  # with the vectors of three memories, and their generation

    code, output = _at_terminal("backup", "again", "--json")
    assert code == 0
    assert "Writing" not in output


def test_interrupt_of_an_import(archive: Path, pattern: Pattern) -> None:
    """Ctrl-C during an import leaves complete memories, and another import completes it."""
    facts = [f"Fact number {number} is about the thing called thing{number}." for number in range(1500)]
    (archive / "facts.txt").write_text("\n\n".join(facts), encoding="utf-8")
    args = ("memory", "import", "Archive", "facts.txt", "--max-chars", "60")

    code, output = _at_terminal(*args, columns=120, interrupt_at=r"[1-9]\d*/1500")

    assert code == 130
    assert "Importing into Archive" in output
    assert "Traceback" not in output
    assert json.loads(pattern("doctor", "--json").stdout)["ok"] is True
    before = json.loads(pattern("status", "--json").stdout)["records"]["memory_blocks"] - 3
    assert 0 < before < 1500
    done = json.loads(pattern(*args, "--json").stdout)
    assert done == {"added": 1500 - before, "changed": 0, "unchanged": before, "older": 0, "pruned": 0}
