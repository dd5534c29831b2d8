"""Transactions on a server that may be lost, or go away in the middle.

Each transaction leaves a mark that is its own in a row of ``pattern_sessions``, and demands the mark that was left there
before. So where an answer is lost, the row tells whether the transaction has taken effect; and once another mark has been
put there, a transaction that is still on its way fails when it arrives.

Transactions that the server refuses for the sake of others are repeated. One that has been refused too often raises the
gate: the others see it, and wait until it is through. A gate that is left open falls shut by the server's clock.
"""

# ruff: noqa: S608 - the names in the statements are constants, and every value is bound

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import secrets
from collections.abc import Callable
from typing import Any, Final

import attrs
from surrealdb import RecordID

from pattern_core.errors import AccessError, StorageError, UnreachableError
from pattern_surreal import StatementError
from pattern_surreal.commit import Transaction

from .connection import RemoteConnection
from .locks import CHECKS, LOCKS
from .protocol import UnreadableError, is_conflict

__all__ = ["GATE", "SESSIONS", "Committer", "ContendedError"]

SESSIONS: Final = "pattern_sessions"
GATE: Final = "pattern_gate"
_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.1
_PATIENCE: Final = 6
"""How often a transaction is refused for the sake of others before it raises the gate."""
_ATTEMPT: Final = 0.7
"""What part of the time that is left an attempt may take; the rest is for finding out what has become of it."""
_STALE: Final = "1d"
"""How long a row is kept whose owner has not written, and not said goodbye."""

_READ_ONLY: Final = "the account may read the database, but not write to it"

_CHECK_GATE: Final = (
    f"IF (SELECT VALUE owner FROM ONLY {GATE}:main WHERE until > time::now()) NOT IN [NONE, $pattern_owner] "
    "{ THROW 'pattern wait' }"
)
_LEAVE_MARK: Final = (
    "IF array::is_empty((UPSERT $pattern_row SET mark = $pattern_mark, owner = $pattern_session, at = time::now() "
    "WHERE mark = $pattern_before OR mark = NONE RETURN VALUE true)) { THROW 'pattern stale' }"
)
_SETTLE: Final = (
    "RETURN IF (SELECT VALUE mark FROM ONLY $pattern_row) = $pattern_mark { true } ELSE { "
    "UPSERT $pattern_row SET mark = $pattern_new, owner = $pattern_session, at = time::now() RETURN NONE; false }"
)
_RAISE_GATE: Final = (
    f"UPSERT {GATE}:main SET owner = $pattern_owner, until = time::now() + 5s "
    "WHERE owner = NONE OR owner = $pattern_owner OR until < time::now() RETURN VALUE true"
)
_LOWER_GATE: Final = f"DELETE {GATE}:main WHERE owner = $pattern_owner RETURN NONE"


class ContendedError(StorageError):
    """Raised when a transaction was refused for the sake of others until there was no time left. Nothing was written."""


@attrs.define
class _Row:
    """A row that one transaction at a time leaves its mark in.

    Attributes:
        number: Its number, which only this object uses.
        mark: What was left there last.
        troubled: Whether a transaction that was lost may still be on its way.
    """

    number: int
    mark: str | None = None
    troubled: bool = False


