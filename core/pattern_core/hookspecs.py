"""What a plugin tells pattern-core: one hook for each role, each returning a frozen spec.

A distribution declares ``[project.entry-points.pattern_core]``: the name is the word that users write in their
configuration, the value a module with one or more of these hooks, marked with `hookimpl`. Hooks are synchronous and
only describe; the module that holds them must be cheap to import. The work begins when core awaits a spec's ``open``.
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
    """A storage.

    Attributes:
        options: An attrs class: the options it takes under ``[database]``. Fields of type ``pathlib.Path`` are made
            absolute, relative to the configuration file; fields of type `pattern_core.toolkit.Secret` are never shown.
        open: Opens the storage: ``await open(options)``. Raises `DatabaseLockedError` where somebody else owns it.
        vectors: The vector search to use where the configuration names none.
        persistent: Whether what it has acknowledged survives the end of the process, however it ends.
        processes: Whether several processes may have it open, and write, at once. Where not, ``open`` raises
            `DatabaseLockedError` for all but the first.
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
    """A vector search.

    Attributes:
        options: An attrs class: the options it takes under ``[vectors]``, besides ``metric``.
        open: Opens it over an open storage: ``await open(options, storage)``.
        metrics: The metrics it can use.
        approximate: Whether its answers may be approximate; each answer says whether it is.
        storages: The storages that it works over, by their names in the configuration; None for all.
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
    """An embedding provider.

    Attributes:
        options: An attrs class: the options it takes under ``[embeddings]``, besides those that are the core's
            (``overflow`` …). If it has a field ``model``, that is the model's name.
        open: Loads or reaches the model: ``await open(options)``. Raises `ModelUnavailableError` where it cannot.
        semantic: Whether texts of like meaning get like vectors, rather than texts of like words.
        cached: Whether embedding a text costs more than looking its vector up in a file.
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
