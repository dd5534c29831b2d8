"""Wiring: load the plugins that a configuration names, and check their options, before anything is opened."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs

from pattern_core.abc import Embedder, Storage, VectorStore
from pattern_core.config import Config
from pattern_core.embedding.cache import VectorCache
from pattern_core.embedding.model import EmbeddingModel
from pattern_core.errors import ConfigError, nearest
from pattern_core.hookspecs import EmbeddingSpec, StorageSpec, VectorSpec
from pattern_core.plugins.discovery import load_plugin, plugin_name
from pattern_core.support.directories import user_cache
from pattern_core.support.options import structure_options

__all__ = ["Wiring", "is_shared", "load_embeddings", "load_storage", "load_wiring"]


@attrs.frozen
class Wiring:
    """The plugins of a configuration, ready to open.

    Attributes:
        storage: Opens the storage.
        vectors: Opens the vector search over a storage.
        embeddings: The embedding model, not loaded yet.
        shared: Whether several processes may have the storage open.
    """

    storage: Callable[[], Awaitable[Storage]]
    vectors: Callable[[Storage], Awaitable[VectorStore]]
    embeddings: EmbeddingModel
    shared: bool


def load_wiring(config: Config) -> Wiring:
    """Load the plugins and check all options, before anything is opened.

    Args:
        config: The configuration.

    Returns:
        The plugins, ready to open.

    Raises:
        ConfigError: The configuration is not valid.
        PluginError: A plugin is missing or broken.
    """
    storage = load_plugin(config.database.provider or "", StorageSpec)
    name = config.vectors.provider or storage.vectors
    vectors = load_plugin(name, VectorSpec)
    _check_storage(config, name, vectors)
    if config.metric not in vectors.metrics:
        message = f"vectors.metric: {name} does not support {config.metric}. {nearest(config.metric, vectors.metrics)}"
        raise ConfigError(message, key="vectors.metric")
    return Wiring(
        functools.partial(storage.open, _options(config, storage.options, "database")),
        functools.partial(vectors.open, _options(config, vectors.options, "vectors")),
        load_embeddings(config),
        storage.processes,
    )


def load_storage(config: Config) -> Callable[[], Awaitable[Storage]]:
    """Load only the storage plugin, and check its options.

    Args:
        config: The configuration.

    Returns:
        A function that opens the storage.
    """
    spec = load_plugin(config.database.provider or "", StorageSpec)
    return functools.partial(spec.open, _options(config, spec.options, "database"))


def is_shared(config: Config) -> bool:
    """Return whether several processes may have the configured storage open."""
    return load_plugin(config.database.provider or "", StorageSpec).processes


def load_embeddings(config: Config) -> EmbeddingModel:
    """Load the embedding plugin, and check its options.

    Args:
        config: The configuration.

    Returns:
        The model, not loaded yet.
    """
    spec = load_plugin(config.embeddings.provider or "", EmbeddingSpec)
    cached = config.policy.cache and spec.cached
    cache = VectorCache(user_cache() / "embeddings.sqlite", config.policy.cache_mb * 1_000_000) if cached else None
    load: Callable[[], Awaitable[Embedder]] = functools.partial(spec.open, _options(config, spec.options, "embeddings"))
    return EmbeddingModel(load, config.policy, cache=cache)


def _check_storage(config: Config, name: str, vectors: VectorSpec) -> None:
    chosen = plugin_name(config.database.provider or "")
    if vectors.storages is not None and chosen not in vectors.storages:
        over = ", ".join(sorted(vectors.storages))
        message = f"vectors.provider: {name} works over {over} only, and the database is {chosen}. Choose another one."
        raise ConfigError(message, key="vectors.provider")


def _options(config: Config, options: type[Any], section: str) -> Any:
    given: Mapping[str, Any] = getattr(config, section).options
    source = str(config.source) if config.source else None
    return structure_options(options, given, section=section, base=config.base, source=source)
