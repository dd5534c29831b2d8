"""``pattern plugin new``: a folder with a plugin, whose tests run at once."""

from __future__ import annotations

import ast
import json
import re
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Run = Callable[..., CompletedProcess[str]]

ROLES = ("storage", "vectors", "embeddings")
LIST = "import sys; from pattern_core.cli import main; sys.exit(main(['plugins', '--json']))"


@pytest.mark.parametrize("role", ROLES)
class TestNewPlugin:
    """`plugin new` creates a distribution that can be installed and tested."""

    @pytest.fixture
    def folder(self, role: str, here: Path, pattern: Run) -> Path:
        answer = pattern("plugin", "new", "my-engine", "--role", role)
        assert answer.returncode == 0, answer.stderr
        return here / "pattern-my-engine"

    def test_files(self, role: str, folder: Path) -> None:
        """Every file is complete, without placeholders, and the metadata name the plugin."""
        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        module = {"storage": "storage", "vectors": "vectors", "embeddings": "embedder"}[role]
        package = "src/pattern_my_engine"
        sources = {f"{package}/{name}.py" for name in ("__init__", "options", "plugin", module)}
        assert files == sources | {f"{package}/py.typed", "pyproject.toml", "README.md", "tests/test_conformance.py"}
        for name in sorted(files):
            text = (folder / name).read_text(encoding="utf-8")
            assert "$" not in text, name
            if name.endswith(".py"):
                ast.parse(text)
                assert "from .plugin" not in text, f"{name} and plugin.py import each other"
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert project["name"] == "pattern-my-engine"
        assert any(re.fullmatch(r"pattern-core>=\d+\.\d+,<[\d.]+", each) for each in project["dependencies"])
        assert project["entry-points"] == {"pattern_core": {"my-engine": "pattern_my_engine.plugin"}}

    def test_plugins_lists_it(self, role: str, folder: Path, run_installed: Run) -> None:
        """Once installed, `pattern plugins` lists it with its role and without an error."""
        answer = run_installed(folder, "-c", LIST)
        (found,) = [each for each in json.loads(answer.stdout)["items"] if each["name"] == "my-engine"]
        assert found["error"] is None
        assert found["roles"] == [{"storage": "storage", "vectors": "vector search", "embeddings": "embeddings"}[role]]

    def test_its_tests_say_what_to_write(self, role: str, folder: Path, run_installed: Run) -> None:
        """The whole kit runs. No rule that applies passes yet, and each says "write this"."""
        report = folder / "report.xml"
        command = ("-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", f"--junitxml={report}")
        answer = run_installed(folder, *command)
        assert answer.returncode == 1, answer.stdout  # tests have failed, and nothing worse has happened
        rules = [each for each in ET.parse(report).iter("testcase") if each.find("skipped") is None]
        assert len(rules) > 10
        for rule in rules:
            said = [each.get("message", "") for each in (*rule.iter("failure"), *rule.iter("error"))]
            assert said, f"{rule.get('name')} passed"
            assert all("NotImplementedError: write this: " in each for each in said), (rule.get("name"), said)


class TestRefusal:
    """If the command line is wrong, no file is created."""

    @pytest.mark.parametrize(
        "name", ["", "Redis", "my_engine", "1st", "-x", "a--b", "a-", "x" * 41, "../up", "a b", "é", "a\n", "$name"]
    )
    def test_invalid_name(self, name: str, here: Path, pattern: Run) -> None:
        """A name with anything but lower-case letters, digits and single hyphens is rejected."""
        answer = pattern("plugin", "new", "--role", "storage", "--", name)
        assert answer.returncode == 2
        assert "is not a valid plugin name" in answer.stderr
        assert not list(here.iterdir())

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("hashing", "belongs to pattern-core"),
            ("embedded", "belongs to pattern-core"),
            ("torch", "belongs to"),
            ("core", "part of pattern-core"),
            ("core-redis", "part of pattern-core"),
        ],
    )
    def test_name_that_exists(self, name: str, reason: str, here: Path, pattern: Run) -> None:
        """The name of an installed or published plugin, or one like the core's, is rejected."""
        answer = pattern("plugin", "new", name, "--role", "storage")
        assert answer.returncode == 2
        assert reason in " ".join(answer.stderr.split())
        assert not list(here.iterdir())

    @pytest.mark.parametrize("there", ["empty folder", "full folder", "file", "dangling link"])
    def test_target_that_exists(self, there: str, here: Path, pattern: Run) -> None:
        """Whatever has the name of the folder is not changed."""
        target = here / "pattern-redis"
        if there == "file":
            target.write_text("mine")
        elif there == "dangling link":
            target.symlink_to("nowhere")
        else:
            target.mkdir()
            if there == "full folder":
                (target / "mine").write_text("mine")
        before = sorted(here.rglob("*"))
        answer = pattern("plugin", "new", "redis", "--role", "storage")
        assert answer.returncode == 2
        assert "exists. --folder names another one." in answer.stderr
        assert sorted(here.rglob("*")) == before

    def test_folder_inside_a_file(self, here: Path, pattern: Run) -> None:
        """A folder inside a file is rejected, with the reason."""
        (here / "file").write_text("mine")
        answer = pattern("plugin", "new", "redis", "--role", "storage", "--folder", "file/deep")
        assert answer.returncode == 2
        assert "file/deep cannot be created" in " ".join(answer.stderr.split())
        assert [path.name for path in here.iterdir()] == ["file"]

    def test_invalid_role(self, here: Path, pattern: Run) -> None:
        """An unknown role, or none, is a usage error."""
        assert pattern("plugin", "new", "redis", "--role", "storge").returncode == 2
        assert pattern("plugin", "new", "redis").returncode == 2
        assert not list(here.iterdir())


def test_other_folder(here: Path, pattern: Run) -> None:
    """--folder names the folder, with parents; --json describes it; nothing else is left behind."""
    answer = pattern("plugin", "new", "redis", "--role", "vectors", "--folder", "deep/er/place", "--json")
    assert answer.returncode == 0, answer.stderr
    made = json.loads(answer.stdout)
    assert made["folder"] == str(here / "deep" / "er" / "place")
    assert (made["name"], made["role"], made["package"]) == ("redis", "vectors", "pattern_redis")
    assert [path.name for path in (here / "deep" / "er").iterdir()] == ["place"]
    assert (here / "deep" / "er" / "place" / "src" / "pattern_redis" / "vectors.py").is_file()
