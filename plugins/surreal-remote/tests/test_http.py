"""A server over HTTP, with one request per call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import attrs
import pytest

from pattern_core.abc import Check, Insert, Patch, Storage
from pattern_core.errors import AlreadyExistsError, ClosedError, ConflictError, StorageError, UnreachableError
from pattern_core.filters import Field
from pattern_core.schema import TABLES, CreateTable
from pattern_core.testing import DIMENSIONS, sample_row
from pattern_core.toolkit import Secret
from pattern_surreal_remote.plugin import StorageOptions, pattern_storage
from tests.servers.proxy import Proxy
from tests.servers.surreal import Server

pytestmark = pytest.mark.anyio

USERS = TABLES["users"]

NewOptions = Callable[..., StorageOptions]


@pytest.fixture
async def storage(server: Server, proxy: Proxy, options_on: NewOptions) -> AsyncIterator[Storage]:
    """An open storage over HTTP, behind the proxy, with a table."""
    url = proxy.url.replace("ws", "http", 1)
    async with await pattern_storage().open(options_on(server, url=url, timeout=3.0)) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        await storage.commit([Insert(USERS, sample_row(USERS, "there"))])
        yield storage


async def ids(storage: Storage) -> list[str]:
    """Return the ids of all users."""
    return [row["id"] for row in await storage.find(USERS)]


async def test_reads_and_writes(storage: Storage) -> None:
    """Writes and their errors are the same as over a WebSocket."""
    await asyncio.gather(*(storage.commit([Insert(USERS, sample_row(USERS, f"u{n}"))]) for n in range(20)))
    assert await storage.count(USERS, Field("id").startswith("u")) == 20
    with pytest.raises(AlreadyExistsError):
        await storage.commit([Insert(USERS, sample_row(USERS, "there"))])
    with pytest.raises(ConflictError):
        await storage.commit([Check(USERS, "u1", 1), Patch(USERS, "there", {"revision": 3}, 2)])
    assert (await storage.health()).ok


async def test_answers_that_are_lost(proxy: Proxy, storage: Storage) -> None:
    """Broken connections are replaced; a write whose answer was lost is carried out once."""
    for n in range(5):
        writing = asyncio.create_task(storage.commit([Insert(USERS, sample_row(USERS, f"u{n}"))]))
        for _ in range(n):
            await asyncio.sleep(0)
        proxy.cut()
        await writing
    assert await ids(storage) == ["there", *(f"u{n}" for n in range(5))]


async def test_a_server_that_is_not_there(proxy: Proxy, storage: Storage) -> None:
    """Without a server, calls end within their timeout, and work again when there is one."""
    await proxy.refuse()
    proxy.cut()
    with pytest.raises(UnreachableError) as caught:
        await storage.find(USERS)
    assert not caught.value.may_have_written
    await proxy.open()
    assert await ids(storage) == ["there"]


async def test_a_server_that_is_silent(server: Server, proxy: Proxy, options_on: NewOptions) -> None:
    """Without an answer, a call ends with its timeout."""
    url = proxy.url.replace("ws", "http", 1)
    async with await pattern_storage().open(options_on(server, url=url, timeout=0.5)) as storage:
        proxy.stall()
        with pytest.raises(UnreachableError):
            await storage.tables()
        proxy.flow()
        assert await storage.tables() == frozenset()


async def test_a_request_over_the_servers_limit(storage: Storage) -> None:
    """A request over the server's limit raises an error that says so; nothing is written, and the next call works."""
    row = sample_row(USERS, "large", settings={"text": "x" * (5 << 20)})
    with pytest.raises(StorageError, match=r"larger than the server accepts over HTTP") as caught:
        await storage.commit([Insert(USERS, row)])
    assert not isinstance(caught.value, UnreachableError)
    assert await ids(storage) == ["there"]


async def test_an_answer_over_our_limit(server: Server, options_on: NewOptions) -> None:
    """An answer over `max_answer` raises an error in its call only."""
    async with await pattern_storage().open(options_on(server, url=server.http_url, max_answer=30_000)) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        for n in range(4):
            await storage.commit([Insert(USERS, sample_row(USERS, f"u{n}", settings={"text": "x" * 10_000}))])
        with pytest.raises(StorageError, match="max_answer"):
            await storage.find(USERS)
        assert await storage.count(USERS) == 4


async def test_a_token_that_is_no_longer_taken(storage: Storage) -> None:
    """An expired token is replaced by signing in again."""
    channel = storage._remote._channels[0]  # type: ignore[attr-defined]
    channel.present("eyJhbGciOiJIUzUxMiJ9.e30.AAAA")
    storage._remote.account.token = Secret("eyJhbGciOiJIUzUxMiJ9.e30.AAAA")  # type: ignore[attr-defined]
    assert await ids(storage) == ["there"]
    await storage.commit([Insert(USERS, sample_row(USERS, "new"))])


async def test_it_is_closed(server: Server, options_on: NewOptions) -> None:
    """After closing, every call raises `ClosedError`."""
    storage = await pattern_storage().open(attrs.evolve(options_on(server, url=server.http_url)))
    await storage.aclose()
    await storage.aclose()
    with pytest.raises(ClosedError):
        await storage.tables()
