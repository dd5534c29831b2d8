"""Transactions on a server that may be lost, or go away in the middle: each is carried out once, or not at all.

Where an answer is lost, the mark of the transaction (`sessions`) tells whether it has taken effect; if not, it is sent
again. Transactions that the server refuses for the sake of others are repeated. One that has been refused too often raises
the gate: the others see it, and wait until it is through. A gate that is left open falls shut by the server's clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from typing import Any, Final

from pattern_core.errors import AccessError, StorageError, UnreachableError
from pattern_surreal import StatementError
from pattern_surreal.commit import Transaction

from .commit_log import DEFINE, HEADS, TIDY
from .connection import RemoteConnection
from .locks import CHECKS, LOCKS
from .protocol import UnreadableError, is_conflict
from .sessions import LEAVE_MARK, SESSIONS, Row, Sessions, pause

__all__ = ["INTERNAL_TABLES", "Committer", "ContendedError"]

GATE: Final = "pattern_gate"
INTERNAL_TABLES: Final = frozenset({SESSIONS, GATE, LOCKS, CHECKS, HEADS})
"""The tables that transactions need, which are no business of others."""

_PATIENCE: Final = 6
"""How often a transaction is refused for the sake of others before it raises the gate."""
_ATTEMPT: Final = 0.7
"""What part of the time that is left an attempt may take; the rest is for finding out what has become of it."""
_READ_ONLY: Final = "the account may read the database, but not write to it"
_CHECK_GATE: Final = (
    f"IF (SELECT VALUE owner FROM ONLY {GATE}:main WHERE until > time::now()) NOT IN [NONE, $pattern_gate] "  # noqa: S608 - constants
    "{ THROW 'pattern wait' }"
)
_RAISE_GATE: Final = (
    f"UPSERT {GATE}:main SET owner = $pattern_gate, until = time::now() + 5s "
    "WHERE owner = NONE OR owner = $pattern_gate OR until < time::now() RETURN VALUE true"
)
_LOWER_GATE: Final = f"DELETE {GATE}:main WHERE owner = $pattern_gate RETURN NONE"


class ContendedError(StorageError):
    """Raised when a transaction was refused for the sake of others until there was no time left. Nothing was written."""


class Committer:
    """Runs transactions on a server, each of them once.

    Args:
        connection: The connections to the server.

    Attributes:
        sessions: What tells which of them have taken effect.
    """

    def __init__(self, connection: RemoteConnection) -> None:
        self.sessions = Sessions(connection)
        self._connection = connection
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

    async def _prepare(self, deadline: float) -> None:
        """Make the tables that transactions need, where they are not there, and tidy up what others have left."""
        tables = () if self._connection.account.is_record else sorted(INTERNAL_TABLES)
        define = ";".join(f"DEFINE TABLE IF NOT EXISTS {each} SCHEMALESS" for each in tables)
        if tables:
            define += f";{DEFINE}"
        try:
            await self.sessions.insist(define or "RETURN NONE", {}, deadline)
            await self.sessions.tidy(deadline)
            await self.sessions.insist(TIDY, {}, deadline)
        except AccessError as error:
            raise AccessError(_READ_ONLY, option="username") from error
        self._prepared = True

    async def _run(self, make: Callable[[], Transaction], deadline: float) -> list[Any]:
        row = self.sessions.take()
        gate = {"pattern_gate": secrets.token_hex(8)}
        raised = False
        refused = fresh = 0
        try:
            while True:
                try:
                    answer = await self._attempt(make(), row, deadline, gate, lower=raised)
                except StatementError as error:
                    if is_conflict(error):
                        refused += 1
                        if refused >= _PATIENCE:
                            raised = await self._raise_gate(gate, deadline) or raised
                    elif error.detail.endswith("pattern stale"):
                        # The row was tidied away, or this account sees no rows of its own.
                        fresh += 1
                        if fresh > 1:
                            raise AccessError(_READ_ONLY, option="username") from None
                        row = self.sessions.new()
                        continue
                    elif not error.detail.endswith("pattern wait"):
                        raise
                    if not await pause(refused, deadline, long=not is_conflict(error)):
                        raise ContendedError(
                            f"others were in the way for {self._connection.limits.timeout:g} s; nothing was written"
                        ) from error
                else:
                    raised = False
                    return answer
        except (UnreachableError, UnreadableError, asyncio.CancelledError):
            row = self.sessions.new()  # nobody knows what is in the other one, or will be
            raise
        finally:
            self.sessions.give(row)
            if raised:
                await self._lower_gate(gate)

    async def _attempt(
        self, transaction: Transaction, row: Row, deadline: float, gate: dict[str, str], *, lower: bool
    ) -> list[Any]:
        """Run a transaction, and find out what has become of it where that is not clear; again if nothing has."""
        loop = asyncio.get_running_loop()
        alone = False
        while True:
            mark = secrets.token_hex(8)
            own = {**gate, **self.sessions.bound(row), "pattern_mark": mark, "pattern_before": row.mark}
            statements = [_CHECK_GATE, LEAVE_MARK, *transaction.statements, *([_LOWER_GATE] if lower else [])]
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
                    took_effect = await self.sessions.settle(row, mark, deadline)
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
                raise _without(len(statements), transaction, error) from None
            else:
                row.mark = mark
                return answer

    async def _raise_gate(self, gate: dict[str, str], deadline: float) -> bool:
        try:
            [raised] = await self._connection.send(_RAISE_GATE, gate, deadline=deadline, repeat=True)
        except StatementError:
            return False
        return bool(raised)

    async def _lower_gate(self, gate: dict[str, str]) -> None:
        with contextlib.suppress(StorageError):  # it falls shut by itself
            deadline = asyncio.get_running_loop().time() + 1
            await self._connection.send(_LOWER_GATE, gate, deadline=deadline, repeat=True)

    async def finish(self) -> None:
        """Wait for the transactions that have begun, and say goodbye."""
        if self._running:
            await asyncio.wait(set(self._running))
        await self.sessions.close()


def _without(count: int, transaction: Transaction, error: StatementError) -> StatementError:
    """Return an error as the transaction without our own statements, two before it, would have raised it."""
    answers = error.answers - (count - len(transaction.statements))
    if answers < len(transaction.statements):  # the text as a whole was refused
        return error
    position = error.position - 2 if error.position >= 2 else -1  # noqa: PLR2004 - as the summary says
    return StatementError(error.detail, kind=error.kind, position=position, answers=answers)


def _unknown(error: StorageError) -> UnreachableError:
    return UnreachableError(
        f"the server was lost while it carried out a write, and could not be asked in time whether that took effect: "
        f"{error}. Read what was to be written before you repeat it.",
        may_have_written=True,
    )
