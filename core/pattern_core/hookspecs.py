"""The hooks of plugins: one for each role, each returning a frozen spec.

A distribution declares ``[project.entry-points.pattern_core]``. The name is the plugin's name in the configuration; the
value is a module with one or more of these hooks, marked with `hookimpl`. A hook is synchronous and only describes the
plugin. Its module must be cheap to import: core awaits ``open`` of the spec to load the engine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pluggy

from .abc import Embedder, Storage, VectorStore

__all__ = [
    "ENTRY_POINT_GROUP",
    "EmbeddingSpec",
    "StorageSpec",
    "VectorSpec",
    "hookimpl",
    "pattern_embeddings",
    "pattern_storage",
    "pattern_vectors",
]

ENTRY_POINT_GROUP = "pattern_core"

hookspec = pluggy.HookspecMarker(ENTRY_POINT_GROUP)
hookimpl = pluggy.HookimplMarker(ENTRY_POINT_GROUP)
"""Marks a function of a plugin as one of the hooks below."""


@attrs.frozen(kw_only=True)
class StorageSpec:
    """The spec of a storage.

    Attributes:
        options: An attrs class: the options under ``[database]``. A relative ``pathlib.Path`` is resolved against the
            folder of the configuration file; a `pattern_core.toolkit.Secret` is never shown.
        open: Opens the storage: ``await open(options)``. Raises `DatabaseLockedError` if another owner has it open.
        vectors: The vector search to use if the configuration names none.
        persistent: Whether acknowledged writes survive the end of the process, also ``kill -9``.
        processes: Whether several processes may open the storage and write at the same time. If not, ``open`` raises
            `DatabaseLockedError` in all but the first.
        summary: One line for ``pattern plugins``.
    """

    options: type[Any]
    open: Callable[[Any], Awaitable[Storage]]
    vectors: str = "exact"
    persistent: bool = True
    processes: bool = False
    summary: str = ""


@attrs.frozen(kw_only=True)
class VectorSpec:
    """The spec of a vector search.

    Attributes:
        options: An attrs class: the options under ``[vectors]``, in addition to ``metric``.
        open: Opens the vector search over an open storage: ``await open(options, storage)``.
        metrics: The supported metrics.
        approximate: Whether searches may be approximate; each result says whether it is exact.
        storages: The names of the storages that it works over; None for all.
        summary: One line for ``pattern plugins``.
    """

    options: type[Any]
    open: Callable[[Any, Storage], Awaitable[VectorStore]]
    metrics: frozenset[str] = frozenset({"cosine", "euclidean", "manhattan"})
    approximate: bool = False
    storages: frozenset[str] | None = None
    summary: str = ""


@attrs.frozen(kw_only=True)
class EmbeddingSpec:
    """The spec of an embedding provider.

    Attributes:
        options: An attrs class: the options under ``[embeddings]``, in addition to core's (``overflow`` …). A field
            ``model``, if there is one, holds the name of the model.
        open: Loads the model, or connects to it: ``await open(options)``. Raises `ModelUnavailableError` if it fails.
        semantic: Whether texts with similar meaning get similar vectors; if not, only texts with similar words do.
        cached: Whether to cache vectors in a file. Set it to False if embedding a text is faster than the lookup.
        summary: One line for ``pattern plugins``.
    """

    options: type[Any]
    open: Callable[[Any], Awaitable[Embedder]]
    semantic: bool = True
    cached: bool = True
    summary: str = ""


@hookspec
def pattern_storage() -> StorageSpec:  # type: ignore[empty-body]
    """Describe the storage that this plugin offers."""


@hookspec
def pattern_vectors() -> VectorSpec:  # type: ignore[empty-body]
    """Describe the vector search that this plugin offers."""


@hookspec
def pattern_embeddings() -> EmbeddingSpec:  # type: ignore[empty-body]
    """Describe the embedding provider that this plugin offers."""
