"""The folder of an embedded database, and its owner."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final, Self

from pattern_core.errors import DatabaseLockedError, StorageError

__all__ = ["Folder"]

_CHECK_PREFIX: Final = "check-"
_LOCKED_BYTE: Final = 1 << 30
"""A byte after the text of the owner file: on Windows, locked bytes cannot be read."""


class Folder:
    """The folder of a database, owned by this object until `release`.

    Attributes:
        path: The folder.
        engine: The folder of the engine's files.
        ledger: The ledger file.
    """

    def __init__(self, path: Path, owner: IO[bytes], *, temporary: bool) -> None:
        self.path = path
        self.engine = path / "surreal"
        self.ledger = path / "ledger"
        self._owner = owner
        self._temporary = temporary

    @classmethod
    def acquire(cls, path: Path | None) -> Self:
        """Become the owner of a folder. A missing folder is created.

        Args:
            path: The folder; None creates a temporary one, which `release` removes.

        Raises:
            DatabaseLockedError: This process or another one has it open.
            OSError: It cannot be used as a folder.
            StorageError: The engine does not support its path.
        """
        temporary = path is None
        path = Path(tempfile.mkdtemp(prefix="pattern-")) if path is None else path.absolute()
        file = path / "owner.json"
        if any(character in str(path) for character in "?\0"):
            raise StorageError(
                f"the embedded engine cannot open {path}: the path contains ? or a null character. Choose another one."
            )
        path.mkdir(parents=True, exist_ok=True)
        # Created or opened in one step: a second opener must not truncate the first one's file.
        owner = os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644), "r+b", buffering=0)
        try:
            _lock(owner)
        except OSError:
            owner.close()
            raise DatabaseLockedError(str(path), _describe(file)) from None
        owner.truncate()
        owner.write(json.dumps(_myself()).encode())
        return cls(path, owner, temporary=temporary)

    def release(self) -> None:
        """Release the folder. A second call does nothing."""
        if not self._owner.closed:
            self._owner.seek(0)
            self._owner.truncate()
            _unlock(self._owner)
            self._owner.close()
            if self._temporary:
                shutil.rmtree(self.path, ignore_errors=True)

    def recovery_copy(self) -> Path:
        """Return a copy of the engine's files for a recovery check.

        The engine repairs its files when it opens them, and drops everything after a damaged place in its log. So a
        copy is opened first. Tables and value logs never change, so they are linked, not copied.
        """
        self.clear()
        copy = Path(tempfile.mkdtemp(prefix=_CHECK_PREFIX, dir=self.path))
        for folder, _, files in os.walk(self.engine):
            to = copy / Path(folder).relative_to(self.engine)
            to.mkdir(exist_ok=True)
            for each in files:
                if each != "LOCK":
                    _copy(Path(folder, each), to / each)
        return copy

    def clear(self) -> None:
        """Remove the copies of interrupted recovery checks."""
        for copy in self.path.glob(f"{_CHECK_PREFIX}*"):
            shutil.rmtree(copy, ignore_errors=True)


def _copy(file: Path, to: Path) -> None:
    if file.suffix in {".sst", ".vlog"}:
        try:
            os.link(file, to)
        except OSError:  # a file system without links
            pass
        else:
            return
    shutil.copy2(file, to)


def _myself() -> dict[str, str | int]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": Path(sys.argv[0]).name,  # without its arguments, which may hold secrets
        "opened_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _describe(file: Path) -> str:
    try:
        owner = json.loads(file.read_bytes())
        where = "this process" if owner["pid"] == os.getpid() else f"process {owner['pid']} ({owner['command']})"
        return f"{where} on {owner['host']} opened it at {owner['opened_at']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "its owner is unknown"


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        file.seek(_LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)

    def _unlock(file: IO[bytes]) -> None:
        file.seek(_LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
