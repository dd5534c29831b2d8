"""``pattern migrate``, ``vectors``, ``maintain``, ``backup`` and ``restore``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from pattern_core.maintenance.migrations.migrate import LATEST

Pattern = Callable[..., CompletedProcess[str]]


def _json(answer: CompletedProcess[str]) -> Any:
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


class TestMigrate:
    def test_up_and_down(self, pattern: Pattern, project: Path) -> None:
        """The schema goes up and down again, and each step is reported."""
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

    def test_invalid_version(self, pattern: Pattern, project: Path) -> None:
        """A version that does not exist, or is not below the current one, is rejected."""
        assert pattern("migrate", "plan", "--to", "99").returncode == 1
        assert pattern("migrate", "down", "--to", "0", "--yes").returncode == 1
        assert pattern("migrate", "down", "--yes").returncode == 2
        assert pattern("migrate", "plan", "--to", "-1").returncode == 2


class TestVectors:
    def test_indexes_agree(self, pattern: Pattern, archive: Path) -> None:
        """The indexes agree with the records, by counts and by searches, also after a rebuild."""
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

    def test_table_without_vectors(self, pattern: Pattern, archive: Path) -> None:
        """A table without an index is rejected, with the nearest one that has an index."""
        refused = pattern("vectors", "rebuild", "memory_block")
        assert refused.returncode == 2
        assert "memory_blocks" in refused.stderr

    def test_maintain(self, pattern: Pattern, archive: Path) -> None:
        """`maintain` reports what was done, also if an engine needs no maintenance."""
        assert _json(pattern("maintain", "--json")).keys() == {"storage", "vectors"}
        assert "nothing to do" in pattern("maintain").stdout


class TestBackup:
    def test_backup_and_restore(self, pattern: Pattern, archive: Path) -> None:
        """A new database that restores the backup answers like the old one."""
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
        """`restore` rejects a database that holds records, and changes nothing."""
        assert pattern("backup", "safe").stdout == "Wrote 1 user, 1 agent, 3 memories into safe.\n"

        refused = pattern("restore", "safe")

        assert refused.returncode == 1
        assert "holds records" in refused.stderr
        assert len(_json(pattern("memory", "list", "Archive", "--json"))["items"]) == 3

    def test_restore_after_setup(self, pattern: Pattern, archive: Path) -> None:
        """A database that was set up and never used restores a backup like a new one."""
        pattern("backup", "safe")
        pattern("migrate", "down", "--to", "0", "--yes")
        pattern("migrate", "up")

        assert _json(pattern("restore", "safe", "--json"))["records"]["memory_blocks"] == 3
        assert len(_json(pattern("memory", "list", "Archive", "--json"))["items"]) == 3

    def test_existing_folder(self, pattern: Pattern, archive: Path) -> None:
        """`backup` rejects a folder that exists."""
        (archive / "safe").mkdir()

        assert pattern("backup", "safe").returncode == 2
        assert list((archive / "safe").iterdir()) == []

    def test_incomplete_backup(self, pattern: Pattern, project: Path) -> None:
        """`restore` rejects a folder without a manifest."""
        (project / "half").mkdir()

        refused = pattern("restore", "half", "--json")

        assert refused.returncode == 1
        assert "holds no complete backup" in json.loads(refused.stderr)["error"]["message"]
        assert pattern("restore", "nowhere").returncode == 2
