"""The server of the tests: it answers as SurrealDB's protocol says, whichever one it is."""

from __future__ import annotations

import asyncio
import base64
import ssl
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.servers.proxy import UNREADABLE, Proxy
from tests.servers.surreal import Server, needs_server, running

websockets = pytest.importorskip("websockets", reason="needs the package websockets")
cbor = pytest.importorskip("surrealdb.data.cbor", reason="needs the package surrealdb")
surrealdb = pytest.importorskip("surrealdb")

pytestmark = [pytest.mark.anyio, needs_server]

Call = Callable[..., Awaitable[Any]]


class Client:
    """A connection that sends what it is told to."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket

    async def send(self, method: str, *params: Any, **more: Any) -> str:
        """Send a request, and return its id."""
        number = str(uuid.uuid4())
        await self.socket.send(cbor.encode({"id": number, "method": method, "params": list(params), **more}))
        return number

    async def receive(self) -> dict[str, Any]:
        """Return the next message."""
        async with asyncio.timeout(20):
            message: dict[str, Any] = cbor.decode(await self.socket.recv())
        return message

    async def call(self, method: str, *params: Any, **more: Any) -> Any:
        """Send a request and return its result; errors are raised."""
        number = await self.send(method, *params, **more)
        answer = await self.receive()
        assert answer["id"] == number
        if "error" in answer:
            raise RuntimeError(answer["error"]["message"])
        return answer["result"]

    async def query(self, sql: str, **more: Any) -> Any:
        """Return the result of a query's last statement."""
        last = (await self.call("query", sql, {}, **more))[-1]
        assert last["status"] == "OK", last
        return last["result"]

    async def login(self, server: Server) -> None:
        """Sign in as root, to a namespace that tests of this module share."""
        await self.call("signin", {"user": server.username, "pass": server.password})
        await self.call("use", "front", "main")


