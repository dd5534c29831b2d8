"""TLS: trusted certificates, and client certificates."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from pattern_core.errors import ConfigError, UnreachableError
from pattern_core.toolkit import Secret
from pattern_surreal_remote.plugin import StorageOptions, pattern_storage
from tests.servers.surreal import Server, running

pytestmark = pytest.mark.anyio

NewOptions = Callable[..., StorageOptions]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Iterator[Server]:
    """A server with TLS."""
    with running(tmp_path_factory.mktemp("secure") / "data", certificate) as server:
        if not server.url.startswith("wss"):
            pytest.skip("needs a server of this machine")
        yield server


@pytest.mark.parametrize("scheme", ["wss", "https"])
async def test_a_certificate_that_is_trusted(
    secure: Server, certificate: tuple[Path, Path], options_on: NewOptions, scheme: str
) -> None:
    """With the server's authority in `ca_file`, the connection works."""
    url = secure.url.replace("wss", scheme, 1)
    async with await pattern_storage().open(
        attrs.evolve(options_on(secure, url=url), ca_file=certificate[0])
    ) as storage:
        assert (await storage.health()).ok


@pytest.mark.parametrize("scheme", ["wss", "https"])
async def test_a_certificate_that_nobody_vouches_for(secure: Server, options_on: NewOptions, scheme: str) -> None:
    """A server with an unknown certificate is rejected before the password is sent."""
    with pytest.raises(UnreachableError, match="certificate"):
        await pattern_storage().open(options_on(secure, url=secure.url.replace("wss", scheme, 1)))


@pytest.mark.parametrize("scheme", ["wss", "https"])
async def test_a_certificate_of_another_name(
    secure: Server, certificate: tuple[Path, Path], options_on: NewOptions, scheme: str
) -> None:
    """A server with a certificate for another name is rejected."""
    url = f"{scheme}://localhost:{secure.port}"
    with pytest.raises(UnreachableError, match="localhost|certificate"):
        await pattern_storage().open(attrs.evolve(options_on(secure, url=url), ca_file=certificate[0]))


async def test_plain_where_it_should_be_encrypted(
    server: Server, secure: Server, certificate: tuple[Path, Path], options_on: NewOptions
) -> None:
    """A TLS client with a plain server, and the reverse, raise an error that says so."""
    with pytest.raises(UnreachableError):
        options = options_on(server, url=f"wss://127.0.0.1:{server.port}", connect_timeout=2.0)
        await pattern_storage().open(attrs.evolve(options, ca_file=certificate[0]))
    with pytest.raises(UnreachableError):
        await pattern_storage().open(options_on(secure, url=f"ws://127.0.0.1:{secure.port}", connect_timeout=2.0))


@contextlib.asynccontextmanager
async def guarded(server: Server, certificate: tuple[Path, Path]) -> AsyncIterator[int]:
    """Run a TLS proxy that requires a client certificate; yield its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.load_verify_locations(certificate[0])
    context.verify_mode = ssl.CERT_REQUIRED

    async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await source.read(1 << 16):
                target.write(chunk)
                await target.drain()
        target.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(carry(reader, inner_writer), carry(inner_reader, writer))

    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context) as listener:
        yield int(listener.sockets[0].getsockname()[1])


@pytest.mark.parametrize("scheme", ["wss", "https"])
async def test_a_certificate_of_ones_own(
    server: Server, certificate: tuple[Path, Path], options_on: NewOptions, scheme: str
) -> None:
    """A client certificate is sent to a server that requires one; without it, the connection fails."""
    async with guarded(server, certificate) as port:
        options = attrs.evolve(options_on(server, url=f"{scheme}://127.0.0.1:{port}"), ca_file=certificate[0])
        with pytest.raises(UnreachableError):
            await pattern_storage().open(options)
        own: dict[str, Any] = {"client_certificate": certificate[0], "client_key": certificate[1]}
        async with await pattern_storage().open(attrs.evolve(options, **own)) as storage:
            assert (await storage.health()).ok


async def test_files_that_cannot_be_used(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    """A missing or invalid file raises an error that names the option."""
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no certificate")
    for file in (wrong, tmp_path / "missing.pem"):
        with pytest.raises(ConfigError, match="ca_file") as caught:
            await pattern_storage().open(StorageOptions(url="wss://127.0.0.1:1", ca_file=file))
        assert caught.value.key == "database.ca_file"
        with pytest.raises(ConfigError, match="client_certificate"):
            await pattern_storage().open(
                StorageOptions(url="wss://127.0.0.1:1", client_certificate=file, client_key=certificate[1])
            )


@pytest.mark.parametrize(
    "given",
    [
        {"url": "ws://localhost", "ca_file": Path("a")},
        {"url": "wss://localhost", "client_key": Path("a")},
        {"url": "wss://localhost", "client_key_password": Secret("a")},
    ],
    ids=["plain", "key without certificate", "password without certificate"],
)
def test_options_of_no_use(given: dict[str, Any]) -> None:
    """Options without an effect are rejected."""
    with pytest.raises(ValueError, match="ca_file|client_key"):
        StorageOptions(**given)
