"""The current snapshot of a database: reads manifests, publishes new ones, and keeps the WAL in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import attrs

from pattern_core.errors import DataLossError

from .engine import LanceTables
from .manifest import Manifest, WalEntry, unique_name
from .snapshot import Snapshot
from .store import ManifestTag, Store
from .wal import WalWrite, checksum, decode_entry, encode_entry

__all__ = ["CurrentSnapshot"]


class CurrentSnapshot:
    """The current snapshot of a database.

    Args:
        store: The store of the manifest and the WAL.
        tables: The Lance tables.

    Attributes:
        changed: Set at each change of the snapshot. The waiting task clears it.
    """

    def __init__(self, store: Store, tables: LanceTables) -> None:
        self.changed = asyncio.Event()
        self._store = store
        self._snapshot = Snapshot(Manifest(), {}, tables.open_version)
        self._tag: ManifestTag | None = None
        self._writes: dict[str, list[WalWrite]] = {}
        self._loading = asyncio.Lock()

    @property
    def known(self) -> Snapshot:
        """The snapshot that was read last."""
        return self._snapshot

    @property
    def has_manifest(self) -> bool:
        """Whether a manifest has been read or published."""
        return self._tag is not None

    async def read(self) -> Snapshot:
        """Return the current snapshot, with the commits of all processes.

        Raises:
            DataLossError: A WAL entry is missing or damaged.
        """
        failed_tag = None
        while True:
            found = await self._store.read_manifest(self._tag)
            if found is None:
                return self._snapshot
            content, tag = found
            if tag == self._tag or not content:  # no bytes: the tag was current when the read began
                return self._snapshot
            async with self._loading:
                if tag == self._tag:
                    return self._snapshot
                manifest = Manifest.from_bytes(content)
                lost = await self._load_wal(manifest)
                if lost is None:
                    return self._adopt(manifest, tag)
            if failed_tag == tag:  # the manifest still names the entry
                message = (
                    f"the database {self._store.uri} has lost data: entry {lost} of its write-ahead log is missing or "
                    f"damaged. Nothing was changed. Restore the whole folder or prefix from a backup."
                )
                raise DataLossError(self._store.uri, message)
            failed_tag = tag  # a flush may have removed the entry: read the manifest again

    async def publish(self, manifest: Manifest, writes: Sequence[WalWrite]) -> Snapshot:
        """Write a WAL entry, and publish a manifest that names it. The caller holds the commit lock.

        Args:
            manifest: The manifest; it gets the next sequence number.
            writes: The writes of the entry; none for no entry.

        Raises:
            StaleManifestError: Another writer has published.
        """
        sequence, wal = manifest.sequence + 1, manifest.wal
        if writes:
            content = encode_entry(writes)
            name = unique_name(sequence)
            rows = sum(write.size for write in writes)
            wal = (*wal, WalEntry(name, checksum(content), rows, len(content), time.time()))
            await self._store.write_wal(name, content)
            self._writes[name] = list(writes)
        manifest = attrs.evolve(manifest, sequence=sequence, wal=wal)
        return self._adopt(manifest, await self._store.publish(manifest.to_bytes(), self._tag))

    async def _load_wal(self, manifest: Manifest) -> str | None:
        """Read the new WAL entries of a manifest; return the name of one that cannot be read."""
        wanted = [entry for entry in manifest.wal if entry.name not in self._writes]
        contents = await self._store.read_wal([entry.name for entry in wanted])
        for entry, content in zip(wanted, contents, strict=True):
            if content is None or checksum(content) != entry.checksum:
                return entry.name
            self._writes[entry.name] = decode_entry(content)
        return None

    def _adopt(self, manifest: Manifest, tag: ManifestTag) -> Snapshot:
        """Make a manifest the current one, if it is newer. Its WAL entries are loaded."""
        old = self._snapshot
        if self._tag is not None and manifest.sequence < old.manifest.sequence:
            return old
        known = len(old.manifest.wal)
        if manifest.wal[:known] == old.manifest.wal:
            new = manifest.wal[known:]
        else:
            old, new = old.without_wal(), manifest.wal
        writes = [write for entry in new for write in self._writes[entry.name]]
        self._writes = {entry.name: self._writes[entry.name] for entry in manifest.wal}
        self._tag = tag
        self._snapshot = old.with_writes(manifest, writes)
        self.changed.set()
        return self._snapshot
