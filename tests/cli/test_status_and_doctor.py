"""``pattern status``, ``doctor`` and ``plugins``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from pattern_core.assembly.opening import open_storage
from pattern_core.catalog.metadata import read_metadata, record_schema_version
from pattern_core.cli.configured import location_of
from pattern_core.config import Config, load_config
from pattern_core.maintenance.migrations.migrate import LATEST
from pattern_core.plugins.discovery import EXTRAS
from pattern_core.plugins.install_hint import install_command, upgrade_command

Pattern = Callable[..., CompletedProcess[str]]

SECRET = "s3cret-and-never-shown"
VAULT = """
import attrs
from pattern_core.errors import ModelUnavailableError
from pattern_core.embedding import hashing
from pattern_core.hookspecs import EmbeddingSpec, StorageSpec, hookimpl
from pattern_core.support.options import Secret

@attrs.frozen
class Options:
    api_key: Secret
    reachable: bool = True

@attrs.frozen
class StorageOptions:
    url: str

async def connect(options):
    if not options.reachable:
        raise ModelUnavailableError(f"the vault does not answer to {options}", provider="vault")
    return await hashing.pattern_embeddings().open(hashing.HashingOptions())

@hookimpl
def pattern_embeddings():
    return EmbeddingSpec(options=Options, open=connect, summary="a service that wants a key")

@hookimpl
def pattern_storage():
    return StorageSpec(options=StorageOptions, open=connect)
