"""A database in a bucket: the conformance kit against an S3 server, and the guarantees of the object store."""

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
from pattern_lancedb.object_store import ObjectStore
from pattern_lancedb.opening import open_store
from pattern_lancedb.plugin import StorageOptions, VectorOptions, pattern_storage, pattern_vectors
from pattern_lancedb.store import COMMIT_LOCK, MAINTENANCE_LOCK, StaleManifestError, Store
from tests.servers import s3

TIMEOUT_S: Final = 30


@pytest.fixture(scope="module")
def server() -> Iterator[s3.Store]:
    """A server with a bucket."""
    yield from s3.running_store()


def options_for(server: s3.Store, **changes: Any) -> StorageOptions:
    """Return options for a new prefix."""
    given = server.section(**changes)
    return StorageOptions(**{**given, "secret_access_key": Secret(given["secret_access_key"])})


class TestWrites(WriteRules, ProcessRules):
    """The rules of a storage that depend on the store: commits, several writers, ``kill -9``."""

    spec = pattern_storage()
    open_storage = StorageContract.open_storage
    storage = StorageContract.storage
    reopen = StorageContract.reopen

    @pytest.fixture
    def options(self, server: s3.Store) -> StorageOptions:
        """A new prefix."""
        return options_for(server)


class TestColumn(VectorStoreContract):
    """Vector search in the storage, by cosine similarity."""

    spec = attrs.evolve(pattern_vectors(), metrics=frozenset({"cosine"}))
    storage_spec = pattern_storage()

    @pytest.fixture
    def storage_options(self, server: s3.Store) -> StorageOptions:
        """A new prefix."""
        return options_for(server)


class TestBesideMemory(VectorStoreContract):
    """Vector search in copies in a bucket, by Euclidean distance."""

    spec = attrs.evolve(pattern_vectors(), metrics=frozenset({"euclidean"}))

    @pytest.fixture
    def options(self, server: s3.Store) -> VectorOptions:
        """A new prefix."""
        given = options_for(server)
        shared = {name: getattr(given, name) for name in ("uri", "endpoint", "region", "access_key_id", "allow_http")}
        return VectorOptions(secret_access_key=given.secret_access_key, lease_seconds=1, **shared)


pytestmark = pytest.mark.anyio


async def open_bucket(options: StorageOptions) -> Store:
    """Open the store that options describe."""
    return await open_store(options.path, options)


@pytest.fixture
async def stores(server: s3.Store) -> AsyncIterator[list[Store]]:
    """One store, opened three times as by three processes."""
    options = options_for(server)
    stores = [await open_bucket(options) for _ in range(3)]
    yield stores
    for store in stores:
        await store.aclose()


async def test_only_one_of_two_manifests_is_published(stores: list[Store]) -> None:
    """Publishing over an outdated manifest, or over none, raises `StaleManifestError` and changes nothing."""
    one, two, _ = stores
    assert await one.read_manifest() is None
    first = await one.publish(b"first", None)
    with pytest.raises(StaleManifestError):
        await two.publish(b"also first", None)
    assert await two.read_manifest() == (b"first", first)
    second = await two.publish(b"second", first)
    with pytest.raises(StaleManifestError):
        await one.publish(b"also second", first)
    assert await one.read_manifest(first) == (b"second", second)
    assert (await one.read_manifest(second) or (None, None))[1] == second


async def test_equal_manifests_have_different_tags(stores: list[Store]) -> None:
    """A manifest with the same bytes as an earlier one has another tag, so a writer with the old tag fails."""
    one, two, _ = stores
    tag = await one.publish(b"same", None)
    await two.publish(b"same", await two.publish(b"other", tag))
    with pytest.raises(StaleManifestError):
        await one.publish(b"mine", tag)


async def test_a_lost_answer_is_no_conflict(stores: list[Store], server: s3.Store) -> None:
    """A put whose answer is lost has taken effect. Its repetition fails by the condition, and is not a conflict."""
    one, two, _ = stores
    for swallowed in range(2):
        found = await one.read_manifest()
        server.swallow = 1
        tag = await one.publish(f"manifest {swallowed}".encode(), found and found[1])
        assert server.swallow == 0
        assert await two.read_manifest() == (f"manifest {swallowed}".encode(), tag)
    server.swallow = 1
    async with one.lock(COMMIT_LOCK):
        assert server.swallow == 0
    async with two.lock(COMMIT_LOCK):
        pass


async def test_wal_entries(stores: list[Store]) -> None:
    """Entries are read by name, missing ones as None, and removed; a missing one is ignored."""
    one, two, _ = stores
    contents = {f"{number:03}": bytes(range(256)) * number for number in range(40)}
    await asyncio.gather(*(one.write_wal(name, content) for name, content in contents.items()))
    assert sorted(await two.list_wal()) == sorted(contents)
    assert await two.read_wal([*contents, "missing"]) == [*contents.values(), None]
    await two.remove_wal([*list(contents)[5:], "missing"])
    await two.remove_wal([])
    assert sorted(await one.list_wal()) == list(contents)[:5]


