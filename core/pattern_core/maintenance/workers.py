"""Who works: the name by which a process is known to others, and whether it may still be there."""

from __future__ import annotations

import os
import re
import socket
import sys
from typing import Final

__all__ = ["HOST", "may_live", "this_process"]

HOST: Final = socket.gethostname()
"""The name of this machine."""


def this_process() -> str:
    """Return the name of this process, for people and for `may_live`."""
    return f"process {os.getpid()} on {HOST}"


def may_live(worker: str | None) -> bool:
    """Return whether a process may still be there; False only where that is certain.

    Args:
        worker: What `this_process` returned there.
    """
    found = re.fullmatch(rf"process (\d+) on {re.escape(HOST)}", worker or "")
    if found is None or sys.platform == "win32":  # where asking a process for a sign of life ends it
        return True
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