"""


def _json(answer: CompletedProcess[str]) -> Any:
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def _install(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> None:
    """Install another author's distribution with one plugin, by way of the import path."""
    folder.mkdir()
    (folder / f"third_{name}.py").write_text(source, encoding="utf-8")
    about = folder / f"third_{name}-1.5.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: third-{name}\nVersion: 1.5\n", encoding="utf-8")
    (about / "entry_points.txt").write_text(f"[pattern_core]\n{name} = third_{name}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))


@pytest.fixture
def vault(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project whose embedding provider takes a secret from the environment."""
    _install(tmp_path / "site", monkeypatch, "vault", VAULT)
    monkeypatch.setenv("VAULT_KEY", SECRET)
    _configure(project, 'provider = "vault"\napi_key = "${VAULT_KEY}"')
    return project


def _configure(project: Path, embeddings: str) -> None:
    text = f'[database]\ntype = "surreal-embedded"\npath = "./pattern.db"\n\n[embeddings]\n{embeddings}\n'
    (project / "pattern.toml").write_text(text, encoding="utf-8")


class TestStatus:
    def test_new_project(self, pattern: Pattern, project: Path) -> None:
        """`status` creates nothing and sets up nothing, and says what the next use does."""
        found = _json(pattern("status", "--json"))

        assert found["config"] == str(project / "pattern.toml")
        assert found["database"]["location"] == str(project / "pattern.db")
        assert found["database"]["ok"] is True
        assert found["schema"] == {"version": 0, "latest": LATEST}
        assert found["embeddings"] == {"provider": "hashing", "signature": None}
        assert found["records"] == {}
        assert found["database"]["exists"] is False
        in_words = pattern("status")
        assert "The next use sets up or migrates the database." in in_words.stderr
        assert "does not exist yet" in in_words.stdout
        assert [each.name for each in project.iterdir()] == ["pattern.toml"]

    def test_used_project(self, pattern: Pattern, archive: Path) -> None:
        """`status` shows the model, the records and the vectors."""
        found = _json(pattern("status", "--json"))

        assert found["schema"]["version"] == LATEST
        assert found["embeddings"]["signature"]["provider"] == "hashing"
        assert found["records"]["memory_blocks"] == 3
        assert found["records"]["agents"] == 1
        assert found["vectors"]["counts"] == {"memory_blocks": 3, "messages": 0, "tasks": 0}
        lines = dict(line.split("\t") for line in pattern("status").stdout.splitlines())
        assert lines["memories"] == "3"
        assert lines["database"] == f"surreal-embedded, {archive / 'pattern.db'}"

    def test_locked_database(self, pattern: Pattern, archive: Path) -> None:
        """If the database is locked, `status` shows the configuration and the owner, and exits with 1."""

        async def look() -> tuple[CompletedProcess[str], CompletedProcess[str]]:
            async with open_storage(load_config(archive / "pattern.toml")):
                in_words = await asyncio.to_thread(pattern, "status")
                return in_words, await asyncio.to_thread(pattern, "status", "--json")

        in_words, as_json = asyncio.run(look())

        assert (in_words.returncode, as_json.returncode) == (1, 1)
        assert f"configuration\t{archive / 'pattern.toml'}" in in_words.stdout
        assert "this process on " in in_words.stdout
        found = json.loads(as_json.stdout)
        assert found["database"]["ok"] is False
        assert "this process on " in found["database"]["error"]

    @pytest.mark.parametrize(
        ("embeddings", "said"),
        [
            ('provider = "no-such-provider"', "is not installed"),
            ('provider = "hashing"\ndimensions = 64', "dimensions = 64"),
            ('provider = "hashing"\ndimension = 64', "Did you mean 'dimensions'?"),
        ],
        ids=["missing", "another", "wrong"],
    )
    def test_other_model(self, pattern: Pattern, archive: Path, embeddings: str, said: str) -> None:
        """`status` warns of a model that is missing or did not make the database's vectors, and still shows the counts."""
        _configure(archive, embeddings)

        answer = pattern("status")

        assert answer.returncode == 0
        assert "memories\t3" in answer.stdout
        assert answer.stderr.startswith("Warning: ")
        assert said in answer.stderr
        assert _json(pattern("status", "--json"))["warnings"]


class TestDoctor:
    def test_all_is_well(self, pattern: Pattern, archive: Path) -> None:
        """Every check is a line; the lexical provider gets a warning, not a failure."""
        answer = pattern("doctor")

        assert answer.returncode == 0
        states = {line.split("\t")[1]: line.split("\t")[0] for line in answer.stdout.splitlines()}
        names = ["program", "configuration", "storage", "vectors", "embeddings", "database", "schema", "model", "index"]
        assert list(states) == names
        assert {name for name, state in states.items() if state != "ok"} == {"model"}
        assert states["model"] == "warn"
        assert "3 of 3 vectors of memories" in answer.stdout

    def test_json(self, pattern: Pattern, project: Path) -> None:
        """With --json, `doctor` prints the checks and the verdict. A new database passes, and is not set up."""
        for _ in range(2):
            found = _json(pattern("doctor", "--json"))

            assert found["ok"] is True
            assert {"name": "configuration", "state": "ok", "message": str(project / "pattern.toml")} in found["checks"]
            assert "not set up yet" in found["checks"][6]["message"]

    def test_no_configuration(self, pattern: Pattern) -> None:
        """Without a configuration, `doctor` says how to create one, and stops."""
        answer = pattern("doctor")

        assert answer.returncode == 1
        assert answer.stdout.splitlines()[-1].startswith("fail\tconfiguration\tno configuration found")
        assert "pattern init" in answer.stdout

    def test_missing_plugin(self, pattern: Pattern, project: Path) -> None:
        """A missing plugin fails its own check; the checks that do not need it still run."""
        _configure(project, 'provider = "no-such-provider"')

        answer = pattern("doctor", "--json")

        assert answer.returncode == 1
        found = {check["name"]: check for check in json.loads(answer.stdout)["checks"]}
        assert found["embeddings"]["state"] == "fail"
        assert "not installed" in found["embeddings"]["message"]
        assert found["database"]["state"] == "ok"
        assert "model" not in found

    def test_model_of_other_vectors(self, pattern: Pattern, archive: Path) -> None:
        """A model that did not make the database's vectors fails."""
        _configure(archive, 'provider = "hashing"\ndimensions = 64')

        answer = pattern("doctor")

        assert answer.returncode == 1
        assert "fail\tmodel\tthis database's vectors are from hashing" in answer.stdout

    def test_newer_database(self, pattern: Pattern, archive: Path) -> None:
        """A database of a newer library fails, with the way out, and is not changed."""

        async def move(config: Config) -> None:
            async with open_storage(config) as storage:
                known = await read_metadata(storage)
                assert known.signature is not None
                await storage.commit([record_schema_version(known, 99, known.signature)])

        asyncio.run(move(load_config(archive / "pattern.toml")))

        answer = pattern("doctor")
        assert answer.returncode == 1
        assert "fail\tschema\tthe database has schema version 99" in answer.stdout
        assert upgrade_command() in answer.stdout
        assert _json(pattern("status", "--json"))["schema"] == {"version": 99, "latest": LATEST}
        assert pattern("memory", "list", "Archive").returncode == 1

    def test_unknown_option(self, pattern: Pattern, project: Path) -> None:
        """An unknown option is reported once, as a failure of the configuration, with the nearest one."""
        _configure(project, 'provider = "hashing"\ndimension = 64')
        first = pattern("doctor")
        (project / "pattern.toml").write_text('[database]\npaht = "x"\n[embeddings]\nprovider = "hashing"\n')
        second = pattern("doctor")

        for answer, meant in ((first, "dimensions"), (second, "path")):
            assert answer.returncode == 1
            failed = [line for line in answer.stdout.splitlines() if line.startswith("fail")]
            assert len(failed) == 1
            assert failed[0].startswith("fail\tconfiguration\t")
            assert f"Did you mean {meant!r}?" in failed[0]
            assert "ok\tconfiguration" not in answer.stdout

    @pytest.mark.parametrize("options", ["", "reachable = false", "reachable = 1", "mode = 1", "api_keys = 1"])
    @pytest.mark.parametrize("verb", [("doctor",), ("status",), ("agent", "add", "Archive"), ("plugins",)])
    def test_secrets_never_show(
        self, pattern: Pattern, vault: Path, options: str, verb: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A secret is in no output, whether the verb works or fails, not even in a traceback."""
        _configure(vault, f'provider = "vault"\napi_key = "${{VAULT_KEY}}"\n{options}')
        monkeypatch.setenv("PATTERN_TRACEBACK", "1")

        in_words, as_json = pattern(*verb), pattern(*verb, "--json")

        for answer in (in_words, as_json):
            assert answer.stdout + answer.stderr
            assert SECRET not in answer.stdout + answer.stderr
        if verb == ("doctor",):
            assert as_json.returncode == (1 if options else 0)

    def test_missing_variable(self, pattern: Pattern, vault: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """`doctor` names an environment variable that is not set."""
        monkeypatch.delenv("VAULT_KEY")

        answer = pattern("doctor")

        assert answer.returncode == 1
        assert "environment variable VAULT_KEY" in answer.stdout

    def test_url_without_password(self, vault: Path) -> None:
        """A server's URL is shown without user name, password and query."""
        database = {"type": "vault", "url": f"wss://root:{SECRET}@db.example:8000/rpc?token={SECRET}"}

        assert location_of(load_config({"database": database})) == "wss://db.example:8000/rpc"


class TestPlugins:
    def test_list(self, pattern: Pattern) -> None:
        """`plugins` lists every installed plugin with its role, distribution and version."""
        found = {each["name"]: each for each in _json(pattern("plugins", "--json"))["items"]}

        assert found.keys() == {entry.name for entry in entry_points(group="pattern_core")}
        assert found["hashing"]["roles"] == ["embeddings"]
        assert found["hashing"]["distribution"] == "pattern-core"
        assert found["hashing"]["loaded"] is True
        assert "exact\tvector search\tpattern-core\t" in pattern("plugins").stdout

    def test_used_and_missing_plugins(self, pattern: Pattern, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """`plugins` marks those that the configuration uses, and says how to install the missing ones."""
        found = _json(pattern("plugins", "--json"))
        assert {each["name"] for each in found["items"] if each["used"]} == {"surreal-embedded", "hashing"}
        assert "hashing\tembeddings\tpattern-core\t" in pattern("plugins").stdout
        assert "\tin use\n" in pattern("plugins").stdout

        only_core = [entry for entry in entry_points(group="pattern_core") if entry.value.startswith("pattern_core.")]
        monkeypatch.setattr("pattern_core.plugins.discovery.entry_points", lambda **_: only_core)

        found = _json(pattern("plugins", "--json"))
        assert {each["name"]: each["install"] for each in found["available"]} == {
            name: install_command(extra) for name, extra in EXTRAS.items()
        }
        assert {"name": "cohere", "install": install_command("cloud")} in found["available"]
        assert f"Not installed: torch. {install_command('torch')}" in pattern("plugins").stderr

    def test_broken_plugin(self, pattern: Pattern, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A plugin that cannot be imported is listed with the reason, and does not affect the others."""
        _install(tmp_path / "site", monkeypatch, "rusty", "import no_such_module_anywhere")

        found = {each["name"]: each for each in _json(pattern("plugins", "--json"))["items"]}
        answer = pattern("plugins")

        assert found["rusty"]["loaded"] is False
        assert found["rusty"]["version"] == "1.5"
        assert "no_such_module_anywhere" in found["rusty"]["error"]
        assert found["hashing"]["loaded"] is True
        assert "rusty\t\tthird-rusty\t1.5\tfails" in answer.stdout
        assert "no_such_module_anywhere" in answer.stderr
