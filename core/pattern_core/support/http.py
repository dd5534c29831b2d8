"""HTTP answers of embedding services."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["retry_after"]


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Read how long an HTTP answer asks the client to wait, for `EmbeddingError`.

    Args:
        headers: The headers of the answer. ``Retry-After`` holds seconds or a date (RFC 9110, section 10.2.3); some
            services also send ``Retry-After-Ms``.

    Returns:
        The time in seconds; None if the answer asks for none.
    """
    given = {name.lower(): value for name, value in headers.items()}
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(given[name]) * unit)
        except (KeyError, ValueError):
            continue
    try:
        return max(0.0, (parsedate_to_datetime(given["retry-after"]) - datetime.now(UTC)).total_seconds())
    except (KeyError, ValueError, TypeError):
        return None
