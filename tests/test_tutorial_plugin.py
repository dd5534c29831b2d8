"""The code in the pages for plugin authors: the tutorial shows the example, and the plugins of the how-tos work."""

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
PUBLIC = {"abc", "errors", "filters", "hookspecs", "schema", "testing", "toolkit"}
"""The modules of the core that a plugin may import."""
HOW_TOS = [
    ("write-an-embedding-plugin.md", "trigrams", "embeddings"),
    ("write-a-vector-plugin.md", "flat", "vectors"),
]
KIT = ("-m", "pytest", "-q", "-p", "no:cacheprovider")


def shown(page: str) -> dict[str, str]:
    """Return the files that a page shows, each joined from its blocks, in order."""
    files: dict[str, str] = {}
    for caption, code in BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
        if caption:
            name = caption.replace("\\_", "_")  # a caption is Markdown
            files[name] = files.get(name, "") + code
    return files


def lines(text: str) -> list[str]:
    """Return the lines of a text that are not blank; blocks of a page have lost the blank lines between them."""
    return [line for line in text.splitlines() if line.strip()]


class TestTheTutorial:
    """The tutorial shows the example, a storage on SQLite."""

    def test_it_shows_the_whole_example(self) -> None:
        """The joined blocks of the tutorial are the files of the example, all of them and line by line."""
        files = [path for path in EXAMPLE.rglob("*") if path.suffix in {".py", ".toml"} and "dist" not in path.parts]
        expected = {path.relative_to(EXAMPLE).as_posix(): lines(path.read_text(encoding="utf-8")) for path in files}
        assert {name: lines(text) for name, text in shown("tutorial-storage-plugin.md").items()} == expected

    @pytest.mark.parametrize("path", sorted(EXAMPLE.rglob("*.py")), ids=lambda path: path.name)
    def test_the_example_uses_public_names_only(self, path: Path) -> None:
        """The example imports from the core only names that a public module declares in ``__all__``."""
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("pattern_core") for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pattern_core"):
                package, _, module = (node.module or "").partition(".")
                assert module in PUBLIC, node.module
                public = importlib.import_module(f"{package}.{module}").__all__
                assert {alias.name for alias in node.names} <= set(public)

    def test_the_example_keeps_the_contract(self, run_installed: Run) -> None:
        """Every rule of the kit passes; the one for storages of a single process is skipped."""
        answer = run_installed(EXAMPLE, *KIT)
        assert answer.returncode == 0, answer.stdout[-5000:]
        assert re.search(r"^\d{3} passed, 1 skipped in ", answer.stdout, re.MULTILINE), answer.stdout


class TestTheHowTos:
    """The plugins that the how-to guides write."""

    @pytest.mark.parametrize(("page", "name", "role"), HOW_TOS)
    def test_a_new_plugin_filled_in_as_shown_is_green(
        self, page: str, name: str, role: str, tmp_path: Path, run_installed: Run
    ) -> None:
        """`pattern plugin new` makes a plugin whose tests fail; with the files of the page, they all pass."""
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
        """The test module of a page is the one that `pattern plugin new` writes."""
        folder = tmp_path / f"pattern-{name}"
        assert main(["plugin", "new", name, "--role", role, "--folder", str(folder)]) == 0
        path = "tests/test_conformance.py"
        assert lines(shown(f"how-to/{page}")[path]) == lines((folder / path).read_text(encoding="utf-8"))

    def test_an_expected_failure_as_shown(self, tmp_path: Path, run_installed: Run) -> None:
        """A rule that is marked as the page shows is an expected failure, and the other rules pass."""
        ((_, expected),) = BLOCK.findall((DOCS / "how-to" / "write-a-storage-plugin.md").read_text(encoding="utf-8"))
        folder = tmp_path / "pattern-redis"
        assert main(["plugin", "new", "redis", "--role", "storage", "--folder", str(folder)]) == 0
        (folder / "tests" / "test_conformance.py").write_text(LIMITED_STORAGE + expected + OPTIONS, encoding="utf-8")
        answer = run_installed(folder, *KIT, "-k", "batch or health")
        assert answer.returncode == 0, answer.stdout[-5000:]
        assert ", 1 xfailed in " in answer.stdout


LIMITED_STORAGE = '''
import pytest

from pattern_core.errors import StorageError
from pattern_core.hookspecs import StorageSpec
from pattern_core.testing import MemoryOptions, MemoryStorage, StorageContract


class Redis(MemoryStorage):
    """A storage with at most 512 writes in a transaction."""

    async def commit(self, batch):
        if len(batch) > 512:
            raise StorageError("a transaction can hold 512 writes. Nothing was written.")
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
