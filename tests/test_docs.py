"""Every code block of the README and the docs runs: Python, configurations, and what is typed into a terminal."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import inspect
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest

from pattern_core.config import Section, load_config
from pattern_core.errors import PluginNotFoundError
from pattern_core.hookspecs import EmbeddingSpec, StorageSpec, VectorSpec
from pattern_core.plugins.discovery import load_plugin
from pattern_core.support.options import structure_options

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("plugins/*/README.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
GENERATE = ROOT / "docs" / "generate.py"
KINDS: dict[str, Any] = {"database": StorageSpec, "vectors": VectorSpec, "embeddings": EmbeddingSpec}
MOST_COLUMNS = 84
DEFAULT = '[embeddings]\nprovider = "hashing"\n'

needs_engine = pytest.mark.skipif(
    importlib.util.find_spec("pattern_surreal_embedded") is None, reason="needs the plugin surreal-embedded"
)


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, code in FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def with_blocks(language: str) -> list[Any]:
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES if blocks(page, language)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a configuration and something to import."""
    monkeypatch.delenv("PATTERN_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pattern.toml").write_text(DEFAULT)
    return tmp_path


@needs_engine
@pytest.mark.parametrize("page", with_blocks("python"))
def test_python(page: Path, folder: Path) -> None:
    """The blocks run one after the other: programs on their own, others as if typed into ``python -m asyncio``."""
    for toml in blocks(page, "toml"):
        if "hashing" in toml:
            (folder / "pattern.toml").write_text(toml)
            break
    names: dict[str, Any] = {"__name__": "__main__"}

    async def run() -> None:
        for code in blocks(page, "python"):
            if "asyncio.run(" in code:
                await asyncio.to_thread(exec, code, {"__name__": "__main__"})
                continue
            compiled = compile(code, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            answer = eval(compiled, names)
            if inspect.isawaitable(answer):
                await answer

    asyncio.run(run())


@pytest.mark.parametrize("page", with_blocks("toml"))
def test_configurations(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every configuration that is shown is one that is accepted, by the plugins that it names, too."""
    for toml in blocks(page, "toml"):
        for name in re.findall(r"(?<!\$)\$\{(\w+)\}", toml):
            monkeypatch.setenv(name, "a-value")
        config = load_config(tomllib.loads(toml))
        for section, kind in KINDS.items():
            named: Section = getattr(config, section)
            if section not in toml or named.provider is None:
                continue
            try:
                options = load_plugin(named.provider, kind).options
            except PluginNotFoundError:
                continue  # it is not installed here
            structure_options(options, named.options, section=section, base=page.parent)


@needs_engine
@pytest.mark.parametrize("page", with_blocks("console"))
def test_terminal(page: Path, folder: Path) -> None:
    """The ``pattern`` commands of a page succeed one after the other, in a folder that has what they name."""
    lines = [line for code in blocks(page, "console") for line in code.splitlines() if line.startswith("pattern ")]
    (folder / "NOTES.md").write_text("# Notes\n\nThe plumber comes on Tuesday.\n")
    (folder / "new.toml").write_text('[database]\npath = "new.db"\n' + DEFAULT)
    if lines and lines[0] == "pattern init":
        (folder / "pattern.toml").unlink()
        lines[0] += " --provider hashing"
    elif lines:
        lines.insert(0, "pattern agent add Archive")
    for line in lines:
        _, *arguments = shlex.split(line)
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from pattern_core.cli import main; sys.exit(main())", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_nothing_scrolls(page: Path) -> None:
    """A line of code in the README and the docs has at most 84 characters."""
    code = (code for _, code in FENCE.findall(page.read_text(encoding="utf-8")))
    assert not [line for block in code for line in block.splitlines() if len(line) > MOST_COLUMNS]


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_links(page: Path) -> None:
    """Every link to a file leads to one."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in LINK.findall(prose):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_architecture_page_names_files_that_exist() -> None:
    """Each file that the walk through the tree names exists, and each folder of the core has its line."""
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    core = ROOT / "core" / "pattern_core"
    named = set(re.findall(r"`([\w/]+\.py)`", page)) - {"__init__.py"}
    assert len(named) > 20
    assert not {name for name in named if not (core / name).is_file()}
    private = {path.name for path in core.iterdir() if (path / "__init__.py").is_file()} - {"abc", "schema"}
    assert {name for name in private if f"| `{name}/` |" not in page} == set()


class TestGenerated:
    """The parts of the reference that ``docs/generate.py`` writes."""

    def test_they_are_fresh(self) -> None:
        """Options, support matrix, hooks, rules and errors are told as the code has them now."""
        ours = [tomllib.loads(path.read_text(encoding="utf-8")) for path in ROOT.glob("plugins/*/pyproject.toml")]
        installed = {each.name for each in distributions()}
        if missing := {each["project"]["name"] for each in ours} - installed:
            pytest.skip(f"needs all plugins; {', '.join(sorted(missing))} are not installed")
        check = subprocess.run([sys.executable, GENERATE, "--check"], capture_output=True, text=True, check=False)
        assert check.returncode == 0, check.stdout + check.stderr

    def test_stale_ones_are_found(self) -> None:
        """A part that says something else is made anew, what stands round it stays, and a second time changes nothing."""
        generate = runpy.run_path(str(GENERATE))["generate"]
        stale = "# Errors\n\n<!-- begin error tree -->\nNoSuchError\n<!-- end -->\n\nThat is all.\n"
        fresh = generate(stale)
        assert "NoSuchError" not in fresh
        assert "PatternError" in fresh
        assert (fresh[:10], fresh[-14:]) == (stale[:10], stale[-14:])
        assert generate(fresh) == fresh


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs" / "examples" / "compose").glob("*.yaml")), ids=lambda path: path.stem
)
def test_compose_files(path: Path) -> None:
    """A compose file names versions, not whatever is the latest; keeps no password; and its data in volumes."""
    yaml = pytest.importorskip("yaml", reason="needs the package pyyaml")
    text = path.read_text(encoding="utf-8")
    file = yaml.safe_load(text)
    volumes = set(file["volumes"])
    for name, service in file["services"].items():
        image, _, version = service["image"].rpartition(":")
        assert image, name
        assert version not in {"", "latest", "nightly"}, name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        for variable, value in service.get("environment", {}).items():
            if re.search("PASS|SECRET|KEY", variable):
                assert re.fullmatch(r"\$\{\w+(:\?[^}]+)?\}", value), f"{name}: {variable}"
        for volume in service.get("volumes", []):
            volumes.discard(volume.partition(":")[0])
    assert not volumes
