"""What tells, after the event, which transactions have taken effect: a mark of each, in rows of this program's own.

A transaction leaves its mark in one of the rows, and demands the mark that was left there before. So where its answer is
lost, the row tells whether it has taken effect; and once another mark has been put there, a transaction that is still on
its way fails when it arrives. All rows together tell others whether anybody has written since they last looked.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from typing import Any, Final

import attrs
from surrealdb import RecordID

from pattern_core.errors import StorageError
from pattern_surreal import StatementError

from .connection import RemoteConnection
from .protocol import is_conflict

__all__ = ["LEAVE_MARK", "SESSIONS", "Row", "Sessions", "pause"]

SESSIONS: Final = "pattern_sessions"
LEAVE_MARK: Final = (
    "IF array::is_empty((UPSERT $pattern_row SET mark = $pattern_mark, owner = $pattern_session, at = time::now() "
    "WHERE mark = $pattern_before OR mark = NONE RETURN VALUE true)) { THROW 'pattern stale' }"
)
"""The statement by which a transaction leaves its mark; it fails where another one has come in between."""

_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.1
_STALE: Final = "1d"
"""How long a row is kept whose owner has not written, and not said goodbye."""
_GOODBYE_S: Final = 1.0
_SETTLE: Final = (
    "RETURN IF (SELECT VALUE mark FROM ONLY $pattern_row) = $pattern_mark { true } ELSE { "
    "UPSERT $pattern_row SET mark = $pattern_new, owner = $pattern_session, at = time::now() RETURN NONE; false }"
)
# Whoever takes rows away leaves a mark, too: others may not have seen what had been written in between.
_TAKE_AWAY: Final = (
    "BEGIN; LET $gone = ({delete} RETURN BEFORE); "
    f"IF !array::is_empty($gone) {{{{ UPSERT {SESSIONS}:gone SET mark = $pattern_new, owner = '', at = time::now() }}}}; "
    "COMMIT;"
)
_TAKE_OWN_AWAY: Final = _TAKE_AWAY.format(delete="DELETE $pattern_rows")
_TAKE_STALE_AWAY: Final = _TAKE_AWAY.format(delete=f"DELETE {SESSIONS} WHERE at < time::now() - {_STALE}")


@attrs.define
class Row:
    """A row that one transaction at a time leaves its mark in.

    Attributes:
        number: Its number, which only this program uses.
        mark: What was left there last.
        troubled: Whether a transaction that was lost may still be on its way.
    """

    number: int
    mark: str | None = None
    troubled: bool = False


class Sessions:
    """The rows of this program.

    Args:
        connection: The connections to the server.
    """

    def __init__(self, connection: RemoteConnection) -> None:
        self._connection = connection
        self._session = secrets.token_hex(8)
        self._free: list[Row] = []
        self._count = 0

    def take(self) -> Row:
        """Return a row that nobody uses."""
        return self._free.pop() if self._free else self.new()

    def new(self) -> Row:
        """Return a row that nobody has ever used."""
        self._count += 1
        return Row(self._count)

    def give(self, row: Row) -> None:
        """Let others use a row again."""
        self._free.append(row)

    def bound(self, row: Row) -> dict[str, Any]:
        """Return the values that statements about a row need."""
        return {
            "pattern_row": self._id(row),
            "pattern_session": self._session,
            "pattern_owner": f"{self._session}-{row.number}",
        }

    async def settle(self, row: Row, mark: str, deadline: float) -> bool:
        """Return whether the transaction with a mark has taken effect; if not, it never will.

        Args:
            row: The row that it leaves its mark in.
            mark: The mark.
            deadline: When to give up.

        Raises:
            StorageError: The server could not be asked.
        """
        new = secrets.token_hex(8)
        bound = {**self.bound(row), "pattern_mark": mark, "pattern_new": new}
        [took_effect] = await self.insist(_SETTLE, bound, deadline)
        if not took_effect:
            row.mark, row.troubled = new, True
        return bool(took_effect)

    async def tidy(self, deadline: float) -> None:
        """Take away the rows of programs that have gone long ago without a word."""
        await self.insist(_TAKE_STALE_AWAY, {"pattern_new": secrets.token_hex(8)}, deadline)

    async def close(self) -> None:
        """Take away the rows that nothing on the way can need; the others stay for a while."""
        rows = [self._id(each) for each in self._free if each.mark and not each.troubled]
        if rows:
            with contextlib.suppress(StorageError):
                bound = {"pattern_rows": rows, "pattern_new": secrets.token_hex(8)}
                await self.insist(_TAKE_OWN_AWAY, bound, asyncio.get_running_loop().time() + _GOODBYE_S)

    async def insist(self, text: str, bound: dict[str, Any], deadline: float) -> list[Any]:
        """Run statements that may be run several times, again as long as they are refused for the sake of others."""
        attempt = 0
        while True:
            try:
                return await self._connection.send(text, bound, deadline=deadline, repeat=True)
            except StatementError as error:
                attempt += 1
                if not is_conflict(error) or not await pause(attempt, deadline):
                    raise

    def _id(self, row: Row) -> RecordID:
        return RecordID(SESSIONS, [self._session, row.number])


async def pause(attempt: int, deadline: float, *, long: bool = False) -> bool:
    """Wait before the next attempt, longer each time; return whether there is time for one."""
    bound = _LONGEST_PAUSE if long else min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(attempt, 16))
    await asyncio.sleep(random.uniform(0, bound))  # noqa: S311 - no secret depends on it
    return asyncio.get_running_loop().time() < deadline
