"""The help of every verb, and its imports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import click
import pytest

from pattern_core import __version__
from pattern_core.cli import MODULES, SECTIONS, app
from pattern_core.cli.options import ENERGIES, PRIORITIES, ROLES
from pattern_core.models import Energy, Priority, Role

Pattern = Callable[..., CompletedProcess[str]]

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"

HEAVY = (
    "asyncio attrs cattrs numpy pluggy pyarrow rich torch transformers sentence_transformers surrealdb "
    "surrealdb_embedded importlib.metadata pattern_surreal_embedded pattern_torch pattern_core.database"
)


def _verbs() -> Iterator[tuple[str, ...]]:
    """Yield every verb, including those of groups."""
    context = click.Context(app)
    for name in app.list_commands(context):
        command = app.get_command(context, name)
        yield (name,)
        if isinstance(command, click.Group):
            yield from ((name, below) for below in command.list_commands(click.Context(command)))


VERBS = list(_verbs())


def test_verbs() -> None:
    """The program has exactly these verbs."""
    wanted = {
        "init status doctor plugins maintain vectors migrate user agent memory search changes backup restore",
        "vectors status, vectors verify, vectors rebuild",
        "reembed, reembed plan, reembed run, reembed resume, reembed status, reembed rollback, reembed drop",
        "migrate status, migrate plan, migrate up, migrate down",
        "user add, user list, user show, user edit, user rm",
        "agent add, agent list, agent show, agent edit, agent deactivate, agent reactivate, agent rm",
        "memory add, memory list, memory show, memory edit, memory rm, memory import",
        "conversation, conversation add, conversation list, conversation show, conversation edit, conversation end",
        "conversation rm, message, message add, message list, message search, message show, message edit, message rm",
        "tool-call, tool-call add, tool-call list, tool-call show",
        "task, task add, task list, task next, task search, task show, task edit, task start, task complete",
        "task cancel, task reopen, task rm",
        "plugin, plugin new",
    }
    names = {tuple(verb.split()) for line in wanted for verb in (line.split(",") if "," in line else line.split())}
    assert set(VERBS) == names


def test_sections() -> None:
    """The program's help, which imports no verb, lists every verb."""
    assert [name for section in SECTIONS.values() for name in section] == list(MODULES)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_reference_page(verb: tuple[str, ...]) -> None:
    """The reference page names every verb."""
    rows = [line for line in REFERENCE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]

    assert any(f"`{verb[0]}" in row and all(re.search(rf"\b{each}\b", row) for each in verb) for row in rows)


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("verb", [(), *VERBS], ids=" ".join)
def test_every_verb_has_help_with_examples(pattern: Pattern, verb: tuple[str, ...], flag: str) -> None:
    """Every verb has a help text with examples that begin with its name."""
    answer = pattern(*verb, flag)

    assert answer.returncode == 0
    assert answer.stderr == ""
    examples = [line.strip() for line in answer.stdout.partition("Examples:\n")[2].splitlines()]
    assert examples
    assert all(line.startswith("pattern ") or "| pattern " in line for line in examples)
    assert any(" ".join(("pattern", *verb)) in line or verb[:1] == ("restore",) for line in examples)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_takes_json(verb: tuple[str, ...], pattern: Pattern) -> None:
    """Every verb that is not a group takes --json and --config."""
    answer = pattern(*verb, "--help")

    is_group = "COMMAND [ARGS]" in answer.stdout
    assert is_group or {"--json", "--config"} <= set(answer.stdout.split())


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["memory", "--help"],
        ["--version"],
        ["memory", "add", "--help"],
        ["message", "add", "--help"],
        ["task", "list", "--help"],
    ],
    ids=" ".join,
)
def test_help_loads_nothing_heavy(args: list[str]) -> None:
    """Help imports no engine, model, Arrow, NumPy, Rich or event loop."""
    allowed = {"importlib.metadata"} if args == ["--version"] else set()
    script = (
        "import sys; from pattern_core.cli import main; code = main(sys.argv[1:]);"
        f"print(code, [name for name in {HEAVY.split()} if name in sys.modules], file=sys.stderr)"
    )
    answer = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True, check=True)

    code, _, loaded = answer.stderr.strip().partition(" ")
    assert code == "0"
    assert set(json.loads(loaded.replace("'", '"'))) <= allowed


def test_version(pattern: Pattern) -> None:
    """--version prints the version of the distribution."""
    assert pattern("--version").stdout.strip() == f"pattern {__version__}"


def test_choices() -> None:
    """The choices of options, which import no model, are the values of the enums."""
    assert list(ROLES) == list(Role)
    assert list(ENERGIES) == list(Energy)
    assert list(PRIORITIES) == list(Priority)


def test_unknown_verb_of_a_group(pattern: Pattern) -> None:
    """A group names the nearest of its verbs, too."""
    answer = pattern("memory", "lst", "Archive")

    assert answer.returncode == 2
    assert "There is no verb 'lst'. Did you mean 'list'?" in answer.stderr


def test_unknown_verb(pattern: Pattern) -> None:
    """An unknown verb is a usage error that names the nearest one."""
    answer = pattern("serch", "Archive", "tea")

    assert answer.returncode == 2
    assert "Did you mean 'search'?" in answer.stderr


def test_usage_error_as_json(pattern: Pattern) -> None:
    """With --json, a wrong command line is reported as JSON."""
    answer = pattern("search", "Archive", "--json")

    assert answer.returncode == 2
    assert answer.stdout == ""
    error = json.loads(answer.stderr)["error"]
    assert error["type"] == "MissingParameter"
    assert "TEXT" in error["message"]
