"""Times and ids that never decrease within a process."""

import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattern_core.support.clock import new_id, utc_now


def test_a_time_is_the_current_time_in_utc() -> None:
    """A time is a plain datetime in UTC, close to the time of the system clock."""
    moment = utc_now()
    assert moment.utcoffset() == timedelta()
    assert moment.tzinfo is UTC
    assert abs(moment - datetime.now(UTC)) < timedelta(minutes=1)


def test_times_increase() -> None:
    """Each time is later than the one before, also in a fast loop."""
    moments = [utc_now() for _ in range(5000)]
    assert all(first < second for first, second in pairwise(moments))


def test_a_clock_that_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system clock is set back, times and ids still increase."""
    times, ids = [utc_now()], [new_id()]
    past = time.time_ns() - 3_600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: past)
    times.append(utc_now())
    ids.append(new_id())
    assert times == sorted(set(times))
    assert ids == sorted(set(ids))


@given(count=st.integers(2, 500))
def test_ids_sort_by_creation(count: int) -> None:
    """Ids sort as texts in the order of their creation."""
    ids = [new_id() for _ in range(count)]
    assert ids == sorted(set(ids))


def test_an_id_is_a_uuid_of_version_7() -> None:
    """An id is a UUID of version 7 (RFC 9562) with the current time."""
    before = time.time_ns() // 10**6
    text = new_id()
    value = uuid.UUID(text)
    assert str(value) == text
    assert value.version == 7
    assert value.variant == uuid.RFC_4122
    assert before - 1000 <= value.int >> 80 <= time.time_ns() // 10**6 + 1000


def test_ids_of_threads_are_unique() -> None:
    """Ids made in several threads at once are unique, and increase in each thread."""
    made: list[list[str]] = [[] for _ in range(8)]

    def make(ids: list[str]) -> None:
        ids.extend(new_id() for _ in range(500))

    threads = [threading.Thread(target=make, args=(ids,)) for ids in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(ids == sorted(ids) for ids in made)
    assert len({id for ids in made for id in ids}) == 8 * 500
