"""The commit log on a server, where each writer numbers its own commits, so that writers do not wait for each other.

A transaction that began earlier may become visible later, so neither times nor one number for all commits tell a reader
what it has not seen yet. But the commits of one writer follow each other, and so do their numbers. A position is therefore
a time by the server's clock, and the last number of each writer that was active shortly before it (`_OVERLAP`, longer than
any transaction may take). After the position come: of these writers the commits with greater numbers, of all others those
that are younger than the overlap.

So that a reader need not look through the log, each commit also writes its writer's number and the time into a row of
that writer's own in ``pattern_log``.
"""

# ruff: noqa: S608 - the names in the statements are constants, and every value is bound

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import attrs
from surrealdb import RecordID
from surrealdb.data.types.range import BoundIncluded, Range

from pattern_core.abc import Append, Changes, Commit, Position
from pattern_core.schema import COMMIT_LOG
from pattern_surreal.commit import Transaction
from pattern_surreal.values import decode_row, encode_row

__all__ = ["DEFINE", "HEADS", "TIDY", "CommitLog", "row_id"]

HEADS: Final = "pattern_log"
"""The table with the last number of each writer."""

_OVERLAP: Final = timedelta(seconds=120)
"""Longer than from the time that a transaction writes to the moment when others see it."""
_DIGITS: Final = 12
_KEPT: Final = "31d"
"""How long the row of a writer is kept that does not write any more; longer than core keeps its commits."""

DEFINE: Final = f"DEFINE INDEX IF NOT EXISTS {HEADS}_at ON {HEADS} FIELDS at"
"""The statement that prepares the table."""
TIDY: Final = f"DELETE {HEADS} WHERE at < time::now() - {_KEPT}"
"""The statement that removes the rows of writers that have ended long ago."""

_LOOK: Final = (
    f"RETURN time::now(); SELECT id, n, at FROM {HEADS} WHERE at > $since; "
    "RETURN $last = NONE OR (SELECT VALUE true FROM ONLY $last) = true"
)
_NEWEST: Final = (
    f"RETURN time::now(); SELECT id, n, at FROM {HEADS} WHERE at > time::now() - {int(_OVERLAP.total_seconds())}s; "
    f"SELECT id, n, at FROM {HEADS} ORDER BY at DESC LIMIT 1"
)
_ROWS: Final = "SELECT * FROM {at} WHERE committed_at > {since} ORDER BY id LIMIT {limit}"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_START: Final = _EPOCH + timedelta(microseconds=1)
"""The time of the position before the first commit."""

Query = Callable[[str, Mapping[str, Any]], Awaitable[list[Any]]]


@attrs.frozen
class _Mark:
    """A position, taken apart.

    Attributes:
        at: Its time, by the server's clock.
        last: The id of the last commit before it; empty if there was none.
        numbers: By writer, the number of its last commit before the position.
    """

    at: datetime
    last: str = ""
    numbers: Mapping[str, int] = attrs.field(factory=dict)

    def position(self) -> Position:
        marks = (f"{writer}:{number}" for writer, number in sorted(self.numbers.items()))
        return Position(_micros(self.at), "~".join([self.last or "-", *marks]))

    @classmethod
    def of(cls, position: Position) -> _Mark | None:
        """Return what `position` made a position of; None for any other."""
        if not position.sequence:
            return cls(_START)
        last, *marks = position.token.split("~")
        pairs = [mark.rpartition(":") for mark in marks]
        if not all(writer and number.isdecimal() for writer, _, number in pairs):
            return None
        numbers = {writer: int(number) for writer, _, number in pairs}
        try:
            return cls(_EPOCH + timedelta(microseconds=position.sequence), last.removeprefix("-"), numbers)
        except OverflowError:
            return None


