"""Discovery and loading of plugins, with real distributions on the path."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pattern_core
from pattern_core.errors import ConfigError, DuplicatePluginError, PluginError, PluginNotFoundError
from pattern_core.hookspecs import EmbeddingSpec, StorageSpec, VectorSpec
from pattern_core.plugins.discovery import Role, installed_plugins, load_plugin
from pattern_core.plugins.install_hint import install_command

Install = Callable[..., None]

GOOD = """
import attrs
from pattern_core.hookspecs import StorageSpec, hookimpl

@attrs.frozen
class Options:
    pass

async def open(options): ...

@hookimpl
def pattern_storage():
    return StorageSpec(options=Options, open=open, summary="keeps things")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """A function that installs a distribution: a module, with the metadata that pip writes."""

    def _install(distribution: str, module: str, source: str, *names: str) -> None:
        site = tmp_path / distribution
        info = site / f"{distribution}-1.5.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
        entries = "\n".join(f"{name} = {module}" for name in names)
        (info / "entry_points.txt").write_text(f"[pattern_core]\n{entries}\n")
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return _install


def test_a_valid_plugin(install: Install) -> None:
    """A plugin is found by the name of its entry point, with its distribution, version and roles."""
    install("acme-store", "acme_store", GOOD, "acme")

    assert load_plugin("acme", StorageSpec).summary == "keeps things"
    info = next(info for info in installed_plugins() if info.name == "acme")
    assert (info.distribution, info.version, info.roles, info.error) == ("acme-store", "1.5", (Role.STORAGE,), None)


def test_built_in_plugins() -> None:
    """The core's own plugins, exact search and the hashing embedder, load like any other."""
    assert load_plugin("exact", VectorSpec).metrics == {"cosine", "euclidean", "manhattan"}
    assert load_plugin("hashing", EmbeddingSpec).semantic is False


def test_a_missing_plugin() -> None:
    """An error about a missing plugin has the command that installs it, or suggests an installed one."""
    with pytest.raises(PluginNotFoundError, match="Did you mean 'hashing'") as caught:
        load_plugin("hashin", EmbeddingSpec)
    assert caught.value.name == "hashin"
    installed = {info.name for info in installed_plugins()}
    for name, extra in (("embedded", "surreal-embedded"), ("candle", "torch")):
        if extra not in installed:
            with pytest.raises(PluginNotFoundError, match=re.escape(install_command(extra))):
                load_plugin(name, StorageSpec)


def test_the_wrong_role(install: Install) -> None:
    """An error about a plugin without the wanted role names the roles that it has."""
    install("acme-store", "acme_store", GOOD, "acme")
    with pytest.raises(PluginNotFoundError, match="does not offer embeddings. It offers storage"):
        load_plugin("acme", EmbeddingSpec)


def test_two_plugins_with_one_name(install: Install) -> None:
    """Two distributions with one plugin name are an error that names both; other plugins still load."""
    install("acme-store", "acme_store", GOOD, "acme")
    install("other-store", "other_store", GOOD, "acme", "other")
    with pytest.raises(DuplicatePluginError, match="acme-store, other-store") as caught:
        load_plugin("acme", StorageSpec)

    assert caught.value.distributions == ("acme-store", "other-store")
    assert load_plugin("other", StorageSpec).summary == "keeps things"
    found = [info for info in installed_plugins() if info.name == "acme"]
    assert [info.error is not None for info in found] == [True, True]


def test_one_distribution_twice_on_the_path(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution that is on the path twice, such as an editable install beside its folder, is one plugin."""
    install("acme-store", "acme_store", GOOD, "acme")
    monkeypatch.setattr(sys, "path", [sys.path[0], *sys.path])

    assert load_plugin("acme", StorageSpec).summary == "keeps things"


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("import no_such_module_at_all", "cannot be imported: ModuleNotFoundError"),
        ("raise RuntimeError('boom')", "cannot be imported: RuntimeError: boom"),
        ("x = 1", "offers no role"),
        (GOOD.replace("def pattern_storage", "def pattern_storag"), "Did you mean 'pattern_storage'"),
        (GOOD.replace("pattern_storage()", "pattern_storage(config)"), "breaks the rules for hooks"),
        (GOOD.replace("return StorageSpec", "raise OSError"), "breaks the rules for hooks"),
        (GOOD.replace("def pattern_storage", "async def pattern_storage"), "must return a StorageSpec"),
        (GOOD.replace("return StorageSpec", "return dict"), "must return a StorageSpec"),
    ],
)
def test_broken_plugins(install: Install, source: str, hint: str) -> None:
    """An error about a broken plugin names the cause; other plugins still load."""
    install("broken-dist", "broken_module", source, "broken")
    with pytest.raises(PluginError, match="broken") as caught:
        load_plugin("broken", StorageSpec)

    assert hint in str(caught.value)
    assert caught.value.distributions == ("broken-dist",)
    assert "cosine" in load_plugin("exact", VectorSpec).metrics


def test_only_the_named_plugin_is_imported(install: Install) -> None:
    """Loading one plugin imports no other."""
    install("acme-store", "acme_store", GOOD, "acme")
    install("broken-dist", "broken_module", "raise RuntimeError('imported')", "broken")
    load_plugin("acme", StorageSpec)

    assert "broken_module" not in sys.modules


@pytest.mark.anyio
async def test_a_vector_search_for_certain_storages(install: Install) -> None:
    """A vector search that supports certain storages is rejected for others, before anything is opened."""
    install(
        "third-memory",
        "third_memory",
        """
import attrs
from pattern_core.search import exact
from pattern_core.hookspecs import hookimpl
from pattern_core.testing import memory_storage

@hookimpl
def pattern_storage():
    return memory_storage()

@hookimpl
def pattern_vectors():
    return attrs.evolve(exact.pattern_vectors(), storages=frozenset({"hers", "his"}))
""",
        "mine",
    )
    config = {"database": {"type": "mine"}, "embeddings": {"provider": "hashing"}}
    with pytest.raises(ConfigError, match="mine works over hers, his only, and the database is mine") as caught:
        await pattern_core.open(config | {"vectors": {"provider": "mine"}})
    assert caught.value.key == "vectors.provider"
    async with pattern_core.open(config) as db:
        assert await db.users.count() == 0
