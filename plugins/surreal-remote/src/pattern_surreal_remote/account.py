"""Accounts: signing in with credentials or tokens, and the errors of it."""

from __future__ import annotations

import re
from collections import deque
from typing import Any, Final

import attrs

from pattern_core.errors import AccessError, StorageError, UnreachableError
from pattern_core.toolkit import Secret
from pattern_surreal import StatementError

from .protocol import Channel, TokenExpiredError, UnreadableError, read_statements

__all__ = ["Account", "Version"]

Version = tuple[int, int, int]

_OLDEST: Final = (3, 0, 0)


@attrs.define
class Account:
    """An account on a server, and the database that it is used for.

    Attributes:
        namespace: The namespace.
        database: The database.
        username: The name of a system user; None for others.
        password: The user's password.
        level: The level on which the user is defined: ``root``, ``namespace`` or ``database``.
        access: The access method of a record user; None for others.
        credentials: The credentials for the access method.
        token: The token to use; given, or from the last sign-in.
        refresh_token: A token to exchange for another one, once.
    """

    namespace: str
    database: str
    username: str | None = None
    password: Secret | None = None
    level: str = "root"
    access: str | None = None
    credentials: dict[str, Secret] = attrs.field(factory=dict, repr=False)
    token: Secret | None = None
    refresh_token: Secret | None = None
    _handed_out: bool = attrs.field(default=False, init=False)
    _past: deque[Secret] = attrs.field(factory=lambda: deque(maxlen=8), init=False)

    @property
    def is_record(self) -> bool:
        """Whether it is a record user, whose rights are the permissions of the database."""
        return self.access is not None

    @property
    def place(self) -> str:
        """The name of the database, to show to people."""
        return f"{self.namespace}/{self.database}"

    async def enter(self, channel: Channel, *, within: float) -> Version:
        """Sign in on a channel, and select the database. A missing one is created.

        Args:
            channel: The channel.
            within: How long each step may take, in seconds.

        Returns:
            The server's version.

        Raises:
            AccessError: The server rejects the account, or it lacks rights.
            StorageError: The server is too old.
            UnreachableError: The connection was lost.
        """
        version = _read_version(await channel.call("version", [], within=within))
        await self._identify(channel, within)
        try:
            await channel.call("use", [self.namespace, self.database], within=within)
            channel.enter(self.namespace, self.database)
            await self._look(channel, within)
        except TokenExpiredError:
            raise
        except AccessError as error:
            refused = f"the account may not use the database {self.place}: {self.scrub(error)}"
        else:
            return version
        # Here and below outside of `except`, so that the server's message is not the context of the error.
        raise AccessError(refused, option="database" if self.level == "database" else "namespace")

    async def _identify(self, channel: Channel, within: float) -> None:
        """Authenticate with the token, or sign in; without either, the server has to accept everybody."""
        can_sign_in = self.username is not None or self.access is not None
        if self.token is not None:
            try:
                await channel.call("authenticate", [self.token.reveal()], within=within)
            except (UnreachableError, UnreadableError):
                raise
            except StorageError as error:
                again = can_sign_in and (self._handed_out or isinstance(error, TokenExpiredError))
                refused = None if again else self._token_refused(error)
                if again:
                    self._past.append(self.token)
                    self.token = None
            else:
                channel.present(self.token.reveal())
                return
            if refused is not None:
                raise refused
        if can_sign_in:
            await self._sign_in(channel, within)

    async def _sign_in(self, channel: Channel, within: float) -> None:
        refresh, self.refresh_token = self.refresh_token, None  # it is valid once
        if refresh is not None:
            self._past.append(refresh)
        try:
            try:
                answer = await channel.call("signin", [self._parameters(refresh)], within=within)
            except AccessError:
                if refresh is None or not self.credentials:
                    raise
                answer = await channel.call("signin", [self._parameters(None)], within=within)
        except (UnreachableError, UnreadableError):
            raise
        except StorageError as error:
            refused = self._refused(error)
        else:
            self._keep(channel, answer)
            return
        raise refused

    def _keep(self, channel: Channel, answer: Any) -> None:
        """Keep the tokens of a sign-in."""
        access = answer if isinstance(answer, str) else None
        if isinstance(answer, dict):
            access = answer.get("access") or answer.get("token")
            if isinstance(answer.get("refresh"), str):
                self.refresh_token = Secret(answer["refresh"])
        if access is not None:
            self.token, self._handed_out = Secret(access), True
            channel.present(access)

    def _parameters(self, refresh: Secret | None) -> dict[str, Any]:
        if self.access is not None:
            place = {"NS": self.namespace, "DB": self.database, "AC": self.access}
            secrets = {"refresh": refresh} if refresh else self.credentials
            return {**place, **{name: value.reveal() for name, value in secrets.items()}}
        places = {"root": {}, "namespace": {"NS": self.namespace}}.get(
            self.level, {"NS": self.namespace, "DB": self.database}
        )
        return {**places, "user": self.username, "pass": self.password.reveal() if self.password else ""}

    async def _look(self, channel: Channel, within: float) -> None:
        """Check that the database exists and the account may use it. A missing one is created."""
        if self.is_record:
            return  # a record user may not read the definitions
        try:
            await _query(channel, "INFO FOR DB", within)
        except StatementError as error:
            if error.kind != "NotFound":
                raise
            namespace, database = (f"`{each}`" for each in (self.namespace, self.database))
            if self.level == "root":
                await _query(channel, f"DEFINE NAMESPACE IF NOT EXISTS {namespace}", within)
            define = f"USE NS {namespace}; DEFINE DATABASE IF NOT EXISTS {database}; USE DB {database}; INFO FOR DB"
            await _query(channel, define, within)

    def _refused(self, error: StorageError) -> AccessError:
        detail = self.scrub(error.detail if isinstance(error, StatementError) else error)
        if isinstance(error, StatementError) and error.kind == "NotFound":
            message = f"the server cannot sign the account in to {self.place}: {detail}"
            return AccessError(message, option="namespace" if "namespace" in detail else "database")
        if self.access is not None:
            return AccessError(
                f"the server rejects the credentials for the access method {self.access!r} of {self.place}: {detail}. "
                f"Check access and credentials under [database].",
                option="credentials",
            )
        where = {"root": "", "namespace": f" of {self.namespace}"}.get(self.level, f" of {self.place}")
        return AccessError(
            f"the server rejects the password of the {self.level} user {self.username!r}{where}, or there is no such user: "
            f"{detail}. Check username, password, level, namespace and database under [database].",
            option="password",
        )

    def _token_refused(self, error: StorageError) -> AccessError:
        if isinstance(error, TokenExpiredError):
            return TokenExpiredError(
                "the token has expired, and there are no credentials to get another one. Set a new token under "
                "[database], or username and password.",
                option="token",
            )
        detail = self.scrub(error.detail if isinstance(error, StatementError) else error)
        return AccessError(f"the server rejects the token under [database]: {detail}", option="token")

    def scrub(self, text: object) -> str:
        """Return a text without the secrets of the account."""
        shown = str(text)
        secrets = [self.password, self.token, self.refresh_token, *self.credentials.values(), *self._past]
        for secret in sorted({each.reveal() for each in secrets if each} - {""}, key=len, reverse=True):
            shown = shown.replace(secret, "***")
        return shown


async def _query(channel: Channel, text: str, within: float) -> None:
    """Run statements; raise the error of the first that failed."""
    read_statements(await channel.call("query", [text, {}], within=within))


def _read_version(answer: Any) -> Version:
    found = re.match(
        r"(?:surrealdb-)?(\d+)\.(\d+)\.(\d+)", str(answer.get("version") if isinstance(answer, dict) else answer)
    )
    version = (int(found[1]), int(found[2]), int(found[3])) if found else (0, 0, 0)
    if version < _OLDEST:
        raise StorageError(f"the server is {str(answer)[:40]}; SurrealDB 3.0 or later is needed. Update the server.")
    return version
