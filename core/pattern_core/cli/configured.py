"""The plugins that a configuration names, with their options, before anything is opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pattern_core.errors import PatternError, SignatureMismatchError
from pattern_core.hookspecs import EmbeddingSpec, StorageSpec, VectorSpec
from pattern_core.plugins.discovery import load_plugin, plugin_name
from pattern_core.support.options import structure_options

if TYPE_CHECKING:
    from pattern_core.abc import Signature
    from pattern_core.config import Config

__all__ = [
    "configured_embeddings",
    "configured_storage",
    "configured_vectors",
    "is_missing",
    "location_of",
    "mismatch_of",
]


def configured_storage(config: Config) -> tuple[StorageSpec, Any]:
    """Return what the configured storage says of itself, and its options."""
    spec = load_plugin(config.database.provider or "", StorageSpec)
    return spec, _options(config, "database", spec.options)


def configured_vectors(config: Config) -> tuple[VectorSpec, Any, str]:
    """Return what the configured vector search says of itself, its options, and its name."""
    name = config.vectors.provider or configured_storage(config)[0].vectors
    spec = load_plugin(name, VectorSpec)
    return spec, _options(config, "vectors", spec.options), name


def configured_embeddings(config: Config) -> tuple[EmbeddingSpec, Any]:
    """Return what the configured embedding provider says of itself, and its options."""
    spec = load_plugin(config.embeddings.provider or "", EmbeddingSpec)
    return spec, _options(config, "embeddings", spec.options)


def location_of(config: Config) -> str:
    """Say where the database is: its path, or its address without user name and password."""
    _, options = configured_storage(config)
    if path := getattr(options, "path", None):
        return str(path)
    address = urlsplit(str(getattr(options, "url", "")))
    return address._replace(netloc=address.netloc.rpartition("@")[2], query="").geturl()


def is_missing(config: Config) -> bool:
    """Return whether the database is one of a path where nothing stands yet; to open it would make it."""
    path = getattr(configured_storage(config)[1], "path", None)
    return isinstance(path, Path) and not path.exists()


def mismatch_of(config: Config, stored: Signature | None) -> str:
    """Say why the configured model cannot be used with a database, as far as that shows without loading it.

    Args:
        config: The configuration.
        stored: What made the database's vectors; None where it has none.

    Returns:
        The reason; empty where there is none.
    """
    try:
        _, options = configured_embeddings(config)
    except PatternError as error:
        return str(error)
    if stored is None:
        return ""
    name = config.embeddings.provider or ""
    configured = {"provider": plugin_name(name)} | {
        field: value for field in ("model", "dimensions") if (value := getattr(options, field, None)) is not None
    }
    if all(getattr(stored, field) == value for field, value in configured.items()):
        return ""
    named = ", ".join(f"{field} = {value}" for field, value in configured.items())
    return str(SignatureMismatchError(str(stored), named))


def _options(config: Config, section: str, options: type[Any]) -> Any:
    given = getattr(config, section).options
    source = str(config.source) if config.source else None
    return structure_options(options, given, section=section, base=config.base, source=source)
