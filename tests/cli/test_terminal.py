"""How it looks to somebody at a terminal."""

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
    """Run the program at a terminal; return its exit code and what the terminal was told.

    Args:
        *args: The command line.
        columns: How wide the terminal is.
        answer: What is typed.
        interrupt_at: The program is interrupted when the terminal has been told something like this.
        **environment: Variables to set.
    """
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (40, columns))
    kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "CI"}}
    kept |= {"TERM": "xterm-256color", "PYTHONUTF8": "1"} | environment
    with subprocess.Popen([*PROGRAM, *args], stdin=its, stdout=its, stderr=its, env=kept) as process:
        os.close(its)
        os.write(ours, answer.encode())
        told = b""
        waiting = True
        while True:
            if not waiting and not select.select([ours], [], [], PATIENCE)[0]:
                process.send_signal(signal.SIGINT)
            if not (part := _read(ours)):
                break
            told += part
            if waiting and re.search(interrupt_at.encode(), told):
                waiting = False
                process.send_signal(signal.SIGINT)
    os.close(ours)
    return process.returncode, told.decode().replace("\r\n", "\n")


def _shown(told: str) -> str:
    """Return what stands on the terminal in the end: without sequences, and without what was wiped away."""
    return SEQUENCE.sub("", told).rpartition("Loading the model …")[2].lstrip("\r\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other side is closed
        return b""


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_tables_fit(archive: Path, pattern: Pattern, columns: int) -> None:
    """A table is as wide as the terminal at most, with an ellipsis where a text is cut off."""
    pattern("memory", "add", "Archive", "long " * 50, "a word and another one, " * 50)

    for args in (["memory", "list", "Archive"], ["search", "Archive", "word"]):
        code, told = _at_terminal(*args, columns=columns)

        assert code == 0
        lines = _shown(told).splitlines()
        assert max(map(len, lines)) <= columns
        assert any("…" in line for line in lines)
        assert any(line.split()[0] == "coffee" for line in lines[2:]) or "search" in args
        assert "Ada drinks" in told


def test_long_labels_show_their_end(archive: Path, pattern: Pattern) -> None:
    """Labels that differ at the end only are cut off in the middle, so that they can be told apart."""
    words = ("Importing", "Searching")
    text = "\n\n".join(f"## {word}\n\nAbout this, there is {word.lower()}." for word in words)
    (archive / "NOTES.md").write_text(f"# A framework for memory\n\n{text}\n", encoding="utf-8")
    pattern("memory", "import", "Archive", "NOTES.md")

    for args in (["memory", "list", "Archive"], ["search", "Archive", "about framework"]):
        told = _shown(_at_terminal(*args)[1])
        for word in words:
            assert re.search(rf"^\s*(-?\d\.\d+ +)?NOTES.*….* {word} ", told, re.MULTILINE)


def test_loading_is_shown(archive: Path) -> None:
    """While the model is loaded that is said, on a terminal; not where a program reads."""
    for args in (
        ["search", "Archive", "espresso"],
        ["memory", "add", "Archive", "new", "Something."],
        ["memory", "edit", "Archive", "new", "--content", "Something else."],
    ):
        assert "Loading the model" in _at_terminal(*args)[1]
    assert "Loading the model" not in _at_terminal("search", "Archive", "espresso", "--json")[1]
    assert "Loading the model" not in _at_terminal("memory", "list", "Archive")[1]


def test_sentences_are_wrapped(here: Path) -> None:
    """What is said is as wide as the terminal at most, broken between words."""
    _, told = _at_terminal("init", "--provider", "hashing", columns=50)

    lines = told.splitlines()
    assert max(map(len, lines)) <= 50
    assert "To search by meaning, install a language model" in " ".join(lines)


def test_a_record_shows_everything(archive: Path, pattern: Pattern) -> None:
    """A record is shown whole, over as many lines as it takes."""
    words = [f"word{number}" for number in range(100)]
    pattern("memory", "add", "Archive", "long", " ".join(words), "--metadata", "source=diary")

    _, told = _at_terminal("memory", "show", "Archive", "long")

    assert set(words) <= set(SEQUENCE.sub("", told).split())
    assert '"source": "diary"' in told
    assert "description" not in told  # it has none


def test_colors(archive: Path) -> None:
    """There is colour at a terminal, and none with NO_COLOR; an error is red."""
    assert COLOR.search(_at_terminal("doctor")[1])
    assert COLOR.search(_at_terminal("agent", "show", "Nobody")[1])
    assert not COLOR.search(_at_terminal("doctor", NO_COLOR="1")[1])
    assert not COLOR.search(_at_terminal("agent", "show", "Nobody", NO_COLOR="1")[1])


def test_hostile_texts(archive: Path, pattern: Pattern) -> None:
    """What somebody remembered neither commands the terminal nor is taken for markup."""
    pattern("memory", "add", "Archive", "evil", "\x1b]0;owned\x07\x1b[2J [red]x[/red] :smile: \x9b31m")

    for args in (["memory", "list", "Archive"], ["memory", "show", "Archive", "evil"], ["search", "Archive", "owned"]):
        _, told = _at_terminal(*args, columns=120)

        assert "\x1b]0;owned" not in told
        assert "\x1b[2J" not in told
        assert "\x9b" not in told
        assert "[red]x[/red] :smile:" in told
    _, told = _at_terminal("agent", "show", "\x1b[2J[red]x[/red]")
    assert "\x1b[2J" not in told
    assert "[red]x[/red]" in told


def test_questions(archive: Path, pattern: Pattern) -> None:
    """Before something is lost it asks: no leaves all as it is, yes goes on."""
    code, told = _at_terminal("memory", "rm", "Archive", "coffee", answer="n\n")
    assert code == 1
    assert "Delete coffee" in told
    assert "Nothing was changed." in told
    assert pattern("memory", "show", "Archive", "coffee").returncode == 0

    code, told = _at_terminal("memory", "rm", "Archive", "coffee", answer="y\n")
    assert code == 0
    assert "Deleted: 1 memory." in told
    assert pattern("memory", "show", "Archive", "coffee").returncode == 1

    for verb in ("user", "agent"):
        name = "Ada" if verb == "user" else "Archive"
        code, told = _at_terminal(verb, "rm", name, "--cascade", answer="n\n")
        assert code == 1
        assert f"Delete the {verb} {name}" in told
    code, told = _at_terminal("migrate", "down", "--to", "0", answer="n\n")
    assert code == 1
    assert f"from version {LATEST} down to 0" in told
    assert pattern("agent", "show", "Archive").returncode == 0


@pytest.mark.parametrize("how", [{"answer": "\x04"}, {"interrupt_at": "Delete coffee"}], ids=["ctrl-d", "ctrl-c"])
def test_interrupt_at_a_question(archive: Path, pattern: Pattern, how: dict[str, str]) -> None:
    """Ctrl-C and Ctrl-D at a question are interrupts like any other, and leave all as it is."""
    code, told = _at_terminal("memory", "rm", "Archive", "coffee", **how)  # type: ignore[arg-type]  # never `columns`

    assert code == 130
    assert "Traceback" not in told
    assert pattern("memory", "show", "Archive", "coffee").returncode == 0


def test_progress_of_a_backup(archive: Path) -> None:
    """A long work shows how far it is: what is done, of how much."""
    code, told = _at_terminal("backup", "safe", columns=120)

    assert code == 0
    assert "Writing safe" in told
    assert "10/10" in told  # with the vectors of three memories, and their generation

    code, told = _at_terminal("backup", "again", "--json")
    assert code == 0
    assert "Writing" not in told


def test_interrupt_of_a_long_work(archive: Path, pattern: Pattern) -> None:
    """Ctrl-C amid an import leaves whole what was written; to repeat the import completes it."""
    facts = [f"Fact number {number} is about the thing called thing{number}." for number in range(1500)]
    (archive / "facts.txt").write_text("\n\n".join(facts), encoding="utf-8")
    args = ("memory", "import", "Archive", "facts.txt", "--max-chars", "60")

    code, told = _at_terminal(*args, columns=120, interrupt_at=r"[1-9]\d*/1500")

    assert code == 130
    assert "Importing into Archive" in told
    assert "Traceback" not in told
    assert json.loads(pattern("doctor", "--json").stdout)["ok"] is True
    before = json.loads(pattern("status", "--json").stdout)["records"]["memory_blocks"] - 3
    assert 0 < before < 1500
    done = json.loads(pattern(*args, "--json").stdout)
    assert done == {"added": 1500 - before, "changed": 0, "unchanged": before, "older": 0, "pruned": 0}
