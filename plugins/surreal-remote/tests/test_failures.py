"""Failures between the plugin and a server: each raises a typed error, none hangs, and the next call works."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pattern_core.abc import Insert, Patch, Put, Storage
from pattern_core.errors import ClosedError, StorageError, UnreachableError
from pattern_core.schema import TABLES, CreateTable
from pattern_core.testing import DIMENSIONS, sample_row
from pattern_surreal_remote.plugin import StorageOptions, pattern_storage
from tests.servers.proxy import UNREADABLE, Proxy
from tests.servers.surreal import Server, running

pytestmark = pytest.mark.anyio

USERS = TABLES["users"]

NewOptions = Callable[..., StorageOptions]
Hook = Callable[[bytes], Awaitable[bytes | None]]


def once(instead: bytes | None, containing: bytes = b"") -> Hook:
    """Replace the first message that contains some bytes."""
    left = 1

    async def hook(message: bytes) -> bytes | None:
        nonlocal left
        if left and containing in message:
            left -= 1
            return instead
        return message

    return hook


async def ids(storage: Storage) -> list[str]:
    """Return the ids of all users."""
    return [row["id"] for row in await storage.find(USERS)]


async def test_an_answer_that_cannot_be_read(proxy: Proxy, storage: Storage) -> None:
    """An answer that is not CBOR raises `StorageError` in its call; the next call gets a new connection."""
    before = proxy.connections
    proxy.on_response = once(UNREADABLE)
    with pytest.raises(StorageError, match="cannot be read"):
        await storage.find(USERS)
    assert await ids(storage) == ["there"]
    assert proxy.connections == before + 1


async def test_only_one_of_many_calls_suffers_from_an_answer_that_cannot_be_read(
    proxy: Proxy, storage: Storage
) -> None:
    """If one answer on a connection cannot be decoded, the other reads are repeated, and succeed."""
    proxy.on_response = once(UNREADABLE)
    assert await asyncio.gather(*(ids(storage) for _ in range(20))) == [["there"]] * 20


async def test_the_answer_to_a_write_that_cannot_be_read(proxy: Proxy, storage: Storage) -> None:
    """A write with an unreadable answer took effect; the plugin finds that out, and does not repeat it."""
    proxy.on_response = once(UNREADABLE)
    await storage.commit([Insert(USERS, sample_row(USERS, "new"))])
    assert await ids(storage) == ["new", "there"]


async def test_the_answer_to_a_write_is_lost(proxy: Proxy, storage: Storage) -> None:
    """A write whose answer was lost, and which took effect, is acknowledged."""
    proxy.on_response = once(None)
    await storage.commit([Insert(USERS, sample_row(USERS, "new"))])
    assert await ids(storage) == ["new", "there"]


async def test_a_write_does_not_arrive(proxy: Proxy, storage: Storage) -> None:
    """A write that did not reach the server is repeated."""
    proxy.on_request = once(None, b"COMMIT")
    await storage.commit([Insert(USERS, sample_row(USERS, "new"))])
    assert await ids(storage) == ["new", "there"]


async def test_a_write_that_arrives_late_does_nothing(proxy: Proxy, storage: Storage) -> None:
    """A write that was repeated fails if its first request still arrives, and undoes nothing."""
    late: list[bytes] = []

    async def hold(message: bytes) -> bytes | None:
        if b"COMMIT" in message and not late:
            late.append(message)
            return None
        return message

    proxy.on_request = hold
    await storage.commit([Put(USERS, sample_row(USERS, "one", revision=1))])
    await storage.commit([Put(USERS, sample_row(USERS, "one", revision=2))])
    refused = asyncio.Event()

    async def listen(message: bytes) -> bytes | None:
        if b"pattern stale" in message:
            refused.set()
        return message

    proxy.on_response = listen
    await storage._remote._channels[0]._socket.send(late[0])  # type: ignore[attr-defined]  # as from a buffer on the way
    async with asyncio.timeout(10):
        await refused.wait()
    (row,) = await storage.get(USERS, ["one"])
    assert row is not None
    assert row["revision"] == 2


async def test_the_server_goes_away_for_good(server: Server, proxy: Proxy, options_on: NewOptions) -> None:
    """If the server stays unreachable, a read raises an error, and a write tells whether it may have taken effect."""
    async with await pattern_storage().open(options_on(server, url=proxy.url, timeout=1.0)) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        await storage.commit([Insert(USERS, sample_row(USERS, "there"))])
        await check_that_it_is_gone(proxy, storage)


async def check_that_it_is_gone(proxy: Proxy, storage: Storage) -> None:
    """Check the errors of a write and a read without a server."""
    await proxy.refuse()
    proxy.on_request = once(None, b"COMMIT")
    with pytest.raises(UnreachableError) as caught:
        await storage.commit([Insert(USERS, sample_row(USERS, "new"))])
    assert caught.value.may_have_written
    with pytest.raises(UnreachableError) as caught:
        await storage.find(USERS)
    assert not caught.value.may_have_written
    await proxy.open()
    assert await ids(storage) == ["there"]


async def test_a_half_open_connection(server: Server, proxy: Proxy, options_on: NewOptions) -> None:
    """On a half-open connection, calls end within their timeout, and the next call works."""
    options = options_on(server, url=proxy.url, pool_size=1, timeout=1.0, idle_timeout=0.5, connect_timeout=0.5)
    async with await pattern_storage().open(options) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        await storage.commit([Insert(USERS, sample_row(USERS, "there"))])
        proxy.stall()
        began = time.monotonic()
        calls = [ids(storage), ids(storage), storage.commit([Insert(USERS, sample_row(USERS, "new"))])]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert time.monotonic() - began < 5
        assert [type(outcome) for outcome in outcomes] == [UnreachableError] * 3
        assert [getattr(outcome, "may_have_written", None) for outcome in outcomes][2]
        proxy.flow()
        assert await ids(storage) in (["there"], ["new", "there"])


async def test_a_silent_connection_is_noticed(server: Server, proxy: Proxy, options_on: NewOptions) -> None:
    """A connection that broke while idle is replaced without a delay for the next call."""
    async with await pattern_storage().open(options_on(server, url=proxy.url, idle_timeout=0.2)) as storage:
        proxy.stall()
        await storage._remote._channels[0]._reader  # type: ignore[attr-defined]  # ends when no sign of life has come
        proxy.flow()
        before = proxy.connections
        assert await storage.tables() == frozenset()
        assert proxy.connections == before + 1


async def test_every_pending_call_ends(proxy: Proxy, storage: Storage) -> None:
    """Reads and writes that a disconnection interrupts all succeed when the server is reachable again."""
    answers = 0

    async def cut(message: bytes) -> bytes | None:
        nonlocal answers
        answers += 1
        return None if answers == 10 else message

    proxy.on_response = cut
    writes = [storage.commit([Insert(USERS, sample_row(USERS, f"u{n}"))]) for n in range(20)]
    reads = [storage.count(USERS) for _ in range(20)]
    await asyncio.gather(*writes, *reads)
    assert await ids(storage) == ["there", *sorted(f"u{n}" for n in range(20))]


async def test_closing_ends_calls(proxy: Proxy, storage: Storage) -> None:
    """A call that waits for an answer while the storage closes raises one of our errors."""
    proxy.stall()
    reading = asyncio.create_task(ids(storage))
    await asyncio.sleep(0)
    await storage.aclose()
    with pytest.raises(ClosedError):
        await reading


async def test_a_frame_over_our_limit(server: Server, options_on: NewOptions) -> None:
    """A request over `max_frame` is not sent; nothing is written, and the connection stays."""
    async with await pattern_storage().open(options_on(server, max_frame=20_000)) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        row = sample_row(USERS, "large", settings={"text": "x" * 20_000})
        with pytest.raises(StorageError, match="max_frame") as caught:
            await storage.commit([Insert(USERS, row)])
        assert "Nothing was sent or written" in str(caught.value)
        await storage.commit([Insert(USERS, sample_row(USERS, "small"))])
        assert await ids(storage) == ["small"]


async def test_a_frame_over_the_servers_limit(
    tmp_path: Path, options_on: NewOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request over the server's limit raises an error that says so; nothing is written, and the next call works."""
    monkeypatch.setenv("SURREAL_WEBSOCKET_MAX_MESSAGE_SIZE", "60000")
    with running(tmp_path / "data") as server:
        if server.elsewhere:
            pytest.skip("needs a server with a limit of its own")
        async with await pattern_storage().open(options_on(server)) as storage:
            await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
            row = sample_row(USERS, "large", settings={"text": "x" * 100_000})
            with pytest.raises(StorageError, match="too large for it"):
                await storage.commit([Insert(USERS, row)])
            await storage.commit([Insert(USERS, sample_row(USERS, "small"))])
            assert await ids(storage) == ["small"]