class Committer:
    """Runs transactions on a server, each of them once.

    Args:
        connection: The connections to the server.
    """

    def __init__(self, connection: RemoteConnection) -> None:
        self._connection = connection
        self._session = secrets.token_hex(8)
        self._free: list[_Row] = []
        self._count = 0
        self._running: set[asyncio.Future[None]] = set()
        self._prepared = False

    async def run(self, make: Callable[[], Transaction]) -> list[Any]:
        """Run a transaction.

        Args:
            make: Says what is to be done. It is asked again for each attempt.

        Returns:
            What the server answered; nothing where the answer was lost and the transaction has taken effect.

        Raises:
            StatementError: The server refused a statement, and nothing was written.
            ContendedError: Others were in the way all the time, and nothing was written.
            UnreachableError: The server was lost; says whether it may have been written.
            AccessError: The account may not write.
        """
        done = asyncio.get_running_loop().create_future()
        self._running.add(done)
        try:
            deadline = self._connection.deadline()
            if not self._prepared:
                await self._prepare(deadline)
            return await self._run(make, deadline)
        finally:
            self._running.discard(done)
            done.set_result(None)

    async def _run(self, make: Callable[[], Transaction], deadline: float) -> list[Any]:
        row = self._take()
        refused = fresh = 0
        gate = False
        try:
            while True:
                try:
                    answer = await self._attempt(make(), row, deadline, lower=gate)
                except StatementError as error:
                    if is_conflict(error):
                        refused += 1
                        if refused >= _PATIENCE:
                            gate = await self._raise_gate(row, deadline) or gate
                    elif error.detail.endswith("pattern stale"):
                        # The row was tidied away, or this account sees no rows of its own.
                        fresh += 1
                        if fresh > 1:
                            raise AccessError(_READ_ONLY, option="username") from None
                        row = _Row(self._number())
                        continue
                    elif not error.detail.endswith("pattern wait"):
                        raise
                    if not await _pause(refused, deadline, long=not is_conflict(error)):
                        raise ContendedError(
                            f"others were in the way for {self._connection.limits.timeout:g} s; nothing was written"
                        ) from error
                else:
                    gate = False
                    return answer
        except (UnreachableError, UnreadableError, asyncio.CancelledError):
            row.troubled = True
            row = _Row(self._number())  # nobody knows what is in the other one
            raise
        finally:
            self._free.append(row)
            if gate:
                await self._lower_gate(row)

    async def _attempt(self, transaction: Transaction, row: _Row, deadline: float, *, lower: bool) -> list[Any]:
        """Run a transaction, and find out what has become of it where that is not clear; again if nothing has."""
        loop = asyncio.get_running_loop()
        alone = False
        while True:
            mark = secrets.token_hex(8)
            own = {**self._names(row), "pattern_mark": mark, "pattern_before": row.mark}
            statements = [_CHECK_GATE, _LEAVE_MARK, *transaction.statements, *([_LOWER_GATE] if lower else [])]
            text = ";\n".join(["BEGIN", *statements, "COMMIT"]) + ";"
            sent_by = deadline - (deadline - loop.time()) * (1 - _ATTEMPT)
            try:
                answer = await self._connection.send(
                    text, {**transaction.variables, **own}, deadline=sent_by, repeat=False, alone=alone
                )
            except (UnreachableError, UnreadableError) as error:
                if isinstance(error, UnreachableError) and not error.may_have_written:
                    raise
                try:
                    took_effect = await self._settle(row, mark, deadline)
                except StorageError as unknown:
                    raise _unknown(unknown) from error
                if took_effect:
                    row.mark = mark
                    return []
                if isinstance(error, UnreadableError):
                    if error.alone:
                        raise StorageError(f"nothing was written: {error}") from error
                    alone = True
                if loop.time() >= sent_by:
                    message = f"no answer came within {self._connection.limits.timeout:g} s; nothing was written"
                    raise UnreachableError(message) from error
            except StatementError as error:
                raise _within(
                    transaction, error, before=2, after=len(statements) - 2 - len(transaction.statements)
                ) from None
            else:
                row.mark = mark
                return answer

    async def _settle(self, row: _Row, mark: str, deadline: float) -> bool:
        """Return whether the transaction with a mark has taken effect; if not, it never will."""
        new = secrets.token_hex(8)
        bound = {**self._names(row), "pattern_mark": mark, "pattern_new": new}
        attempt = 0
        while True:
            try:
                [took_effect] = await self._connection.send(_SETTLE, bound, deadline=deadline, repeat=True)
            except StatementError as error:
                attempt += 1
                if not is_conflict(error) or not await _pause(attempt, deadline):
                    raise
            else:
                if not took_effect:
                    row.mark, row.troubled = new, True
                return bool(took_effect)

    async def _raise_gate(self, row: _Row, deadline: float) -> bool:
        try:
            [raised] = await self._connection.send(_RAISE_GATE, self._names(row), deadline=deadline, repeat=True)
        except StatementError:
            return False
        return bool(raised)

    async def _lower_gate(self, row: _Row) -> None:
        with contextlib.suppress(StorageError):  # it falls shut by itself
            deadline = asyncio.get_running_loop().time() + 1
            await self._connection.send(_LOWER_GATE, self._names(row), deadline=deadline, repeat=True)

    async def foreign(self) -> int:
        """Return a number that is another one after a commit of others."""
        try:
            [marks] = await self._connection.query(
                f"SELECT VALUE mark FROM {SESSIONS} WHERE owner != $pattern_session", {"pattern_session": self._session}
            )
        except StatementError as error:
            if error.kind == "NotFound":  # nobody has ever written
                return 0
            raise
        digest = hashlib.sha256("".join(sorted(map(str, marks))).encode()).digest()
        return int.from_bytes(digest[:7], "big")

    async def _prepare(self, deadline: float) -> None:
        """Make the tables that transactions need, where they are not there, and tidy up what others have left."""
        tables = () if self._connection.account.is_record else (SESSIONS, GATE, LOCKS, CHECKS)
        define = [f"DEFINE TABLE IF NOT EXISTS {each} SCHEMALESS" for each in tables]
        text = ";".join([*define, f"DELETE {SESSIONS} WHERE at < time::now() - {_STALE}"])
        attempt = 0
        while True:
            try:
                await self._connection.send(text, {}, deadline=deadline, repeat=True)
            except StatementError as error:
                attempt += 1
                if not is_conflict(error) or not await _pause(attempt, deadline):
                    raise
            except AccessError as error:
                raise AccessError(_READ_ONLY, option="username") from error
            else:
                self._prepared = True
                return

    def _take(self) -> _Row:
        return self._free.pop() if self._free else _Row(self._number())

    def _number(self) -> int:
        self._count += 1
        return self._count

    def _names(self, row: _Row) -> dict[str, Any]:
        return {
            "pattern_row": RecordID(SESSIONS, [self._session, row.number]),
            "pattern_session": self._session,
            "pattern_owner": f"{self._session}-{row.number}",
        }

    async def finish(self) -> None:
        """Wait for the transactions that have begun, and say goodbye."""
        if self._running:
            await asyncio.wait(set(self._running))
        rows = [
            RecordID(SESSIONS, [self._session, each.number]) for each in self._free if each.mark and not each.troubled
        ]
        if rows:
            with contextlib.suppress(StorageError):
                deadline = asyncio.get_running_loop().time() + 1
                await self._connection.send("DELETE $rows RETURN NONE", {"rows": rows}, deadline=deadline, repeat=True)


def _within(transaction: Transaction, error: StatementError, *, before: int, after: int) -> StatementError:
    """Return an error as the transaction without our own statements would have raised it."""
    answers = error.answers - before - after
    position = error.position - before if error.position >= before else -1
    if answers < len(transaction.statements):  # the text as a whole was refused
        return error
    return StatementError(error.detail, kind=error.kind, position=position, answers=answers)


async def _pause(attempt: int, deadline: float, *, long: bool = False) -> bool:
    """Wait before the next attempt, longer each time; return whether there is time for one."""
    bound = _LONGEST_PAUSE if long else min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(attempt, 16))
    await asyncio.sleep(random.uniform(0, bound))  # noqa: S311 - no secret depends on it
    return asyncio.get_running_loop().time() < deadline


def _unknown(error: StorageError) -> UnreachableError:
    return UnreachableError(
        f"the server was lost while it carried out a write, and could not be asked in time whether that took effect: "
        f"{error}. Read what was to be written before you repeat it.",
        may_have_written=True,
    )
