"""A database moves from a laptop to a server and back, without a change."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pattern_core

pytest.importorskip("pattern_surreal_remote", reason="needs the plugin surreal-remote")
pytest.importorskip("pattern_surreal_embedded", reason="needs the plugin surreal-embedded")

pytestmark = pytest.mark.anyio


def write_config(path: Path, config: dict[str, Any]) -> None:
    """Write a configuration file."""
    lines = []
    for section, values in config.items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {value!r}" for name, value in values.items()]
    path.write_text("\n".join(lines), encoding="utf-8")


def pattern(*arguments: str) -> None:
    """Run the program."""
    command = [sys.executable, "-c", "import sys; from pattern_core.cli import main; sys.exit(main())", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}{done.stderr}"


async def contents(path: Path) -> tuple[list[Any], list[Any]]:
    """Return all memories with their vectors, and the hits of a search."""
    async with pattern_core.open(path) as db:
        memories = [each async for each in db.memories.iterate()]
        hits = await db.memories.search_semantic("a", "word 7 and 11", limit=20)
        return memories, [(hit.memory.id, round(hit.score, 9)) for hit in hits]


async def test_there_and_back(config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pattern backup` and `pattern restore` move every record, revision and vector, in both directions."""
    monkeypatch.chdir(tmp_path)
    embedded = {"type": "surreal-embedded", "path": "pattern.db"}
    write_config(tmp_path / "laptop.toml", {**config, "database": embedded})
    write_config(tmp_path / "server.toml", config)
    write_config(tmp_path / "back.toml", {**config, "database": {**embedded, "path": "back.db"}})
    async with pattern_core.open("laptop.toml") as db:
        await db.users.create(id="u")
        await db.agents.create(user_id="u", agent_type="a", name="A", id="a", state={"n": 1.0, "none": None})
        many = [{"agent_id": "a", "label": f"{n}", "content": f"word {n}", "metadata": {"n": n}} for n in range(300)]
        await db.memories.create_many(many)
        await db.memories.upsert("a", "7", "word 7, changed")
    before = await contents(tmp_path / "laptop.toml")

    pattern("--config", "laptop.toml", "backup", "backups/laptop")
    pattern("--config", "server.toml", "restore", "backups/laptop")
    assert await contents(tmp_path / "server.toml") == before
    pattern("--config", "server.toml", "vectors", "status")

    pattern("--config", "server.toml", "backup", "backups/server")
    pattern("--config", "back.toml", "restore", "backups/server")
    assert await contents(tmp_path / "back.toml") == before
