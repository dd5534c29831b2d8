"""What the pages for plugin authors show is what they say: the tutorial's plugin is the example, the how-tos' ones work."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from pattern_core.cli import main

Run = Callable[..., CompletedProcess[str]]

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLE = DOCS / "examples" / "pattern-sqlite"
BLOCK = re.compile(r"^```\{code-block\} \w+\n(?::caption: (\S+)\n\n)?(.*?)^```$", re.MULTILINE | re.DOTALL)
PUBLIC = {"abc", "errors", "filters", "hookspecs", "options", "schema", "testing", "validators"}
"""The modules of the core that a plugin may use."""
HOW_TOS = [
    ("write-an-embedding-plugin.md", "trigrams", "embeddings"),
    ("write-a-vector-plugin.md", "flat", "vectors"),
]
KIT = ("-m", "pytest", "-q", "-p", "no:cacheprovider")


def shown(page: str) -> dict[str, str]:
    """The files that a page shows, each put together from its blocks, in order."""
    files: dict[str, str] = {}
    for caption, code in BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
        if caption:
            name = caption.replace("\\_", "_")  # a caption is Markdown
            files[name] = files.get(name, "") + code
    return files


def lines(text: str) -> list[str]:
    """The lines of a text that are not blank: between two blocks of a page, blank lines are lost."""
    return [line for line in text.splitlines() if line.strip()]


class TestTheTutorial:
    """The storage on SQLite."""

    def test_it_shows_the_whole_example(self) -> None:
        """The tutorial's blocks, put together, are the example's files, line by line, and none is left out."""
        files = [path for path in EXAMPLE.rglob("*") if path.suffix in {".py", ".toml"} and "dist" not in path.parts]
        expected = {path.relative_to(EXAMPLE).as_posix(): lines(path.read_text(encoding="utf-8")) for path in files}
        assert {name: lines(text) for name, text in shown("tutorial-storage-plugin.md").items()} == expected

    @pytest.mark.parametrize("path", sorted(EXAMPLE.rglob("*.py")), ids=lambda path: path.name)
    def test_the_example_uses_public_names_only(self, path: Path) -> None:
        """The example takes from the core what modules for authors declare in ``__all__``, and nothing else."""
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("pattern_core") for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pattern_core"):
                package, _, module = (node.module or "").partition(".")
                assert module in PUBLIC, node.module
                public = importlib.import_module(f"{package}.{module}").__all__
                assert {alias.name for alias in node.names} <= set(public)

    def test_the_example_keeps_the_contract(self, run_installed: Run) -> None:
        """Every rule of the kit passes; only the one for storages that belong to one process does not apply."""
        answer = run_installed(EXAMPLE, *KIT)
        assert answer.returncode == 0, answer.stdout[-5000:]
        assert re.search(r"^\d{3} passed, 1 skipped in ", answer.stdout, re.MULTILINE), answer.stdout


class TestTheHowTos:
    """The small plugins that the how-tos write."""

    @pytest.mark.parametrize(("page", "name", "role"), HOW_TOS)
    def test_a_new_plugin_filled_in_as_shown_is_green(
        self, page: str, name: str, role: str, tmp_path: Path, run_installed: Run
    ) -> None:
        """`pattern plugin new` makes a plugin whose tests fail; with the page's files in it, they all pass."""
        folder = tmp_path / f"pattern-{name}"
        assert main(["plugin", "new", name, "--role", role, "--folder", str(folder)]) == 0
        files = shown(f"how-to/{page}")
        before = run_installed(folder, *KIT, "--tb=line")
        assert before.returncode == 1
        assert " passed" not in before.stdout
        for path, text in files.items():
            assert (folder / path).is_file(), f"{path} is not a file of the skeleton"
            (folder / path).write_text(text, encoding="utf-8")
        after = run_installed(folder, *KIT)
        assert after.returncode == 0, after.stdout[-5000:]

    @pytest.mark.parametrize(("page", "name", "role"), HOW_TOS)
    def test_the_tests_shown_are_those_of_the_skeleton(self, page: str, name: str, role: str, tmp_path: Path) -> None:
        """What a page calls the tests that are there from the beginning is what `pattern plugin new` writes."""
        folder = tmp_path / f"pattern-{name}"
        assert main(["plugin", "new", name, "--role", role, "--folder", str(folder)]) == 0
        path = "tests/test_conformance.py"
        assert lines(shown(f"how-to/{page}")[path]) == lines((folder / path).read_text(encoding="utf-8"))

    def test_an_excuse_as_shown(self, tmp_path: Path, run_installed: Run) -> None:
        """A rule that a storage cannot keep, excused as the page shows, is an expected failure among passes."""
        ((_, excuse),) = BLOCK.findall((DOCS / "how-to" / "write-a-storage-plugin.md").read_text(encoding="utf-8"))
        folder = tmp_path / "pattern-redis"
        assert main(["plugin", "new", "redis", "--role", "storage", "--folder", str(folder)]) == 0
        (folder / "tests" / "test_conformance.py").write_text(SHORT_OF_BREATH + excuse + OPTIONS, encoding="utf-8")
        answer = run_installed(folder, *KIT, "-k", "batch or health")
        assert answer.returncode == 0, answer.stdout[-5000:]
        assert ", 1 xfailed in " in answer.stdout


SHORT_OF_BREATH = '''
import pytest

from pattern_core.errors import StorageError
from pattern_core.hookspecs import StorageSpec
from pattern_core.testing import MemoryOptions, MemoryStorage, StorageContract


class Redis(MemoryStorage):
    """A storage whose transactions hold 512 writes at most."""

    async def commit(self, batch):
        if len(batch) > 512:
            raise StorageError("a transaction holds 512 writes. Nothing was written.")
        await super().commit(batch)


async def _open(options):
    return Redis(options.data)


def pattern_storage():
    return StorageSpec(options=MemoryOptions, open=_open, persistent=False)


'''
OPTIONS = """
    @pytest.fixture
    def options(self):
        return MemoryOptions()
"""
