"""Secrets are never shown: not in errors, logs, reprs, tracebacks or `pattern doctor`."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from pattern_core.abc import Storage
from pattern_core.config import load_config
from pattern_core.errors import ConfigError, PatternError
from pattern_core.toolkit import Secret, structure_options
from pattern_surreal_remote.plugin import StorageOptions, pattern_storage
from tests.servers.proxy import UNREADABLE, Proxy
from tests.servers.surreal import Server

pytestmark = pytest.mark.anyio

SECRET = "hush-hush-0815"

NewOptions = Callable[..., StorageOptions]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """All log messages, at every level, with asyncio's debug mode."""
    with caplog.at_level(logging.DEBUG):
        for name in ("websockets", "websockets.client", "aiohttp", "aiohttp.client", "asyncio"):
            caplog.set_level(logging.DEBUG, logger=name)
        yield caplog


def assert_hidden(*shown: object) -> None:
    """Fail if a secret is shown, as text or as bytes."""
    for each in shown:
        text = str(each)
        for form in (SECRET, SECRET.encode().hex(" "), SECRET.encode().hex()):
            assert form not in text


def told(error: BaseException) -> str:
    """Return the traceback of an error with its causes."""
    chain = "".join(traceback.format_exception(error))
    seen: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in seen:
        seen.append(each)
        chain += repr(each) + repr(getattr(each, "__notes__", ""))
        each = each.__cause__ or each.__context__
    return chain


@pytest.mark.parametrize(
    "secrets",
    [
        {"password": Secret(SECRET)},
        {"username": None, "password": None, "token": Secret(SECRET)},
        {"username": None, "password": None, "token": Secret(f"eyJhbGciOiJIUzUxMiJ9.{SECRET}.x")},
        {"username": None, "password": None, "access": "people", "credentials": {"word": Secret(SECRET)}},
        {"username": None, "password": None, "access": "people", "refresh_token": Secret(SECRET)},
    ],
    ids=["password", "token", "token of three parts", "credentials", "refresh token"],
)
@pytest.mark.parametrize("scheme", ["ws", "http"])
async def test_refused_secrets(
    server: Server, options_on: NewOptions, logged: pytest.LogCaptureFixture, secrets: dict[str, Any], scheme: str
) -> None:
    """Rejected secrets are in no error, cause or log."""
    options = attrs.evolve(options_on(server), **secrets, url=server.url.replace("ws", scheme, 1))
    asyncio.get_running_loop().set_debug(True)
    with pytest.raises(PatternError) as caught:
        await pattern_storage().open(options)
    assert_hidden(told(caught.value), logged.text, options)


async def test_secrets_that_are_taken(
    server: Server, options_on: NewOptions, proxy: Proxy, logged: pytest.LogCaptureFixture
) -> None:
    """No log shows the password or the token through sign-ins, calls and reconnections."""
    options = options_on(server, url=proxy.url, pool_size=1)
    async with await pattern_storage().open(options) as storage:
        await storage.execute("DEFINE USER keeper ON DATABASE PASSWORD $p ROLES OWNER".replace("$p", f"'{SECRET}'"))
    logged.clear()
    async with await pattern_storage().open(
        attrs.evolve(options, level="database", username="keeper", password=Secret(SECRET))
    ) as storage:
        account = storage._remote.account  # type: ignore[attr-defined]
        tokens = {account.token.reveal()}
        await storage.tables()
        proxy.cut()
        await storage.tables()
        tokens.add(account.token.reveal())
        health = await storage.health()
        assert_hidden(logged.text, health, storage, account, vars(account) if hasattr(account, "__dict__") else "")
        assert not [token for token in tokens if token in logged.text or token in repr(account)]


