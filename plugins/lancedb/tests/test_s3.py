"""A database in a bucket: the contracts against a server that speaks S3, and what the place of one promises."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import AsyncIterator, Iterator
from multiprocessing.connection import Connection
from typing import Any, Final

import attrs
import pytest

from pattern_core.errors import StorageError
from pattern_core.testing import StorageContract, VectorStoreContract
from pattern_core.testing.storage_processes import ProcessRules
from pattern_core.testing.storage_writes import WriteRules
from pattern_core.toolkit import Secret
from pattern_lancedb.place import Outdated, Place
from pattern_lancedb.place_remote import RemotePlace
from pattern_lancedb.plugin import StorageOptions, VectorOptions, pattern_storage, pattern_vectors, place_of
from tests.servers.s3 import Store, running_store

PATIENCE_S: Final = 30


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """A server with a bucket."""
    yield from running_store()


def options_for(store: Store, **changes: Any) -> StorageOptions:
    """Return options for a new prefix."""
    given = store.section(**changes)
    return StorageOptions(**{**given, "secret_access_key": Secret(given["secret_access_key"])})


class TestWrites(WriteRules, ProcessRules):
    """Those rules of the storage in which the place plays a part: commits, several writers, kill -9."""

    spec = pattern_storage()
    open_storage = StorageContract.open_storage
    storage = StorageContract.storage
    reopen = StorageContract.reopen

    @pytest.fixture
    def options(self, store: Store) -> StorageOptions:
        """A new prefix."""
        return options_for(store)


class TestColumn(VectorStoreContract):
    """Search in the storage's own column, by cosine similarity."""

    spec = attrs.evolve(pattern_vectors(), metrics=frozenset({"cosine"}))
    storage_spec = pattern_storage()

    @pytest.fixture
    def storage_options(self, store: Store) -> StorageOptions:
        """A new prefix."""
        return options_for(store)


class TestBesideMemory(VectorStoreContract):
    """Search in copies that are kept in a bucket, by Euclidean distance."""

    spec = attrs.evolve(pattern_vectors(), metrics=frozenset({"euclidean"}))

    @pytest.fixture
    def options(self, store: Store) -> VectorOptions:
        """A new prefix."""
        given = options_for(store)
        shared = {name: getattr(given, name) for name in ("uri", "endpoint", "region", "access_key_id", "allow_http")}
        return VectorOptions(secret_access_key=given.secret_access_key, lease_seconds=1, **shared)


pytestmark = pytest.mark.anyio


async def open_place(options: StorageOptions) -> Place:
    """Open the place that options name."""
    return await place_of(options.path, options)


@pytest.fixture
async def places(store: Store) -> AsyncIterator[list[Place]]:
    """One place, opened three times as by three processes."""
    options = options_for(store)
    places = [await open_place(options) for _ in range(3)]
    yield places
    for place in places:
        await place.aclose()


async def test_only_one_of_two_heads_is_published(places: list[Place]) -> None:
    """Whoever publishes over a head that is no longer there changes nothing, the first head included."""
    one, two, _ = places
    assert await one.read_head() is None
    first = await one.publish(b"first", None)
    with pytest.raises(Outdated):
        await two.publish(b"also first", None)
    assert await two.read_head() == (b"first", first)
    second = await two.publish(b"second", first)
    with pytest.raises(Outdated):
        await one.publish(b"also second", first)
    assert await one.read_head(first) == (b"second", second)
    assert (await one.read_head(second) or (None, None))[1] == second


async def test_equal_heads_are_told_apart(places: list[Place]) -> None:
    """A head that comes back with the same bytes has another token: who missed what was between is refused."""
    one, two, _ = places
    token = await one.publish(b"same", None)
    await two.publish(b"same", await two.publish(b"other", token))
    with pytest.raises(Outdated):
        await one.publish(b"mine", token)


async def test_a_lost_answer_is_no_lost_race(places: list[Place], store: Store) -> None:
    """A put whose answer is lost took effect; the client repeats it, and finds that its own condition is broken."""
    one, two, _ = places
    for swallowed in range(2):
        found = await one.read_head()
        store.swallow = 1
        token = await one.publish(f"head {swallowed}".encode(), found and found[1])
        assert store.swallow == 0
        assert await two.read_head() == (f"head {swallowed}".encode(), token)
    store.swallow = 1
    async with one.lock("commit"):
        assert store.swallow == 0
    async with two.lock("commit"):
        pass


