"""The ledger: the number of the last acknowledged transaction, outside the engine's files.

The engine does not detect lost data: after a damaged byte in its log it drops everything, and without a log it starts
empty. So every transaction increments a number in the database. After the engine has acknowledged it, the number is
also written here. A database that is behind its ledger has lost data.

The ledger may lag behind, but never leads: it is written after the engine's sync, and is not synced. It has two slots
with checksums, which are written in turn, so that one of them is complete after a power failure.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from pattern_core.errors import DataLossError

__all__ = ["Entry", "Ledger"]

_SLOT: Final = 4096
_DIGEST: Final = hashlib.sha256().digest_size * 2


@attrs.frozen
class Entry:
    """An entry of the ledger.

    Attributes:
        sequence: The number of the last acknowledged transaction.
        counts: The number of records of each table when the database was closed; None if it is open, or was not closed.
    """

    sequence: int
    counts: Mapping[str, int] | None = None


class Ledger:
    """The ledger of an open database.

    Args:
        path: The file.
        entry: The first entry, which is synced.
    """

    def __init__(self, path: Path, entry: Entry) -> None:
        # Unbuffered, so that a write reaches the operating system, and survives this process.
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        self._turn = max((int(slot["turn"]) for slot in _slots(self._file.read())), default=0)
        self.write(entry)
        os.fsync(self._file.fileno())

    def write(self, entry: Entry) -> None:
        """Replace the older slot."""
        self._turn += 1
        slot = self._slot(entry)
        if len(slot) > _SLOT:  # too many tables
            slot = self._slot(Entry(entry.sequence))
        self._file.seek(self._turn % 2 * _SLOT)
        self._file.write(slot.ljust(_SLOT))

    def _slot(self, entry: Entry) -> bytes:
        content = json.dumps({"turn": self._turn, "sequence": entry.sequence, "counts": entry.counts}).encode()
        return hashlib.sha256(content).hexdigest().encode() + content

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @staticmethod
    def read(path: Path, database: Path) -> Entry | None:
        """Return the newest entry of a ledger; None if there is no file.

        Args:
            path: The file.
            database: The database's folder, for the error.

        Raises:
            DataLossError: No slot can be read.
        """
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        slots = _slots(content)
        if not slots:
            raise DataLossError(
                str(database),
                f"{path} is damaged, so it is unknown whether the database {database} has lost data. Nothing was "
                f"changed. Restore the folder from a backup; or, to continue with the present data, delete "
                f"{path.name}.",
            )
        newest = max(slots, key=lambda slot: int(slot["turn"]))
        return Entry(newest["sequence"], newest["counts"])


def _slots(content: bytes) -> list[dict[str, Any]]:
    """Return the complete slots."""
    whole = []
    for slot in (content[:_SLOT], content[_SLOT : 2 * _SLOT]):
        digest, entry = slot[:_DIGEST], slot[_DIGEST:].rstrip()
        if hashlib.sha256(entry).hexdigest().encode() == digest:
            whole.append(json.loads(entry))
    return whole