async def test_an_answer_over_our_limit(server: Server, options_on: NewOptions) -> None:
    """An answer over `max_answer` raises an error in its call only; other calls work."""
    async with await pattern_storage().open(options_on(server, max_answer=30_000, pool_size=1)) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        for n in range(4):
            await storage.commit([Insert(USERS, sample_row(USERS, f"u{n}", settings={"text": "x" * 10_000}))])
        outcomes = await asyncio.gather(ids(storage), *(storage.count(USERS) for _ in range(5)), return_exceptions=True)
        assert isinstance(outcomes[0], StorageError)
        assert "max_answer" in str(outcomes[0])
        assert outcomes[1:] == [4] * 5
        assert (await storage.get(USERS, ["u1"]))[0] is not None


async def test_the_server_is_killed_in_the_middle_of_calls(own_server: Server, options_on: NewOptions) -> None:
    """Calls that run while the server is killed succeed when it runs again."""
    async with await pattern_storage().open(options_on(own_server)) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        await storage.commit([Insert(USERS, sample_row(USERS, "one"))])
        own_server.pause()
        reading = asyncio.create_task(ids(storage))
        writing = asyncio.create_task(storage.commit([Patch(USERS, "one", {"revision": 2}, 1)]))
        await asyncio.sleep(0)
        await asyncio.to_thread(own_server.restart)
        assert await reading == ["one"]
        await writing
        (row,) = await storage.get(USERS, ["one"])
        assert row is not None
        assert row["revision"] == 2


