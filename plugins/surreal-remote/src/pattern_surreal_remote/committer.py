"""Runs each transaction exactly once, or not at all, on a server whose connection may be lost at any moment.

If an answer is lost, the marker of the transaction (`commit_markers`) tells whether it took effect; if not, it is sent again.
A transaction is repeated after a conflict. After too many conflicts it raises the gate: other writers see it, and wait until
the transaction is done. A gate that is never lowered expires by the server's clock.
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
from .commit_markers import LEAVE_MARK, SESSIONS, CommitMarkers, Row, pause
from .connection import RemoteConnection
from .protocol import UnreadableError, is_conflict
from .write_conditions import CHECKS, LOCKS

__all__ = ["INTERNAL_TABLES", "Committer", "ContendedError"]

GATE: Final = "pattern_gate"
INTERNAL_TABLES: Final = frozenset({SESSIONS, GATE, LOCKS, CHECKS, HEADS})
"""The internal tables of transactions."""

_PATIENCE: Final = 6
"""After how many conflicts a transaction raises the gate."""
_ATTEMPT: Final = 0.7
"""The share of the remaining time for an attempt; the rest is for reading its marker."""
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
    """Raised when a transaction met conflicts until its deadline. Nothing was written."""


class Committer:
    """Runs transactions on a server, each exactly once.

    Args:
        connection: The connections to the server.

    Attributes:
        markers: The commit markers.
    """

    def __init__(self, connection: RemoteConnection) -> None:
        self.markers = CommitMarkers(connection)
        self._connection = connection
        self._running: set[asyncio.Future[None]] = set()
        self._prepared = False

    async def run(self, make: Callable[[], Transaction]) -> list[Any]:
        """Run a transaction.

        Args:
            make: Makes the transaction. It is called for each attempt.

        Returns:
            The answers of the server; empty if the answer was lost and the transaction took effect.

        Raises:
            StatementError: The server rejected a statement. Nothing was written.
            ContendedError: There were conflicts until the deadline. Nothing was written.
            UnreachableError: The connection was lost; ``may_have_written`` tells whether the outcome is unknown.
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
        """Create the internal tables if they are missing, and remove old rows."""
        tables = () if self._connection.account.is_record else sorted(INTERNAL_TABLES)
        define = ";".join(f"DEFINE TABLE IF NOT EXISTS {each} SCHEMALESS" for each in tables)
        if tables:
            define += f";{DEFINE}"
        try:
            await self.markers.insist(define or "RETURN NONE", {}, deadline)
            await self.markers.tidy(deadline)
            await self.markers.insist(TIDY, {}, deadline)
        except AccessError as error:
            raise AccessError(_READ_ONLY, option="username") from error
        self._prepared = True

    async def _run(self, make: Callable[[], Transaction], deadline: float) -> list[Any]:
        row = self.markers.take()
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
                        # The row was removed, or this account cannot see its own rows.
                        fresh += 1
                        if fresh > 1:
                            raise AccessError(_READ_ONLY, option="username") from None
                        row = self.markers.new()
                        continue
                    elif not error.detail.endswith("pattern wait"):
                        raise
                    if not await pause(refused, deadline, long=not is_conflict(error)):
                        raise ContendedError(
                            f"other writers caused conflicts for {self._connection.limits.timeout:g} s. Nothing was written. Try again."
                        ) from error
                else:
                    raised = False
                    return answer
        except (UnreachableError, UnreadableError, asyncio.CancelledError):
            row = self.markers.new()  # the state of the other row is unknown
            raise
        finally:
            self.markers.give(row)
            if raised:
                await self._lower_gate(gate)

    async def _attempt(
        self, transaction: Transaction, row: Row, deadline: float, gate: dict[str, str], *, lower: bool
    ) -> list[Any]:
        """Run a transaction. If its outcome is unclear, read its marker, and repeat it if it did not take effect."""
        loop = asyncio.get_running_loop()
        alone = False
        while True:
            mark = secrets.token_hex(8)
            own = {**gate, **self.markers.bound(row), "pattern_mark": mark, "pattern_before": row.mark}
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
                    took_effect = await self.markers.settle(row, mark, deadline)
                except StorageError as unknown:
                    raise _unknown(unknown) from error
                if took_effect:
                    row.mark = mark
                    return []
                if isinstance(error, UnreadableError):
                    if error.alone:
                        raise StorageError(f"{str(error).rstrip('.')}. Nothing was written.") from error
                    alone = True
                if loop.time() >= sent_by:
                    message = f"no answer came within {self._connection.limits.timeout:g} s. Nothing was written."
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
        with contextlib.suppress(StorageError):  # it expires by itself
            deadline = asyncio.get_running_loop().time() + 1
            await self._connection.send(_LOWER_GATE, gate, deadline=deadline, repeat=True)

    async def finish(self) -> None:
        """Wait for running transactions, and remove the markers."""
        if self._running:
            await asyncio.wait(set(self._running))
        await self.markers.close()


def _without(count: int, transaction: Transaction, error: StatementError) -> StatementError:
    """Return an error with the position that it has without the two statements before the transaction."""
    answers = error.answers - (count - len(transaction.statements))
    if answers < len(transaction.statements):  # the whole text was rejected
        return error
    position = error.position - 2 if error.position >= 2 else -1  # noqa: PLR2004 - see the docstring
    return StatementError(error.detail, kind=error.kind, position=position, answers=answers)


def _unknown(error: StorageError) -> UnreachableError:
    return UnreachableError(
        f"the connection was lost during a write, and the server could not be asked in time whether it took effect: "
        f"{error}. Read the records before you repeat the write.",
        may_have_written=True,
    )
