"""The hooks, the options, and the imports of the plugin."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pattern_core
from pattern_core.errors import ConfigError
from pattern_core.hookspecs import StorageSpec, VectorSpec
from pattern_core.toolkit import ExactIndex, Secret, load_plugin, structure_options
from pattern_surreal_remote.plugin import StorageOptions, VectorOptions
from pattern_surreal_remote.storage import RemoteStorage
from tests.servers.surreal import Server

pytestmark = pytest.mark.anyio


async def test_it_is_found_by_its_names(server: Server) -> None:
    """The names in a configuration load the storage and its vector search."""
    storage_spec, vector_spec = load_plugin("remote", StorageSpec), load_plugin("surreal-remote", VectorSpec)
    assert storage_spec.vectors == "surreal-remote"
    options = structure_options(storage_spec.options, server.section(), section="database", base=Path())
    async with await storage_spec.open(options) as storage:
        assert isinstance(storage, RemoteStorage)
        assert storage.version >= (3, 0, 0)
        async with await vector_spec.open(VectorOptions(), storage) as vectors:
            assert isinstance(vectors, ExactIndex)


async def test_a_program_uses_it(server: Server) -> None:
    """A program needs only a configuration that names a server."""
    config = {"database": {"type": "remote", **server.section()}, "embeddings": {"provider": "hashing"}}
    for _ in range(2):
        async with pattern_core.open(config) as db:
            user = await db.users.create()
            agent = await db.agents.create(user_id=user.id, agent_type="archive", name="Archive")
            memory = await db.memories.create(agent_id=agent.id, label="coffee", content="Ada drinks one espresso.")
            found = await db.memories.search_semantic(agent.id, "espresso", limit=5)
            assert [hit.memory.id for hit in found] == [memory.id]
            await db.users.delete(user.id, cascade=True)
            assert await db.memories.count() == 0


def test_options_become_what_they_are(tmp_path: Path) -> None:
    """Sections, secrets and paths are read from TOML."""
    given = {
        "url": "wss://db.example.org/rpc",
        "namespace": "acme",
        "access": "people",
        "credentials": {"name": "ada", "word": "hush"},
        "ca_file": "ca.pem",
        "timeout": 5,
        "pool_size": 2,
    }
    options = structure_options(StorageOptions, given, section="database", base=tmp_path)
    assert options == StorageOptions(
        url="wss://db.example.org/rpc",
        namespace="acme",
        access="people",
        credentials={"name": Secret("ada"), "word": Secret("hush")},
        ca_file=tmp_path / "ca.pem",
        timeout=5,
        pool_size=2,
    )


@pytest.mark.parametrize(
    "given",
    [
        {"url": "localhost:8000"},
        {"url": "ws://"},
        {"url": "ws://localhost/sql"},
        {"namespace": ""},
        {"namespace": "a`b"},
        {"database": "a\nb"},
        {"username": "ada"},
        {"password": "hush"},
        {"level": "table"},
        {"credentials": {"name": "ada"}},
        {"refresh_token": "hush"},
        {"timeout": 0},
        {"connect_timeout": -1},
        {"idle_timeout": "30"},
        {"pool_size": 0},
        {"max_frame": 1},
        {"max_answer": 1},
        {"insecure": True},
    ],
    ids=lambda given: " ".join(f"{name}={value}" for name, value in given.items()),
)
def test_options_are_checked(given: dict[str, Any]) -> None:
    """An invalid value raises an error that names the option."""
    with pytest.raises(ConfigError, match=next(iter(given))):
        structure_options(StorageOptions, given, section="database", base=Path())


def test_names_of_any_kind(server: Server) -> None:
    """Names of namespaces and databases with characters that could change a statement are rejected."""
    for sign in "`\\⟨⟩\0\n\r":
        with pytest.raises(ValueError, match="namespace"):
            StorageOptions(namespace=f"a{sign}b")
    StorageOptions(namespace="a b-c.d'\"; DROP", database="é😀")


def test_importing_it_imports_no_driver() -> None:
    """Importing the hooks imports no SDK, driver or Arrow."""
    program = (
        "import sys; import pattern_surreal_remote.plugin as plugin; plugin.pattern_storage(); "
        "plugin.pattern_vectors(); print(*sorted({'surrealdb', 'websockets', 'aiohttp', 'pyarrow', 'pattern_surreal'} & "
        "sys.modules.keys()))"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ended.stdout.split() == []