async def test_a_server_that_says_the_password(server: Server, options_on: NewOptions, proxy: Proxy) -> None:
    """A password in a server's error message is not shown."""
    from surrealdb.data.cbor import decode, encode

    asked: list[str] = []

    async def note(message: bytes) -> bytes | None:
        if b"signin" in message:
            asked.append(decode(message)["id"])
        return message

    async def repeat(message: bytes) -> bytes | None:
        id = decode(message)["id"]
        if id not in asked:
            return message
        return encode({"id": id, "error": {"code": -1, "kind": "Internal", "message": f"no match for {SECRET}"}})

    proxy.on_request, proxy.on_response = note, repeat
    with pytest.raises(PatternError, match=r"\*\*\*") as caught:
        await pattern_storage().open(attrs.evolve(options_on(server, url=proxy.url), password=Secret(SECRET)))
    assert_hidden(told(caught.value))


async def test_failures_on_the_way(proxy: Proxy, storage: Storage, logged: pytest.LogCaptureFixture) -> None:
    """The content of truncated or unreadable frames is not logged."""

    async def spoil(message: bytes) -> bytes | None:
        return UNREADABLE

    proxy.on_response = spoil
    with pytest.raises(PatternError) as caught:
        await storage.execute("RETURN $secret", {"secret": SECRET})
    assert_hidden(told(caught.value), logged.text)


@pytest.mark.parametrize(
    "url",
    [
        f"ws://root:{SECRET}@localhost:8000",
        f"ws://{SECRET}@localhost:8000",
        f"wss://:{SECRET}@localhost",
        f"ws://localhost:8000/?token={SECRET}",
        f"ws://localhost:8000#{SECRET}",
        f"ws://localhost:{SECRET}",
        f"{SECRET}",
        f"ws://user:{SECRET}@[::1",
        f"ftp://localhost/{SECRET}",
        f"ws://localhost:8000/{SECRET}",
    ],
)
def test_a_secret_in_the_url(url: str, tmp_path: Path) -> None:
    """A URL with a password is rejected without being shown, also by the doctor."""
    with pytest.raises(ConfigError) as caught:
        structure_options(StorageOptions, {"url": url}, section="database", base=tmp_path)
    assert "url" in str(caught.value)
    assert_hidden(told(caught.value))
    config = tmp_path / "pattern.toml"
    config.write_text(f'[database]\ntype = "remote"\nurl = "{url}"\n[embeddings]\nprovider = "hashing"\n', "utf-8")
    assert_hidden(load_config(config))
    if url.startswith("ws://root:"):
        assert_hidden(doctor(config))


def doctor(config: Path) -> str:
    """Return the output of `pattern doctor` and `pattern status`."""
    shown = ""
    for command in ("doctor", "status"):
        program = "import sys; from pattern_core.cli import main; sys.exit(main())"
        arguments = [sys.executable, "-c", program, "--config", str(config), command]
        ended = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
        shown += ended.stdout + ended.stderr
    return shown


@pytest.mark.parametrize("right", [True, False])
def test_the_doctor(server: Server, tmp_path: Path, right: bool) -> None:
    """`pattern doctor` and `status` show the location and no secret, whether or not the sign-in succeeds."""
    section = server.section(password=server.password if right else SECRET)
    lines = [f"{name} = {value!r}" for name, value in section.items()]
    config = tmp_path / "pattern.toml"
    config.write_text(
        "\n".join(['[database]\ntype = "remote"', *lines, '[embeddings]\nprovider = "hashing"\n']), "utf-8"
    )
    shown = doctor(config)
    assert_hidden(shown)
    assert (f"{server.url} (SurrealDB" if right else "username, password, level") in shown.replace("\n", " ")


def test_options_show_no_secret() -> None:
    """The repr of the options and errors about them show no secret."""
    secret = Secret(SECRET)
    options = StorageOptions(
        url="wss://localhost",
        username="u",
        password=secret,
        token=secret,
        client_certificate=Path("c"),
        client_key_password=secret,
    )
    assert_hidden(options, attrs.asdict(options))
    options = StorageOptions(access="a", credentials={"word": secret}, refresh_token=secret)
    assert_hidden(options, attrs.asdict(options))
    with pytest.raises(ConfigError) as caught:
        structure_options(StorageOptions, {"password": SECRET}, section="database", base=Path())
    assert_hidden(told(caught.value))
    with pytest.raises(ConfigError) as caught:
        structure_options(StorageOptions, {"credentials": SECRET}, section="database", base=Path())
    assert_hidden(told(caught.value))
