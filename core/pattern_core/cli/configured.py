"""The plugins that a configuration names, and their options. Nothing is opened."""

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
    """Return the spec and the options of the configured storage."""
    spec = load_plugin(config.database.provider or "", StorageSpec)
    return spec, _options(config, "database", spec.options)


def configured_vectors(config: Config) -> tuple[VectorSpec, Any, str]:
    """Return the spec, the options and the name of the configured vector search."""
    name = config.vectors.provider or configured_storage(config)[0].vectors
    spec = load_plugin(name, VectorSpec)
    return spec, _options(config, "vectors", spec.options), name


def configured_embeddings(config: Config) -> tuple[EmbeddingSpec, Any]:
    """Return the spec and the options of the configured embedding provider."""
    spec = load_plugin(config.embeddings.provider or "", EmbeddingSpec)
    return spec, _options(config, "embeddings", spec.options)


def location_of(config: Config) -> str:
    """Return the location of the database: its path, or its URL without user name and password."""
    _, options = configured_storage(config)
    if path := getattr(options, "path", None):
        return str(path)
    address = urlsplit(str(getattr(options, "url", "")))
    return address._replace(netloc=address.netloc.rpartition("@")[2], query="").geturl()


def is_missing(config: Config) -> bool:
    """Return whether the database is a path where nothing exists yet, so that opening would create it."""
    path = getattr(configured_storage(config)[1], "path", None)
    return isinstance(path, Path) and not path.exists()


def mismatch_of(config: Config, stored: Signature | None) -> str:
    """Return why the configured model cannot be used with a database, as far as is known without loading it.

    Args:
        config: The configuration.
        stored: The signature of the database's vectors; None if it has none.

    Returns:
        The reason; empty if there is none.
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
