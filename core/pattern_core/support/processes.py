"""Process names that other processes can check."""

from __future__ import annotations

import os
import re
import socket
import sys
from typing import Final

__all__ = ["HOST", "may_be_alive", "process_name"]

HOST: Final = socket.gethostname()
"""The name of this machine."""


def process_name() -> str:
    """Return the name of this process, readable for people and for `may_be_alive`."""
    return f"process {os.getpid()} on {HOST}"


def may_be_alive(worker: str | None) -> bool:
    """Return whether a process may still be running; False only if it certainly is not.

    Args:
        worker: The name that `process_name` returned in that process.

    Returns:
        True if the process runs, or cannot be checked from here.
    """
    found = re.fullmatch(rf"process (\d+) on {re.escape(HOST)}", worker or "")
    if found is None or sys.platform == "win32":  # on Windows, os.kill ends the process
        return True
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
