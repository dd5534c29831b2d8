"""The time that an HTTP answer asks a client to wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from pattern_core.toolkit import retry_after


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after-ms": "250", "Retry-After": "7"}, 0.25),
        ({"RETRY-AFTER": "-3"}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, milliseconds and dates are read, whatever the case of the name; a past date is no wait."""
    assert retry_after(headers) == seconds


def test_a_date_in_the_future() -> None:
    """A date is the time from now to it."""
    date = datetime.now(UTC) + timedelta(hours=1)
    assert retry_after({"Retry-After": format_datetime(date)}) == pytest.approx(3600, abs=5)
