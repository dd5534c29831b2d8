"""Accounts: passwords, tokens, levels and record users; and the errors of rejected ones."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from pattern_core.abc import Delete, Insert, Patch, Put, Storage
from pattern_core.errors import AccessError
from pattern_core.schema import TABLES, CreateTable
from pattern_core.testing import DIMENSIONS, sample_row
from pattern_core.toolkit import Secret
from pattern_surreal_remote.plugin import StorageOptions, pattern_storage
from tests.servers.proxy import Proxy
from tests.servers.surreal import Server

pytestmark = pytest.mark.anyio

USERS = TABLES["users"]
KEY = "a key that two sides share"

NewOptions = Callable[..., StorageOptions]


async def open_storage(options: StorageOptions, **other: Any) -> Storage:
    """Open a storage with some other options."""
    return await pattern_storage().open(attrs.evolve(options, **other))


def token(options: StorageOptions, *, seconds: float, **claims: Any) -> Secret:
    """Return a signed token with a lifetime; a negative one has expired."""

    def part(content: bytes) -> str:
        return base64.urlsafe_b64encode(content).rstrip(b"=").decode()

    head = {"typ": "JWT", "alg": "HS512"}
    now = int(time.time())
    place = {"ns": options.namespace, "db": options.database, "ac": "service"}
    body = {"iat": now - 60, "nbf": now - 60, "exp": now + int(seconds), **place, "rl": ["Owner"], **claims}
    signed = ".".join(part(json.dumps(each).encode()) for each in (head, body))
    return Secret(f"{signed}.{part(hmac.new(KEY.encode(), signed.encode(), hashlib.sha512).digest())}")


@pytest.fixture
async def made(server: Server, options_on: NewOptions) -> StorageOptions:
    """A database with a table and a record, users of all levels, and an access method; the options are root's."""
    options = options_on(server)
    async with await open_storage(options) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        await storage.commit([Insert(USERS, sample_row(USERS, "there"))])
        await storage.execute(
            "DEFINE USER of_namespace ON NAMESPACE PASSWORD 'word' ROLES OWNER;"
            "DEFINE USER of_database ON DATABASE PASSWORD 'word' ROLES EDITOR;"
            "DEFINE USER reader ON DATABASE PASSWORD 'word' ROLES VIEWER;"
            f"DEFINE ACCESS service ON DATABASE TYPE JWT ALGORITHM HS512 KEY '{KEY}';"
        )
    return options


async def ids(storage: Storage) -> list[str]:
    """Return the ids of all users."""
    return [row["id"] for row in await storage.find(USERS)]


@pytest.mark.parametrize(("level", "user"), [("namespace", "of_namespace"), ("database", "of_database")])
async def test_system_users(made: StorageOptions, level: str, user: str) -> None:
    """A namespace user and a database user sign in on their level, read and write."""
    async with await open_storage(made, level=level, username=user, password=Secret("word")) as storage:
        await storage.commit([Insert(USERS, sample_row(USERS, "new"))])
        assert await ids(storage) == ["new", "there"]


