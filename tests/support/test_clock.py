"""Times and ids never run backwards within a process."""

import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattern_core.support.clock import new_id, utc_now


def test_times_are_aware_and_now() -> None:
    """A time is in UTC, a plain datetime, and close to the system's clock."""
    moment = utc_now()
    assert moment.utcoffset() == timedelta()
    assert moment.tzinfo is UTC
    assert abs(moment - datetime.now(UTC)) < timedelta(minutes=1)


def test_each_time_is_later_than_the_one_before() -> None:
    """Times rise strictly, however fast they are asked for."""
    moments = [utc_now() for _ in range(5000)]
    assert all(first < second for first, second in pairwise(moments))


def test_a_clock_that_is_set_back_does_not_run_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system's clock jumps back, times and ids go on rising."""
    times, ids = [utc_now()], [new_id()]
    past = time.time_ns() - 3_600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: past)
    times.append(utc_now())
    ids.append(new_id())
    assert times == sorted(set(times))
    assert ids == sorted(set(ids))


@given(count=st.integers(2, 500))
def test_ids_sort_in_the_order_of_their_making(count: int) -> None:
    """Ids made one after the other sort, as texts, in that order."""
    ids = [new_id() for _ in range(count)]
    assert ids == sorted(set(ids))


def test_an_id_is_a_uuid_of_version_7() -> None:
    """An id reads as a UUID with version 7, the variant of RFC 9562, and the time it was made."""
    before = time.time_ns() // 10**6
    text = new_id()
    value = uuid.UUID(text)
    assert str(value) == text
    assert value.version == 7
    assert value.variant == uuid.RFC_4122
    assert before - 1000 <= value.int >> 80 <= time.time_ns() // 10**6 + 1000


def test_ids_of_many_threads_are_all_different() -> None:
    """Threads that make ids at once never make the same one, and each sees its own rise."""
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
