"""Commit markers: they tell whether a transaction took effect, if its answer was lost.

Each transaction writes a marker into a row of this storage object, and requires the marker that was there before. If its
answer is lost, the row tells whether it took effect. If it did not, another marker is written, so that the transaction
fails if it still arrives. All rows together tell other processes whether anyone has committed.
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

__all__ = ["LEAVE_MARK", "SESSIONS", "CommitMarkers", "Row", "pause"]

SESSIONS: Final = "pattern_sessions"
LEAVE_MARK: Final = (
    "IF array::is_empty((UPSERT $pattern_row SET mark = $pattern_mark, owner = $pattern_session, at = time::now() "
    "WHERE mark = $pattern_before OR mark = NONE RETURN VALUE true)) { THROW 'pattern stale' }"
)
"""The statement that writes the marker of a transaction; it fails if the row has another marker than expected."""

_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.1
_STALE: Final = "1d"
"""How long the row of an owner is kept that does not write and did not close."""
_GOODBYE_S: Final = 1.0
_SETTLE: Final = (
    "RETURN IF (SELECT VALUE mark FROM ONLY $pattern_row) = $pattern_mark { true } ELSE { "
    "UPSERT $pattern_row SET mark = $pattern_new, owner = $pattern_session, at = time::now() RETURN NONE; false }"
)
# Removing rows also writes a marker, since others may not have seen the last ones of the removed rows.
_TAKE_AWAY: Final = (
    "BEGIN; LET $gone = ({delete} RETURN BEFORE); "
    f"IF !array::is_empty($gone) {{{{ UPSERT {SESSIONS}:gone SET mark = $pattern_new, owner = '', at = time::now() }}}}; "
    "COMMIT;"
)
_TAKE_OWN_AWAY: Final = _TAKE_AWAY.format(delete="DELETE $pattern_rows")
_TAKE_STALE_AWAY: Final = _TAKE_AWAY.format(delete=f"DELETE {SESSIONS} WHERE at < time::now() - {_STALE}")


@attrs.define
class Row:
    """A row for the markers of one transaction at a time.

    Attributes:
        number: The number of the row; only this object uses it.
        mark: The last marker.
        troubled: Whether a lost transaction may still arrive.
    """

    number: int
    mark: str | None = None
    troubled: bool = False


class CommitMarkers:
    """The marker rows of this storage object.

    Args:
        connection: The connections to the server.
    """

    def __init__(self, connection: RemoteConnection) -> None:
        self._connection = connection
        self._session = secrets.token_hex(8)
        self._free: list[Row] = []
        self._count = 0

    def take(self) -> Row:
        """Return a free row."""
        return self._free.pop() if self._free else self.new()

    def new(self) -> Row:
        """Return a new row."""
        self._count += 1
        return Row(self._count)

    def give(self, row: Row) -> None:
        """Return a row to the free ones."""
        self._free.append(row)

    def bound(self, row: Row) -> dict[str, Any]:
        """Return the bound values for statements about a row."""
        return {
            "pattern_row": self._id(row),
            "pattern_session": self._session,
            "pattern_owner": f"{self._session}-{row.number}",
        }

    async def settle(self, row: Row, mark: str, deadline: float) -> bool:
        """Return whether the transaction with a marker took effect; if not, make sure that it never will.

        Args:
            row: Its row.
            mark: Its marker.
            deadline: The deadline, by the loop's clock.

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
        """Remove the rows of owners that ended long ago without closing."""
        await self.insist(_TAKE_STALE_AWAY, {"pattern_new": secrets.token_hex(8)}, deadline)

    async def close(self) -> None:
        """Remove the rows that no late transaction can need; the others stay for a while."""
        rows = [self._id(each) for each in self._free if each.mark and not each.troubled]
        if rows:
            with contextlib.suppress(StorageError):
                bound = {"pattern_rows": rows, "pattern_new": secrets.token_hex(8)}
                await self.insist(_TAKE_OWN_AWAY, bound, asyncio.get_running_loop().time() + _GOODBYE_S)

    async def insist(self, text: str, bound: dict[str, Any], deadline: float) -> list[Any]:
        """Run idempotent statements, and repeat them after conflicts."""
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
    """Wait before the next attempt, longer each time, and return whether there is time for it."""
    bound = _LONGEST_PAUSE if long else min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(attempt, 16))
    await asyncio.sleep(random.uniform(0, bound))  # noqa: S311 - no secret depends on it
    return asyncio.get_running_loop().time() < deadline