async def test_a_lock_has_one_holder_at_a_time(stores: list[Store]) -> None:
    """A lock has one holder among tasks and processes, each waiting task gets it, and other locks are independent."""
    inside = held = 0

    async def work(store: Store) -> None:
        nonlocal inside, held
        for _ in range(3):
            async with store.lock(COMMIT_LOCK):
                inside += 1
                assert inside == 1
                await store.read_manifest()
                inside -= 1
                held += 1

    async with stores[0].lock(MAINTENANCE_LOCK):
        await asyncio.gather(*(work(store) for store in stores for _ in range(2)))
    assert held == 18


async def test_a_live_holder_keeps_its_lease(stores: list[Store]) -> None:
    """A lock that a live writer holds for three times its lease is not taken over."""
    one, two, _ = stores

    async def take() -> None:
        async with two.lock(COMMIT_LOCK):
            pass

    async with one.lock(COMMIT_LOCK):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(take(), 3)
    await take()


async def test_a_cancelled_wait_holds_nothing(stores: list[Store]) -> None:
    """After a wait for a lock is cancelled, at any point, others can take the lock at once."""
    one, two, three = stores

    async def take(store: Store) -> None:
        async with store.lock(COMMIT_LOCK):
            await asyncio.Event().wait()

    for steps in range(0, 60, 3):
        task = asyncio.create_task(take(one))
        for _ in range(steps):
            await asyncio.sleep(0)
        if steps % 2:
            await two.read_manifest()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(0.9), three.lock(COMMIT_LOCK):  # before a lease expires
            pass


def hold_until_killed(pipe: Connection, options: StorageOptions) -> None:
    """Hold a lock until the process is killed."""

    async def hold() -> None:
        store = await open_bucket(options)
        async with store.lock(COMMIT_LOCK):
            pipe.send("held")
            await asyncio.Event().wait()

    asyncio.run(hold())


async def test_the_lease_of_a_killed_writer_expires(server: s3.Store) -> None:
    """After a writer that holds the lock is killed, another one gets the lock when the lease expires."""
    options = options_for(server)
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    child = spawn.Process(target=hold_until_killed, args=(theirs, options), daemon=True)
    child.start()
    try:
        assert await asyncio.to_thread(ours.poll, TIMEOUT_S)
    finally:
        child.kill()
        await asyncio.to_thread(child.join)
        ours.close()
        theirs.close()
    store = await open_bucket(options)
    async with asyncio.timeout(TIMEOUT_S), store.lock(COMMIT_LOCK):
        pass


async def test_a_stalled_writer_cannot_publish(server: s3.Store) -> None:
    """A writer that stalls with the lock, and continues after another one had it, changes nothing."""
    options = options_for(server)
    store = await open_bucket(options)
    await store.publish(b"before", None)
    stalled, may_continue = threading.Event(), threading.Event()

    async def stall() -> None:
        other = await open_bucket(options)
        found = await other.read_manifest()
        assert found is not None
        async with other.lock(COMMIT_LOCK):
            stalled.set()
            assert may_continue.wait(TIMEOUT_S)  # blocks this event loop, so that the lease is not renewed
            with pytest.raises(StaleManifestError):
                await other.publish(b"late", found[1])

    writer = asyncio.create_task(asyncio.to_thread(asyncio.run, stall()))
    assert await asyncio.to_thread(stalled.wait, TIMEOUT_S)
    async with store.lock(COMMIT_LOCK):  # takes the expired lease, and writes nothing
        pass
    may_continue.set()
    await writer
    assert ((await store.read_manifest()) or (b"",))[0] == b"before"
    async with asyncio.timeout(0.9), store.lock(COMMIT_LOCK):  # the stalled writer has not taken the lease back
        pass


async def test_waiting_for_a_lock_times_out(stores: list[Store]) -> None:
    """After the timeout, a wait raises `StorageError` with the location, and nothing was written."""
    waiting = ObjectStore(stores[0].uri, stores[0].storage_options, lease=1, timeout=0.2)
    async with stores[0].lock(COMMIT_LOCK):
        with pytest.raises(StorageError, match="nothing was written"):
            async with waiting.lock(COMMIT_LOCK):
                pass


@pytest.mark.parametrize("uri", ["s3://no-such-bucket/x", "nonsense://x/y"])
async def test_a_missing_bucket(server: s3.Store, uri: str) -> None:
    """A missing bucket, or an unknown scheme, raises `StorageError` with the URI and without secrets."""
    with pytest.raises(StorageError) as caught:
        async with await pattern_storage().open(options_for(server, uri=uri)):
            pass
    assert uri in str(caught.value)
    assert "hush" not in str(caught.value)
