"""An independent record of what was acknowledged.

The engine cannot tell lost data from data that never was: where a bit of its log has flipped, it drops what comes
after; where the log is missing, it starts empty. So every transaction counts up a number in the database, and once the
engine has acknowledged it, the number is written here too. A database that is behind its ledger has lost something.

The ledger may lag behind, and must never lead: it is written after the engine's own sync, and not synced itself. Two
slots are written in turn, each with a checksum, so that one of them is whole whenever the power goes.
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
    """What the ledger knows.

    Attributes:
        sequence: The number of the last transaction that was acknowledged.
        counts: How many records each table held when the database was closed; None while it is open, or has not been
            closed.
    """

    sequence: int
    counts: Mapping[str, int] | None = None


class Ledger:
    """The ledger of an open database.

    Args:
        path: The file.
        entry: What it says at first. This much is synced.
    """

    def __init__(self, path: Path, entry: Entry) -> None:
        # Unbuffered: what is written has reached the operating system, and survives this process.
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        self._turn = max((int(slot["turn"]) for slot in _slots(self._file.read())), default=0)
        self.write(entry)
        os.fsync(self._file.fileno())

    def write(self, entry: Entry) -> None:
        """Replace the older slot."""
        self._turn += 1
        slot = self._slot(entry)
        if len(slot) > _SLOT:  # too many tables to count
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
        """Return what a ledger says; None where there is no file.

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
                f"{path} is damaged, so it cannot be told whether the database {database} lacks anything. It was left "
                f"as it is. Restore the folder from a backup; or, to go on with what is there, delete {path.name}.",
            )
        newest = max(slots, key=lambda slot: int(slot["turn"]))
        return Entry(newest["sequence"], newest["counts"])


def _slots(content: bytes) -> list[dict[str, Any]]:
    """Return the slots that are whole."""
    whole = []
    for slot in (content[:_SLOT], content[_SLOT : 2 * _SLOT]):
        digest, entry = slot[:_DIGEST], slot[_DIGEST:].rstrip()
        if hashlib.sha256(entry).hexdigest().encode() == digest:
            whole.append(json.loads(entry))
    return whole