async def test_the_log_comes_back_as_written(places: list[Place]) -> None:
    """Documents are read by name, missing ones are None; removing a missing one is no error."""
    one, two, _ = places
    contents = {f"{number:03}": bytes(range(256)) * number for number in range(40)}
    await asyncio.gather(*(one.write(name, content) for name, content in contents.items()))
    assert sorted(await two.names()) == sorted(contents)
    assert await two.read([*contents, "missing"]) == [*contents.values(), None]
    await two.remove([*list(contents)[5:], "missing"])
    await two.remove([])
    assert sorted(await one.names()) == list(contents)[:5]


async def test_a_lock_has_one_holder_at_a_time(places: list[Place]) -> None:
    """Holders never overlap, in one process or in several, and each who waits gets its turn; other names do not count."""
    inside = turns = 0

    async def work(place: Place) -> None:
        nonlocal inside, turns
        for _ in range(3):
            async with place.lock("commit"):
                inside += 1
                assert inside == 1
                await place.read_head()
                inside -= 1
                turns += 1

    async with places[0].lock("upkeep"):
        await asyncio.gather(*(work(place) for place in places for _ in range(2)))
    assert turns == 18


async def test_a_living_holder_keeps_its_lease(places: list[Place]) -> None:
    """A lock that is held for three times its lease is not taken over."""
    one, two, _ = places

    async def take() -> None:
        async with two.lock("commit"):
            pass

    async with one.lock("commit"):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(take(), 3)
    await take()


async def test_who_stops_waiting_holds_nothing(places: list[Place]) -> None:
    """A cancelled wait for a lock, at whatever point, leaves the lock to others at once."""
    one, two, three = places

    async def take(place: Place) -> None:
        async with place.lock("commit"):
            await asyncio.Event().wait()

    for turns in range(0, 60, 3):
        task = asyncio.create_task(take(one))
        for _ in range(turns):
            await asyncio.sleep(0)
        if turns % 2:
            await two.read_head()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(0.9), three.lock("commit"):  # sooner than a lease runs out
            pass


def hold_and_die(pipe: Connection, options: StorageOptions) -> None:
    """Take a lock and keep it until the process is killed."""

    async def hold() -> None:
        place = await open_place(options)
        async with place.lock("commit"):
            pipe.send("held")
            await asyncio.Event().wait()

    asyncio.run(hold())


async def test_the_lease_of_the_dead_is_taken_over(store: Store) -> None:
    """When a writer was killed with the lock in its hands, the next one gets it once the lease has run out."""
    options = options_for(store)
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    child = spawn.Process(target=hold_and_die, args=(theirs, options), daemon=True)
    child.start()
    try:
        assert await asyncio.to_thread(ours.poll, PATIENCE_S)
    finally:
        child.kill()
        await asyncio.to_thread(child.join)
        ours.close()
        theirs.close()
    place = await open_place(options)
    async with asyncio.timeout(PATIENCE_S), place.lock("commit"):
        pass


async def test_who_was_overtaken_cannot_publish(store: Store) -> None:
    """A writer that stalls with the lock in its hands, and wakes when another one had it, changes nothing."""
    options = options_for(store)
    place = await open_place(options)
    await place.publish(b"before", None)
    stalls, may_go_on = threading.Event(), threading.Event()

    async def stall() -> None:
        other = await open_place(options)
        found = await other.read_head()
        assert found is not None
        async with other.lock("commit"):
            stalls.set()
            assert may_go_on.wait(PATIENCE_S)  # not one task of this loop runs meanwhile
            with pytest.raises(Outdated):
                await other.publish(b"late", found[1])

    writer = asyncio.create_task(asyncio.to_thread(asyncio.run, stall()))
    assert await asyncio.to_thread(stalls.wait, PATIENCE_S)
    async with place.lock("commit"):  # and does nothing
        pass
    may_go_on.set()
    await writer
    assert ((await place.read_head()) or (b"",))[0] == b"before"
    async with asyncio.timeout(0.9), place.lock("commit"):  # what the late one gave back was not its own any more
        pass


async def test_a_lock_that_never_comes_free_is_an_error(store: Store, places: list[Place]) -> None:
    """Who has waited for long enough hears where, and that nothing was written."""
    impatient = RemotePlace(places[0].uri, places[0].storage_options, lease=1, patience=0.2)
    async with places[0].lock("commit"):
        with pytest.raises(StorageError, match="nothing was written"):
            async with impatient.lock("commit"):
                pass


@pytest.mark.parametrize("uri", ["s3://no-such-bucket/x", "nonsense://x/y"])
async def test_a_place_that_is_not_there(store: Store, uri: str) -> None:
    """A bucket that is missing, or a scheme that nobody knows, is a `StorageError` that names it, and no secret."""
    with pytest.raises(StorageError) as caught:
        async with await pattern_storage().open(options_for(store, uri=uri)):
            pass
    assert uri in str(caught.value)
    assert "hush" not in str(caught.value)