class CommitLog:
    """The log as one storage object writes and reads it.

    Args:
        query: Runs statements that only read.
        writer: The `Storage.writer` of the storage.

    Attributes:
        lock: Held by the one commit that is logged at a time.
    """

    def __init__(self, query: Query, writer: str) -> None:
        self.lock = asyncio.Lock()
        self._query = query
        self._base = writer
        self._writers = 0
        self._number = 0

    @property
    def _writer(self) -> str:
        return f"{self._base}-{self._writers}"

    def statements(self, write: Append, place: int) -> Transaction:
        """Return the statements that log the commit under way.

        Args:
            write: The row to append.
            place: Its place in the batch.
        """
        number = self._number + 1
        content = encode_row(write.table, write.row | {"id": row_id(self._writer, number), "sequence": number})
        at = content.pop("id")
        del content["committed_at"]  # the server's clock counts
        settings = ", ".join(f"{name} = $log_{name}" for name in content)
        return Transaction(
            [
                "LET $log_now = time::now()",
                f"CREATE $log_at SET {settings}, committed_at = $log_now RETURN VALUE committed_at",
                "UPSERT $log_head SET n = $log_sequence, at = $log_now RETURN NONE",
            ],
            {
                "log_at": at,
                "log_head": RecordID(HEADS, self._writer),
                **{f"log_{name}": value for name, value in content.items()},
            },
            [place] * 3,
        )

    def advance(self) -> None:
        """Count the commit that `statements` were made for: it took effect."""
        self._number += 1

    def restart(self) -> None:
        """Go on as another writer, since it is not known whether a commit took effect, or will."""
        self._writers += 1
        self._number = 0

    def position(self, answers: Sequence[Any]) -> Position | None:
        """Return the position after the last commit by the server's answers to it; None if they do not tell."""
        for answer in reversed(answers):
            if isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], datetime):
                return self._position(answer[0])
        return None

    def _position(self, at: datetime) -> Position:
        id = row_id(self._writer, self._number)
        return _Mark(_time(at), id, {self._writer: self._number}).position()

    async def last_position(self) -> Position:
        """Return the position after the last commit of this object."""
        id = row_id(self._writer, self._number)
        [at] = await self._query("SELECT VALUE committed_at FROM ONLY $at", {"at": RecordID(COMMIT_LOG.name, id)})
        return self._position(at)

    async def newest(self) -> Position:
        """Return the newest position."""
        now, heads, newest = await self._query(_NEWEST, {})
        last = next((row_id(str(head["id"].id), head["n"]) for head in newest), "")
        return _Mark(_time(now), last, {str(head["id"].id): head["n"] for head in heads}).position()

    async def changes_since(self, position: Position, limit: int) -> Changes | None:
        """Return the commits after a position, as `Storage.changes_since`."""
        mark = _Mark.of(position)
        if mark is None:
            return None
        since = mark.at - _OVERLAP if mark.at > _START else _EPOCH
        last = RecordID(COMMIT_LOG.name, mark.last) if mark.last else None
        now, heads, known = await self._query(_LOOK, {"since": since, "last": last})
        if not known:
            return None
        numbers = {str(head["id"].id): int(head["n"]) for head in heads}
        active = {str(head["id"].id) for head in heads if _time(head["at"]) > _time(now) - _OVERLAP}
        behind = {
            writer: mark.numbers.get(writer, 0) for writer in numbers if numbers[writer] != mark.numbers.get(writer, 0)
        }
        if any(before > numbers[writer] for writer, before in behind.items()):
            return None  # the log of an older copy of the database
        if not behind:
            kept = {writer: number for writer, number in numbers.items() if writer in active}
            return Changes((), _Mark(_time(now), mark.last, kept).position())
        rows = await self._rows(behind, numbers, mark, since, limit)
        if rows is None:
            return None
        commits = []
        for id, row in rows[:limit]:
            writer = id.rpartition(".")[0]
            mark = attrs.evolve(mark, last=id, numbers={**mark.numbers, writer: row["sequence"]})
            commit = Commit.from_row(row, mark.position())
            if commit is None:
                return None
            commits.append(commit)
        if len(rows) <= limit:
            mark = attrs.evolve(mark, at=_time(now), numbers={each: numbers[each] for each in active})
        return Changes(tuple(commits), mark.position(), more=len(rows) > limit)

    async def _rows(
        self, behind: Mapping[str, int], numbers: Mapping[str, int], mark: _Mark, since: datetime, limit: int
    ) -> list[tuple[str, dict[str, Any]]] | None:
        """Read the rows after a position, in the order of the server's clock; None if some are missing."""
        bound: dict[str, Any] = {"since": since, "epoch": _EPOCH}
        statements = []
        for place, (writer, before) in enumerate(behind.items()):
            first, last = row_id(writer, before + 1), row_id(writer, numbers[writer])
            bound[f"range{place}"] = RecordID(COMMIT_LOG.name, Range(BoundIncluded(first), BoundIncluded(last)))
            oldest = "$epoch" if writer in mark.numbers else "$since"
            statements.append(_ROWS.format(at=f"$range{place}", since=oldest, limit=limit + 1))
        found = []
        for (writer, before), rows in zip(behind.items(), await self._query(";".join(statements), bound), strict=True):
            decoded = [decode_row(COMMIT_LOG.columns, row) for row in rows]
            is_new = writer not in mark.numbers and mark.at > _START
            begin = int(decoded[0]["sequence"]) if is_new and decoded else before + 1
            wanted = range(begin, numbers[writer] + 1)
            if [row["sequence"] for row in decoded] != list(wanted[: limit + 1]) and not (is_new and not decoded):
                return None
            found += [(row["id"], row) for row in decoded]
        return sorted(found, key=lambda each: (each[1]["committed_at"], each[0]))[: limit + 1]


def row_id(writer: str, number: int) -> str:
    """Return the id of the row that logs a commit."""
    return f"{writer}.{number:0{_DIGITS}}"


def _time(value: datetime) -> datetime:
    """Return a time without the nanoseconds that the SDK's times carry."""
    day = (value.year, value.month, value.day)
    return datetime(*day, value.hour, value.minute, value.second, value.microsecond, tzinfo=UTC)


def _micros(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)