async def test_nobody_is_there(own_server: Server, options_on: NewOptions) -> None:
    """Opening without a server raises an error at once, with the address; when the server runs, it works."""
    options = options_on(own_server)
    own_server.kill()
    began = time.monotonic()
    with pytest.raises(UnreachableError, match=f"127.0.0.1:{own_server.port}"):
        await pattern_storage().open(options)
    assert time.monotonic() - began < 5
    own_server.start()
    async with await pattern_storage().open(options) as storage:
        assert (await storage.health()).ok


async def test_somebody_else_is_there(options_on: NewOptions, server: Server) -> None:
    """A port with another service, or a silent one, raises an error within the timeout."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(1000):
                pass
        writer.close()

    for answer in (hang_up, be_silent):
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as listener:
            url = f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
            with pytest.raises(UnreachableError, match="127.0.0.1"):
                await pattern_storage().open(options_on(server, url=url, connect_timeout=0.5))


async def test_a_server_that_is_too_old(server: Server, proxy: Proxy, options_on: NewOptions) -> None:
    """A server before version 3 is rejected, with its version."""

    async def age(message: bytes) -> bytes | None:
        return message.replace(b"surrealdb-3.", b"surrealdb-2.")

    proxy.on_response = age
    with pytest.raises(StorageError, match=r"surrealdb-2\..*3\.0"):
        await pattern_storage().open(options_on(server, url=proxy.url))
