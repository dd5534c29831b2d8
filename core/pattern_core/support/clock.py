"""Time stamps and record ids that never go back within a process."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["new_id", "utc_now"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class _Clock:
    """A clock in microseconds since 1970, with strictly increasing readings in a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def read(self) -> int:
        with self._lock:
            self._last = max(self._last + 1, time.time_ns() // 1000)
            return self._last


_clock: Final = _Clock()


def utc_now() -> datetime:
    """Return the current time in UTC, aware, in whole microseconds, later than every time returned before."""
    return _EPOCH + timedelta(microseconds=_clock.read())


def new_id() -> str:
    """Return a new record id: a UUID version 7, whose text sorts by creation time.

    The twelve bits after the milliseconds hold the fraction of the millisecond (RFC 9562, section 6.2, method 3), so
    that ids of one process sort in the order of their creation.
    """
    milliseconds, microseconds = divmod(_clock.read(), 1000)
    fraction = microseconds * 4096 // 1000
    tail = int.from_bytes(os.urandom(8)) & ((1 << 62) - 1) | (0b10 << 62)
    value = milliseconds << 80 | 0x7 << 76 | fraction << 64 | tail
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
