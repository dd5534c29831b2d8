"""One process changes a database as a whole, and the others wait.

A lease is a record that its holder renews. Clocks of several machines are never compared: each renewal gives the record
another revision, and who waits watches that. Where it has stayed the same for as long as the holder said that it would
be silent at most, by the clock of the one who waits, the holder is dead, and the lease is taken over, by a write that
demands that very revision. So of several who wait, one gets it; and a holder that was only slow finds the lease gone at
its next renewal, and stops. What it was at by then is harmless: each step of a migration can be done twice, and what
it writes demands that the database is still in the version that it comes from (`pattern_core.catalog.metadata.fence`).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

import attrs

from pattern_core.abc import Insert, Patch, Row, Storage
from pattern_core.catalog.tables import LEASES
from pattern_core.errors import (
    AlreadyExistsError,
    ConflictError,
    MigrationError,
    NotFoundError,
    PatternError,
    StorageError,
)
from pattern_core.schema import CreateTable
from pattern_core.support.cancellation import to_the_end
from pattern_core.support.clock import utc_now

from .workers import may_live, this_process

__all__ = ["SCHEMA", "Terms", "under_lease"]

SCHEMA: Final = "schema"
"""The lease of those who change the schema, or fill the database."""

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0

T = TypeVar("T")


@attrs.frozen
class Terms:
    """How long a lease is held, and waited for.

    Attributes:
        seconds: How long a holder may be silent; it renews the lease four times as often.
        patience: How long others wait for it, in seconds.
    """

    seconds: float = 60.0
    patience: float = 600.0


async def under_lease(
    storage: Storage,
    work: Callable[[], Awaitable[T]],
    *,
    name: str = SCHEMA,
    done: Callable[[], Awaitable[T | None]] | None = None,
    terms: Terms | None = None,
) -> T:
    """Do work that one process at a time may do, and let go of the lease however it ends.

    Args:
        storage: The database.
        work: What to do. It is cancelled where the lease is lost.
        name: Which lease.
        done: Asked while somebody else holds the lease: what there is to return where nothing is left to do, else None.
        terms: How long the lease is held, and waited for.

    Returns:
        What the work returned, or what `done` did.

    Raises:
        MigrationError: Another process held the lease all the while, or has taken it over.
    """
    lease = _Lease(storage, name, terms or Terms())
    try:
        while not await lease.take():
            if done is not None and (result := await done()) is not None:
                return result
            await lease.wait()
        return await lease.keep(work)
    finally:
        await to_the_end(lease.release())


class _Lease:
    """One process's attempt to get a lease, and then its hold on it."""

    def __init__(self, storage: Storage, name: str, terms: Terms) -> None:
        self._storage = storage
        self._name = name
        self._terms = terms
        self._token = uuid.uuid4().hex
        self._revision = 0
        self._until = 0.0
        self._tried = False
        self._began = self._since = 0.0
        self._watched = (0, "")
        self._pause = _FIRST_PAUSE

    async def take(self) -> bool:
        """Try to get the lease, from nobody or from one who is dead; return whether it was got."""
        if not self._began:
            await self._storage.apply_schema(CreateTable(LEASES, 0))
            self._began = time.monotonic()
        row, now = await self._read(), time.monotonic()
        watched = (0, "") if row is None else (row["revision"], row["token"])
        if watched != self._watched:
            self._watched, self._since = watched, now
        if row is None or not row["token"] or now - self._since > row["seconds"] or not may_live(row["holder"]):
            return await self._write(row)
        if now - self._began > self._terms.patience:
            raise MigrationError(
                f"{row['holder']} has been changing the database since {row['held_since']:%Y-%m-%d %H:%M:%S} UTC, and was "
                f"not done after {self._terms.patience:g} seconds of waiting. Try again later; if it is stuck, end it: "
                f"others go on {row['seconds']:g} seconds later."
            )
        return False

    async def wait(self) -> None:
        """Let some time pass, more each time."""
        await asyncio.sleep(self._pause * random.uniform(0.5, 1))  # noqa: S311 - so that they do not march in step
        self._pause = min(2 * self._pause, _LONGEST_PAUSE, self._terms.seconds / 4)

    async def keep(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work while the lease is renewed; end it where the lease is lost."""
        working, renewing = asyncio.ensure_future(work()), asyncio.create_task(self._renew())
        try:
            await asyncio.wait([working, renewing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await to_the_end(_end([working, renewing]))
        if working.cancelled() and not renewing.cancelled():
            renewing.result()  # it ends by itself only where the lease is lost
            raise self._lost()
        try:
            return working.result()
        except PatternError as error:
            if await self._is_lost():
                raise self._lost() from error
            raise

    async def release(self) -> None:
        """Let go of the lease, if it is held; where that is not possible, it runs out."""
        if not self._tried:
            return
        with contextlib.suppress(PatternError):
            row = await self._read()
            if row is not None and row["token"] == self._token:
                changes = {"revision": row["revision"] + 1, "updated_at": utc_now(), "token": ""}
                await self._storage.commit([Patch(LEASES, self._name, changes, row["revision"])])

    async def _renew(self) -> None:
        """Renew the lease until it is lost."""
        while True:
            await asyncio.sleep(self._terms.seconds / 4)
            began = time.monotonic()
            try:
                if not await self._beat():
                    return
            except StorageError:  # it is out of reach
                if time.monotonic() > self._until:
                    return
            else:
                self._until = began + self._terms.seconds

    async def _beat(self) -> bool:
        """Renew the lease; return whether it is still held."""
        changes = {"revision": self._revision + 1, "updated_at": utc_now()}
        try:
            await to_the_end(self._storage.commit([Patch(LEASES, self._name, changes, self._revision)]))
        except (ConflictError, NotFoundError):
            return await self._is_mine()  # an earlier renewal may have arrived, and nobody heard of it
        self._revision += 1
        return True

    async def _write(self, row: Row | None) -> bool:
        """Take the lease from where it was read; return False where somebody was faster."""
        self._tried = True
        now, began = utc_now(), time.monotonic()
        revision = 0 if row is None else int(row["revision"])
        mine: dict[str, Any] = {
            "revision": revision + 1,
            "updated_at": now,
            "holder": this_process(),
            "token": self._token,
            "held_since": now,
            "seconds": float(self._terms.seconds),
        }
        write = Patch(LEASES, self._name, mine, revision)
        first = Insert(LEASES, {"id": self._name, "created_at": now, **mine})
        try:
            await to_the_end(self._storage.commit([first if row is None else write]))
        except (AlreadyExistsError, ConflictError):
            return False
        self._revision, self._until = revision + 1, began + self._terms.seconds
        return True

    async def _read(self) -> Row | None:
        (row,) = await self._storage.get(LEASES, [self._name])
        return row

    async def _is_mine(self) -> bool:
        row = await self._read()
        if row is None or row["token"] != self._token:
            return False
        self._revision = int(row["revision"])
        return True

    async def _is_lost(self) -> bool:
        """Return whether somebody else has the lease; not where that cannot be found out."""
        try:
            return not await self._is_mine()
        except PatternError:
            return False

    def _lost(self) -> MigrationError:
        return MigrationError(
            f"this process has lost its lease while it changed the database: it was silent for more than "
            f"{self._terms.seconds:g} seconds, so that another one could take its place. Open the database again."
        )


async def _end(tasks: Iterable[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
