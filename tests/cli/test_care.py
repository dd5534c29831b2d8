"""``pattern status``, ``doctor``, ``plugins``, ``migrate``, ``backup`` and ``restore``."""

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
    """Put a third party's distribution with one plugin on the path."""
    folder.mkdir()
    (folder / f"third_{name}.py").write_text(source, encoding="utf-8")
    about = folder / f"third_{name}-1.5.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: third-{name}\nVersion: 1.5\n", encoding="utf-8")
    (about / "entry_points.txt").write_text(f"[pattern_core]\n{name} = third_{name}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))


@pytest.fixture
def vault(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose embedding provider takes a secret, from the environment."""
    _install(tmp_path / "site", monkeypatch, "vault", VAULT)
    monkeypatch.setenv("VAULT_KEY", SECRET)
    _configure(project, 'provider = "vault"\napi_key = "${VAULT_KEY}"')
    return project


def _configure(project: Path, embeddings: str) -> None:
    text = f'[database]\ntype = "surreal-embedded"\npath = "./pattern.db"\n\n[embeddings]\n{embeddings}\n'
    (project / "pattern.toml").write_text(text, encoding="utf-8")


class TestStatus:
    def test_of_a_new_project(self, pattern: Pattern, project: Path) -> None:
        """Looking makes nothing and sets up nothing, and says so."""
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

    def test_of_a_used_one(self, pattern: Pattern, archive: Path) -> None:
        """The model, the records and the vectors are told."""
        found = _json(pattern("status", "--json"))

        assert found["schema"]["version"] == LATEST
        assert found["embeddings"]["signature"]["provider"] == "hashing"
        assert found["records"]["memory_blocks"] == 3
        assert found["records"]["agents"] == 1
        assert found["vectors"]["counts"] == {"memory_blocks": 3, "messages": 0, "tasks": 0}
        lines = dict(line.split("\t") for line in pattern("status").stdout.splitlines())
        assert lines["memories"] == "3"
        assert lines["database"] == f"surreal-embedded, {archive / 'pattern.db'}"

    def test_of_one_that_others_have_open(self, pattern: Pattern, archive: Path) -> None:
        """Where the database is locked, the configuration and the owner are told, and the exit code is 1."""

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
    def test_with_another_model(self, pattern: Pattern, archive: Path, embeddings: str, said: str) -> None:
        """A model that is missing, or did not make the database's vectors, is a warning beside the counts."""
        _configure(archive, embeddings)

        answer = pattern("status")

        assert answer.returncode == 0
        assert "memories\t3" in answer.stdout
        assert answer.stderr.startswith("Warning: ")
        assert said in answer.stderr
        assert _json(pattern("status", "--json"))["warnings"]


class TestDoctor:
    def test_all_is_well(self, pattern: Pattern, archive: Path) -> None:
        """Every check is a line; the lexical embedder is worth a warning, not a failure."""
        answer = pattern("doctor")

        assert answer.returncode == 0
        states = {line.split("\t")[1]: line.split("\t")[0] for line in answer.stdout.splitlines()}
        names = ["program", "configuration", "storage", "vectors", "embeddings", "database", "schema", "model", "index"]
        assert list(states) == names
        assert {name for name, state in states.items() if state != "ok"} == {"model"}
        assert states["model"] == "warn"
        assert "3 of 3 vectors of memories" in answer.stdout

    def test_as_json(self, pattern: Pattern, project: Path) -> None:
        """A program gets the checks and the verdict; a new database is well, and is not set up by checking."""
        for _ in range(2):
            found = _json(pattern("doctor", "--json"))

            assert found["ok"] is True
            assert {"name": "configuration", "state": "ok", "message": str(project / "pattern.toml")} in found["checks"]
            assert "not set up yet" in found["checks"][6]["message"]

    def test_without_a_configuration(self, pattern: Pattern) -> None:
        """Where there is no configuration, it says how to get one, and checks no further."""
        answer = pattern("doctor")

        assert answer.returncode == 1
        assert answer.stdout.splitlines()[-1].startswith("fail\tconfiguration\tno configuration found")
        assert "pattern init" in answer.stdout

    def test_a_missing_plugin(self, pattern: Pattern, project: Path) -> None:
        """A plugin that is not installed fails by itself; what does not need it is checked all the same."""
        _configure(project, 'provider = "no-such-provider"')

        answer = pattern("doctor", "--json")

        assert answer.returncode == 1
        found = {check["name"]: check for check in json.loads(answer.stdout)["checks"]}
        assert found["embeddings"]["state"] == "fail"
        assert "not installed" in found["embeddings"]["message"]
        assert found["database"]["state"] == "ok"
        assert "model" not in found

    def test_another_model(self, pattern: Pattern, archive: Path) -> None:
        """A model that did not make the database's vectors fails."""
        _configure(archive, 'provider = "hashing"\ndimensions = 64')

        answer = pattern("doctor")

        assert answer.returncode == 1
        assert "fail\tmodel\tthis database's vectors are from hashing" in answer.stdout

    def test_a_newer_database(self, pattern: Pattern, archive: Path) -> None:
        """A database that a newer library has migrated fails, with the way out, and stays as it is."""

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

    def test_an_unknown_option(self, pattern: Pattern, project: Path) -> None:
        """An option that the plugin does not know is told once, as the configuration's mistake, with the nearest one."""
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
        """Whatever works or fails, the secret is in no output, tracebacks included."""
        _configure(vault, f'provider = "vault"\napi_key = "${{VAULT_KEY}}"\n{options}')
        monkeypatch.setenv("PATTERN_TRACEBACK", "1")

        in_words, as_json = pattern(*verb), pattern(*verb, "--json")

        for answer in (in_words, as_json):
            assert answer.stdout + answer.stderr
            assert SECRET not in answer.stdout + answer.stderr
        if verb == ("doctor",):
            assert as_json.returncode == (1 if options else 0)

    def test_a_missing_variable(self, pattern: Pattern, vault: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A variable of the environment that is not set is named."""
        monkeypatch.delenv("VAULT_KEY")

        answer = pattern("doctor")

        assert answer.returncode == 1
        assert "environment variable VAULT_KEY" in answer.stdout

    def test_an_address_without_its_password(self, vault: Path) -> None:
        """A server's address is shown without the user and password in it."""
        database = {"type": "vault", "url": f"wss://root:{SECRET}@db.example:8000/rpc?token={SECRET}"}

        assert location_of(load_config({"database": database})) == "wss://db.example:8000/rpc"


class TestPlugins:
    def test_list(self, pattern: Pattern) -> None:
        """Every installed plugin is told, with its role, distribution and version."""
        found = {each["name"]: each for each in _json(pattern("plugins", "--json"))["items"]}

        assert found.keys() == {entry.name for entry in entry_points(group="pattern_core")}
        assert found["hashing"]["roles"] == ["embeddings"]
        assert found["hashing"]["distribution"] == "pattern-core"
        assert found["hashing"]["loaded"] is True
        assert "exact\tvector search\tpattern-core\t" in pattern("plugins").stdout

    def test_what_is_used_and_what_could_be_had(
        self, pattern: Pattern, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The plugins that the configuration uses are marked; published ones that are missing tell how to get them."""
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

    def test_one_that_is_broken(self, pattern: Pattern, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that cannot be imported says why, and does no harm to the others."""
        _install(tmp_path / "site", monkeypatch, "rusty", "import no_such_module_anywhere")

        found = {each["name"]: each for each in _json(pattern("plugins", "--json"))["items"]}
        answer = pattern("plugins")

        assert found["rusty"]["loaded"] is False
        assert found["rusty"]["version"] == "1.5"
        assert "no_such_module_anywhere" in found["rusty"]["error"]
        assert found["hashing"]["loaded"] is True
        assert "rusty\t\tthird-rusty\t1.5\tfails" in answer.stdout
        assert "no_such_module_anywhere" in answer.stderr


class TestMigrate:
    def test_up_and_down(self, pattern: Pattern, project: Path) -> None:
        """The schema goes up, and down again, and each step is told."""
        assert pattern("migrate", "status").stdout == f"Schema version 0 of {LATEST}: {LATEST} to apply.\n"
        plan = _json(pattern("migrate", "plan", "--json"))
        assert (plan["current"], plan["target"]) == (0, LATEST)
        assert [each["version"] for each in plan["migrations"]] == [*range(1, LATEST + 1)]
        assert "up\tcreate the tables" in pattern("migrate", "plan").stdout

        assert _json(pattern("migrate", "up", "--json")) == plan
        assert _json(pattern("migrate", "status", "--json")) == {"current": LATEST, "latest": LATEST, "pending": 0}
        assert "Nothing to do" in pattern("migrate", "plan").stderr
        assert "0 migrations were applied" in pattern("migrate", "up").stdout
        assert "down\tcreate the tables" in pattern("migrate", "plan", "--to", "0").stdout

        assert pattern("migrate", "down", "--to", "0").returncode == 2
        assert _json(pattern("migrate", "down", "--to", "1", "--yes", "--json"))["target"] == 1
        assert _json(pattern("migrate", "up", "--json"))["current"] == 1
        down = _json(pattern("migrate", "down", "--to", "0", "--yes", "--json"))
        assert (down["current"], down["target"]) == (LATEST, 0)
        assert _json(pattern("migrate", "status", "--json"))["current"] == 0
        assert list((project / "pattern-backups").iterdir())

    def test_to_a_version_that_is_none(self, pattern: Pattern, project: Path) -> None:
        """A version that does not exist, or is not below, is refused."""
        assert pattern("migrate", "plan", "--to", "99").returncode == 1
        assert pattern("migrate", "down", "--to", "0", "--yes").returncode == 1
        assert pattern("migrate", "down", "--yes").returncode == 2
        assert pattern("migrate", "plan", "--to", "-1").returncode == 2


class TestVectors:
    def test_they_agree(self, pattern: Pattern, archive: Path) -> None:
        """The indexes hold what the records have, by counting and by looking for each; a new one does, too."""
        found = {each["table"]: each for each in _json(pattern("vectors", "status", "--json"))["items"]}
        assert found["memory_blocks"] == {
            "ok": True,
            "table": "memory_blocks",
            "vectors": 3,
            "indexed": 3,
            "pending": 0,
        }
        (report,) = _json(pattern("vectors", "verify", "memory_blocks", "--json"))["items"]
        assert (report["ok"], report["checked"], report["surplus"]) == (True, 3, 0)
        assert "memory_blocks\t3\t0\t0\n" in pattern("vectors", "verify").stdout
        assert _json(pattern("vectors", "rebuild", "memory_blocks", "--json")) == {"vectors": {"memory_blocks": 3}}
        assert "memory_blocks\t3\t3\t0\n" in pattern("vectors", "status").stdout

    def test_a_table_without_vectors(self, pattern: Pattern, archive: Path) -> None:
        """A table that has no index is refused, with the nearest that has one."""
        refused = pattern("vectors", "rebuild", "memory_block")
        assert refused.returncode == 2
        assert "memory_blocks" in refused.stderr

    def test_upkeep(self, pattern: Pattern, archive: Path) -> None:
        """What there was to do is told, also where an engine needs no upkeep."""
        assert _json(pattern("maintain", "--json")).keys() == {"storage", "vectors"}
        assert "nothing to do" in pattern("maintain").stdout


class TestBackup:
    def test_there_and_back(self, pattern: Pattern, archive: Path) -> None:
        """A new database that reads the backup answers as the old one did."""
        before = _json(pattern("search", "Archive", "espresso", "--json"))["items"]
        wrote = _json(pattern("backup", "safe", "--json"))
        assert wrote["records"]["memory_blocks"] == 3
        assert wrote["folder"] == str(archive / "safe")
        (archive / "new").mkdir()
        (archive / "new" / "pattern.toml").write_bytes((archive / "pattern.toml").read_bytes())
        there = ("--config", "new/pattern.toml")

        answer = pattern(*there, "restore", "safe")

        assert answer.stdout == "Read 1 user, 1 agent, 3 memories from safe.\n"
        assert _json(pattern(*there, "search", "Archive", "espresso", "--json"))["items"] == before
        assert _json(pattern("doctor", *there, "--json"))["ok"] is True

    def test_restore_over_records(self, pattern: Pattern, archive: Path) -> None:
        """A database that holds records is left as it is."""
        assert pattern("backup", "safe").stdout == "Wrote 1 user, 1 agent, 3 memories into safe.\n"

        refused = pattern("restore", "safe")

        assert refused.returncode == 1
        assert "holds records" in refused.stderr
        assert len(_json(pattern("memory", "list", "Archive", "--json"))["items"]) == 3

    def test_restore_into_one_that_was_only_set_up(self, pattern: Pattern, archive: Path) -> None:
        """A database that was set up and never used reads a backup like a new one."""
        pattern("backup", "safe")
        pattern("migrate", "down", "--to", "0", "--yes")
        pattern("migrate", "up")

        assert _json(pattern("restore", "safe", "--json"))["records"]["memory_blocks"] == 3
        assert len(_json(pattern("memory", "list", "Archive", "--json"))["items"]) == 3

    def test_into_a_folder_that_is_there(self, pattern: Pattern, archive: Path) -> None:
        """A backup never goes where something is."""
        (archive / "safe").mkdir()

        assert pattern("backup", "safe").returncode == 2
        assert list((archive / "safe").iterdir()) == []

    def test_restore_from_what_is_no_backup(self, pattern: Pattern, project: Path) -> None:
        """A folder without a manifest is no complete backup."""
        (project / "half").mkdir()

        refused = pattern("restore", "half", "--json")

        assert refused.returncode == 1
        assert "holds no complete backup" in json.loads(refused.stderr)["error"]["message"]
        assert pattern("restore", "nowhere").returncode == 2
