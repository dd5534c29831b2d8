"""The interface of a store: the manifest, the write-ahead log (WAL) and the locks of one database.

The manifest is a small file that lists the tables' versions and the WAL entries of the database. Publishing another
manifest commits: it is one atomic step in every store.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeAlias

from pattern_core.abc import AsyncResource

__all__ = ["COMMIT_LOCK", "FILL_LOCK", "MAINTENANCE_LOCK", "ManifestTag", "StaleManifestError", "Store"]

# The names of locks are stored, and other versions use the same ones.
COMMIT_LOCK: Final = "commit"
"""Held for moments, while a manifest is replaced."""
MAINTENANCE_LOCK: Final = "upkeep"
"""Held while maintenance rewrites tables."""
FILL_LOCK: Final = "fill"
"""Held while an external index is filled."""

ManifestTag: TypeAlias = Any
"""Identifies one published manifest; compared with ``==``."""


class StaleManifestError(Exception):
    """Another writer has published since the manifest was read; nothing was changed. The plugin handles it."""


class Store(AsyncResource):
    """Stores the manifest and the WAL of a database.

    Attributes:
        uri: The URI for `lancedb.connect_async`.
        storage_options: Its storage options, secrets included.
    """

    uri: str
    storage_options: Mapping[str, str]

    @abstractmethod
    async def read_manifest(self, known: ManifestTag | None = None) -> tuple[bytes, ManifestTag] | None:
        """Read the manifest.

        Args:
            known: The tag of the manifest that the caller has.

        Returns:
            The manifest and its tag; None if there is none. If the tag equals ``known``, the bytes may be empty.
        """

    @abstractmethod
    async def publish(self, manifest: bytes, tag: ManifestTag | None) -> ManifestTag:
        """Replace the manifest, atomically and durably.

        Args:
            manifest: The new manifest.
            tag: The tag of the manifest to replace; None if there is none.

        Returns:
            The tag of the new manifest.

        Raises:
            StaleManifestError: The store has another manifest. Nothing was changed.
            StorageError: It failed. The message says whether it may have taken effect.
        """

    @abstractmethod
    async def read_wal(self, names: Sequence[str]) -> list[bytes | None]:
        """Read WAL entries; None for a missing one."""

    @abstractmethod
    async def write_wal(self, name: str, content: bytes) -> None:
        """Write a WAL entry under a new name. It is durable once a published manifest names it."""

    @abstractmethod
    async def list_wal(self) -> list[str]:
        """Return the names of all WAL entries."""

    @abstractmethod
    async def remove_wal(self, names: Sequence[str]) -> None:
        """Remove WAL entries; ignore missing ones."""

    @abstractmethod
    def lock(self, name: str) -> AbstractAsyncContextManager[None]:
        """Hold a lock, exclusive among all processes, for the context. The wait for it can be cancelled.

        Args:
            name: `COMMIT_LOCK`, `MAINTENANCE_LOCK` or `FILL_LOCK`.

        Raises:
            StorageError: Others held it for too long.
        """

    @abstractmethod
    async def sync_table(self, lance_name: str) -> None:
        """Make the files of a Lance table survive a power failure.

        Args:
            lance_name: The name of the Lance table.
        """