Connect = Callable[[str], Awaitable[Client]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Open connections, which the test's end closes."""
    sockets: list[Any] = []

    async def open_one(url: str) -> Client:
        sockets.append(await websockets.connect(f"{url}/rpc", subprotocols=["cbor"]))
        return Client(sockets[-1])

    yield open_one
    for socket in sockets:
        await socket.close()


@pytest.fixture
async def client(server: Server, connect: Connect) -> Client:
    """A connection that root has signed in to."""
    client = await connect(server.url)
    await client.login(server)
    return client


async def test_strangers_are_refused(server: Server, connect: Connect) -> None:
    """Who has not signed in may ask for the version, and is told no for a query; a wrong password changes nothing."""
    client = await connect(server.url)
    assert (await client.call("version")).startswith("surrealdb-")
    assert await client.call("ping") is None
    with pytest.raises(RuntimeError, match="Anonymous access not allowed"):
        await client.query("RETURN 1")
    with pytest.raises(RuntimeError, match="There was a problem with authentication"):
        await client.call("signin", {"user": server.username, "pass": "wrong"})
    with pytest.raises(RuntimeError, match="Anonymous access not allowed"):
        await client.query("RETURN 1")
    await client.login(server)
    assert await client.query("RETURN 1") == 1
    await client.call("invalidate")
    with pytest.raises(RuntimeError, match="Anonymous access not allowed"):
        await client.query("RETURN 1")


async def test_requests_may_overlap(server: Server, connect: Connect) -> None:
    """A query that is sent right behind the sign-in is carried out after it; answers carry their requests' ids."""
    client = await connect(server.url)
    first = await client.send("signin", {"user": server.username, "pass": server.password})
    others = {await client.send("query", f"RETURN {n}", {}): n for n in range(20)}
    answers = {answer["id"]: answer for answer in [await client.receive() for _ in range(21)]}
    assert isinstance(answers.pop(first)["result"], str)
    assert {number: answer["result"][0]["result"] for number, answer in answers.items()} == others


async def test_a_token_lets_in(server: Server, client: Client, connect: Connect) -> None:
    """What signing in returns signs in another connection; half of it does not."""
    token = await client.call("signin", {"user": server.username, "pass": server.password})
    other = await connect(server.url)
    with pytest.raises(RuntimeError):
        await other.call("authenticate", token[: len(token) // 2])
    await other.call("authenticate", token)
    assert await other.query("RETURN 1") == 1


async def test_values_come_back_as_they_were(client: Client) -> None:
    """The front passes values on byte for byte: kinds of numbers, records and maps that look like errors, too."""
    values = [1.0, 1, 2**62, -(2**63), 1e300, "ü", b"\x00", None, surrealdb.RecordID("a", ["x", 1])]
    looks = {"error": {"code": 1, "message": "no"}, "result": 2, "id": 3}
    for value in (*values, looks, [values, looks]):
        (answer,) = await client.call("query", "RETURN $value", {"value": value})
        assert answer["result"] == value
        assert type(answer["result"]) is type(value)


async def test_notifications_go_to_their_own_session(server: Server, client: Client, connect: Connect) -> None:
    """What a LIVE query sees is told on the connection that has made it, and on no other."""
    other = await connect(server.url)
    await other.login(server)
    await client.query("DEFINE TABLE OVERWRITE seen")
    live = await client.query("LIVE SELECT * FROM seen")
    await other.query("CREATE seen:1")
    note = (await client.receive())["result"]
    assert (note["id"], note["action"]) == (live, "CREATE")
    assert await other.call("ping") is None  # and not a notification


async def test_sessions_are_of_one_connection(server: Server, client: Client, connect: Connect) -> None:
    """A session that a client attaches is a stranger's, and another connection may choose the same number."""
    number = uuid.uuid4()
    other = await connect(server.url)
    for each in (client, other):
        await each.call("attach", session=number)
        with pytest.raises(RuntimeError, match="Anonymous access not allowed"):
            await each.query("RETURN 1", session=number)
        with pytest.raises(RuntimeError, match="Session already exists"):
            await each.call("attach", session=number)
    assert await client.query("RETURN 1") == 1
    await client.call("detach", session=number)
    with pytest.raises(RuntimeError, match="Session not found"):
        await client.query("RETURN 1", session=number)


async def test_transactions_are_of_one_connection(server: Server, client: Client, connect: Connect) -> None:
    """A transaction is seen by others once it is committed, and nobody else can commit it."""
    other = await connect(server.url)
    await other.login(server)
    await client.query("DEFINE TABLE OVERWRITE held")
    txn = await client.call("begin")
    await client.query("CREATE held:1", txn=txn)
    assert await other.query("SELECT VALUE id FROM held") == []
    with pytest.raises(RuntimeError, match="Transaction not found"):
        await other.call("commit", txn)
    await client.call("commit", txn)
    assert len(await other.query("SELECT VALUE id FROM held")) == 1


async def test_what_cannot_be_read_is_refused(client: Client) -> None:
    """A message that is no request is answered with an error, and the next one is carried out."""
    for message in (UNREADABLE, b"", cbor.encode([1]), cbor.encode({"params": []})):
        await client.socket.send(message)
        assert (await client.receive())["error"]["code"] in {-32700, -32600}
    with pytest.raises(RuntimeError, match="Method not found"):
        await client.call("nonsense")
    assert await client.query("RETURN 1") == 1


async def test_a_frame_that_is_too_big_harms_nobody_else(
    tmp_path: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message over the limit ends its connection; others go on, and the server takes new ones."""
    limit = 1 << 20
    monkeypatch.setenv("SURREAL_WEBSOCKET_MAX_MESSAGE_SIZE", str(limit))
    with running(tmp_path / "data") as server:
        if server.elsewhere:
            pytest.skip("needs a server with a limit of its own")
        loud, quiet = await connect(server.url), await connect(server.url)
        await quiet.login(server)
        with pytest.raises(websockets.ConnectionClosed):
            await loud.call("query", "RETURN 1", {"x": "x" * limit})
        assert await quiet.query("RETURN 1") == 1
        await (await connect(server.url)).login(server)


async def test_killed_and_started_again(own_server: Server, connect: Connect) -> None:
    """What was acknowledged is there after a kill, on the same port."""
    client = await connect(own_server.url)
    await client.login(own_server)
    await client.query("CREATE kept:1")
    own_server.restart()
    with pytest.raises(websockets.ConnectionClosed):
        await client.call("ping")
    client = await connect(own_server.url)
    await client.login(own_server)
    assert len(await client.query("SELECT VALUE id FROM kept")) == 1


async def test_over_http(server: Server) -> None:
    """Each request signs in by its headers; a wrong password is 401."""

    def ask(password: str) -> Any:
        word = base64.b64encode(f"{server.username}:{password}".encode()).decode()
        headers = {"content-type": "application/cbor", "accept": "application/cbor", "authorization": f"Basic {word}"}
        request = urllib.request.Request(
            f"{server.http_url}/rpc",
            data=cbor.encode({"method": "query", "params": ["RETURN $session.ns", {}]}),
            headers={**headers, "surreal-ns": "front", "surreal-db": "main"},
        )
        with urllib.request.urlopen(request) as response:
            return cbor.decode(response.read())["result"][0]["result"]

    assert await asyncio.to_thread(ask, server.password) == "front"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        await asyncio.to_thread(ask, "wrong")


async def test_a_wire_changes_and_breaks_what_it_carries(server: Server, connect: Connect) -> None:
    """Answers are replaced, lost or held back, connections cut; the next one works."""
    async with Proxy(server.port) as proxy:
        client = await connect(proxy.url)
        await client.login(server)
        assert len(await client.query("RETURN string::repeat('x', 100000)")) == 100_000

        async def garble(_: bytes) -> bytes:
            return UNREADABLE

        async def lose(_: bytes) -> None:
            return None

        keep, proxy.on_response = proxy.on_response, garble
        await client.send("ping")
        assert await client.socket.recv() == UNREADABLE
        proxy.on_response = lose
        await client.send("query", "CREATE lost:1", {})
        with pytest.raises(websockets.ConnectionClosed):
            await client.receive()
        proxy.on_response = keep
        client = await connect(proxy.url)
        await client.login(server)
        assert len(await client.query("SELECT VALUE id FROM lost")) == 1
        proxy.stall()
        await client.send("ping")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.socket.recv(), 0.2)
        proxy.flow()
        await client.receive()
        proxy.cut()
        with pytest.raises(websockets.ConnectionClosed):
            await client.call("ping")
        assert proxy.connections == 2


async def test_a_wire_delivers_what_was_on_the_way(server: Server, connect: Connect) -> None:
    """A request that waits on the way reaches the server also when its client is cut off meanwhile."""
    async with Proxy(server.port) as proxy:
        client, watcher = await connect(proxy.url), await connect(server.url)
        for each in (client, watcher):
            await each.login(server)
        await watcher.query("DEFINE TABLE OVERWRITE late")
        await watcher.query("LIVE SELECT * FROM late")
        held, may_go_on = asyncio.Event(), asyncio.Event()

        async def hold(message: bytes) -> bytes:
            held.set()
            await may_go_on.wait()
            return message

        proxy.on_request = hold
        await client.send("query", "CREATE late:1", {})
        await held.wait()
        proxy.cut_clients()
        with pytest.raises(websockets.ConnectionClosed):
            await client.receive()
        assert await watcher.query("SELECT VALUE id FROM late") == []
        may_go_on.set()
        assert (await watcher.receive())["result"]["action"] == "CREATE"


async def test_over_tls(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    """With a certificate, the server speaks TLS to those who trust it."""
    trusting = ssl.create_default_context(cafile=certificate[0])
    with running(tmp_path / "data", certificate) as server:
        if server.elsewhere:
            pytest.skip("needs a server with a certificate of its own")
        with pytest.raises(ssl.SSLError):
            await websockets.connect(f"{server.url}/rpc", subprotocols=["cbor"])
        async with websockets.connect(f"{server.url}/rpc", subprotocols=["cbor"], ssl=trusting) as socket:
            await Client(socket).login(server)