@pytest.mark.parametrize(
    "wrong",
    [{"password": Secret("wrong")}, {"username": "nobody"}, {"level": "database"}, {"level": "namespace"}],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_a_wrong_password(made: StorageOptions, wrong: dict[str, Any]) -> None:
    """A rejected sign-in names the options to check, without their values."""
    with pytest.raises(AccessError, match="username, password, level") as caught:
        await open_storage(made, **wrong)
    assert caught.value.option == "password"
    assert "wrong" not in str(caught.value)
    async with await open_storage(made) as storage:
        assert await ids(storage) == ["there"]


async def test_no_credentials(made: StorageOptions) -> None:
    """Without an account, a server that requires one raises `AccessError`."""
    with pytest.raises(AccessError, match=r"may not use the database|Anonymous"):
        await open_storage(made, username=None, password=None)


async def test_an_unknown_namespace(made: StorageOptions) -> None:
    """A missing namespace is created by an account with the right; others get an error that names it."""
    of_namespace = {"level": "namespace", "username": "of_namespace", "password": Secret("word")}
    with pytest.raises(AccessError, match=f"{made.namespace}x"):
        await open_storage(made, **of_namespace, namespace=f"{made.namespace}x")
    async with await open_storage(made, namespace=f"{made.namespace}y") as storage:
        assert await storage.tables() == frozenset()


async def test_an_unknown_database(made: StorageOptions) -> None:
    """A missing database is created by an account with the right; others get an error that names it."""
    of_database = {"level": "database", "username": "of_database", "password": Secret("word")}
    with pytest.raises(AccessError, match="elsewhere"):
        await open_storage(made, **of_database, database="elsewhere")
    of_namespace = {"level": "namespace", "username": "of_namespace", "password": Secret("word")}
    async with await open_storage(made, **of_namespace, database="elsewhere") as storage:
        assert await storage.tables() == frozenset()


async def test_a_database_of_others(made: StorageOptions) -> None:
    """An account for another database gets an error that names the database and the option."""
    by_token = {"username": None, "password": None, "token": token(made, seconds=60)}
    with pytest.raises(AccessError, match=f"{made.namespace}/elsewhere") as caught:
        await open_storage(made, **by_token, database="elsewhere")
    assert caught.value.option == "namespace"


async def test_who_may_only_read(made: StorageOptions) -> None:
    """A write by a user with read access raises `AccessError`; the server alone would silently skip it."""
    reader = {"level": "database", "username": "reader", "password": Secret("word")}
    async with await open_storage(made, **reader) as storage:
        assert await ids(storage) == ["there"]
        with pytest.raises(AccessError, match="not write"):
            await storage.commit([Insert(USERS, sample_row(USERS, "new"))])
        assert await ids(storage) == ["there"]


async def test_a_token(made: StorageOptions) -> None:
    """A valid token needs no password."""
    by_token = {"username": None, "password": None}
    async with await open_storage(made, **by_token, token=token(made, seconds=60)) as storage:
        await storage.commit([Insert(USERS, sample_row(USERS, "new"))])
        assert await ids(storage) == ["new", "there"]


async def test_an_expired_token(made: StorageOptions) -> None:
    """An expired token raises an error that says so; with a password, the plugin signs in instead."""
    expired = token(made, seconds=-30)
    with pytest.raises(AccessError, match="expired") as caught:
        await open_storage(made, username=None, password=None, token=expired)
    assert caught.value.option == "token"
    assert expired.reveal() not in str(caught.value)
    async with await open_storage(made, token=expired) as storage:
        assert await ids(storage) == ["there"]


@pytest.mark.parametrize("kind", ["of somebody else", "no token at all"])
async def test_a_token_that_is_not_taken(made: StorageOptions, kind: str) -> None:
    """A forged or malformed token raises an error that names the option and shows no part of the token."""
    forged = token(made, seconds=60).reveal()[:-8] + "AAAAAAAA" if kind == "of somebody else" else "hush.hush.hush"
    with pytest.raises(AccessError, match="token") as caught:
        await open_storage(made, username=None, password=None, token=Secret(forged))
    assert caught.value.option == "token"
    assert forged[:20] not in str(caught.value)


async def test_a_session_that_expires(made: StorageOptions, server: Server, proxy: Proxy) -> None:
    """When a session has expired, the next call signs in again without an error."""
    expired = False

    async def expire(message: bytes) -> bytes | None:
        nonlocal expired
        if expired or b"there" not in message:
            return message
        expired = True
        return _session_expired(message)

    async with await open_storage(made, url=proxy.url, pool_size=1) as storage:
        proxy.on_response = expire
        before = proxy.connections
        assert await ids(storage) == ["there"]
        assert expired
        assert proxy.connections == before + 1


def _session_expired(answer: bytes) -> bytes:
    """Return the server's answer to the same request with an expired session."""
    from surrealdb.data.cbor import decode, encode

    details = {"kind": "Auth", "details": {"kind": "SessionExpired"}}
    error = {"code": -32000, "kind": "NotAllowed", "message": "The session has expired", "details": details}
    return encode({"id": decode(answer)["id"], "error": error})


async def test_a_token_that_expires_on_the_way(made: StorageOptions, proxy: Proxy) -> None:
    """If the session and its token have expired, and there are no credentials, the error says so."""
    good = token(made, seconds=2)
    async with await open_storage(
        made, url=proxy.url, username=None, password=None, token=good, pool_size=1
    ) as storage:
        storage._remote.account.token = token(made, seconds=-30)  # type: ignore[attr-defined]  # time passes
        proxy.cut()
        with pytest.raises(AccessError, match="expired"):
            await storage.find(USERS)


@pytest.fixture
async def of_records(made: StorageOptions) -> StorageOptions:
    """The options of the record user ada, who may read and write her own users."""
    own = "string::starts_with(record::id(id), $auth.name)"
    async with await open_storage(made) as storage:
        await storage.execute(
            "DEFINE TABLE people SCHEMALESS; CREATE people:1 SET name = 'ada', word = 'hush hush';"
            "DEFINE ACCESS people ON DATABASE TYPE RECORD SIGNIN (SELECT * FROM people WHERE name = $name AND word = $word)"
            " WITH REFRESH DURATION FOR TOKEN 1h;"
            f"DEFINE TABLE OVERWRITE users SCHEMAFULL PERMISSIONS FOR select, create, update, delete WHERE {own};"
            + "".join(
                f"DEFINE TABLE OVERWRITE {each} SCHEMALESS PERMISSIONS FULL;"
                for each in ("pattern_sessions", "pattern_gate", "pattern_locks", "pattern_checks")
            )
            + "DEFINE TABLE OVERWRITE people SCHEMALESS PERMISSIONS FOR select WHERE id = $auth.id;"
        )
    credentials = {"name": Secret("ada"), "word": Secret("hush hush")}
    return attrs.evolve(made, username=None, password=None, access="people", credentials=credentials)


async def test_a_record_user(of_records: StorageOptions) -> None:
    """A record user reads and writes what the permissions allow; other writes raise `AccessError`."""
    async with await open_storage(of_records) as storage:
        assert await ids(storage) == []
        await storage.commit([Insert(USERS, sample_row(USERS, "ada 1")), Put(USERS, sample_row(USERS, "ada 2"))])
        await storage.commit([Patch(USERS, "ada 1", {"revision": 2}, 1), Delete(USERS, "ada 2")])
        assert await ids(storage) == ["ada 1"]
        for write in (Insert(USERS, sample_row(USERS, "bob")), Put(USERS, sample_row(USERS, "bob"))):
            with pytest.raises(AccessError, match="may not write this record of users"):
                await storage.commit([Insert(USERS, sample_row(USERS, "ada 3")), write])
        assert await ids(storage) == ["ada 1"]
        assert await storage.tables() == {"users"}


async def test_a_record_user_with_a_wrong_word(of_records: StorageOptions) -> None:
    """Rejected credentials raise an error that names the option, without its value."""
    wrong = {"name": Secret("ada"), "word": Secret("not this")}
    with pytest.raises(AccessError, match="access and credentials") as caught:
        await open_storage(of_records, credentials=wrong)
    assert caught.value.option == "credentials"
    assert "not this" not in str(caught.value)
    with pytest.raises(AccessError):
        await open_storage(of_records, access="nobody knows it")


async def test_refresh_tokens(of_records: StorageOptions, proxy: Proxy) -> None:
    """An expired token is replaced with its refresh token, each of which works once."""
    async with await open_storage(of_records, url=proxy.url, pool_size=1) as storage:
        account = storage._remote.account  # type: ignore[attr-defined]
        refresh, credentials = account.refresh_token, account.credentials
        assert refresh is not None
        account.credentials = {}
        for _ in range(3):
            account.token = token(of_records, seconds=-30)
            proxy.cut()
            assert await ids(storage) == []
        assert account.refresh_token not in (None, refresh)
        account.refresh_token = refresh  # which has been used
        account.token = token(of_records, seconds=-30)
        account.credentials = credentials
        proxy.cut()
        assert await ids(storage) == []
