"""Leases: one process changes the whole database while the others wait.

A lease is a record that its holder renews. Clocks of different machines are never compared. Each renewal gives the record
a new revision, which waiting processes watch. If it stays the same for the time that the holder promised to renew in,
measured by the clock of the waiting process, the holder is dead. Then the waiting process takes the lease over, by a
write that requires that revision, so only one of several gets it. A holder that was only slow loses the lease, notices at
its next renewal, and stops. Its last steps do no harm: each step of a migration can run twice, and its writes require
the schema version that they start from (`pattern_core.catalog.metadata.generation_guard`).
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
from pattern_core.support.cancellation import shielded
from pattern_core.support.clock import utc_now
from pattern_core.support.processes import may_be_alive, process_name

__all__ = ["SCHEMA", "LeaseTerms", "with_lease"]

SCHEMA: Final = "schema"
"""The name of the lease for migrations and restores."""

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0

T = TypeVar("T")


@attrs.frozen
class LeaseTerms:
    """The times of a lease.

    Attributes:
        seconds: How long a lease is valid without renewal; the holder renews it four times as often.
        patience: How long others wait for the lease, in seconds.
    """

    seconds: float = 60.0
    patience: float = 600.0


async def with_lease(
    storage: Storage,
    work: Callable[[], Awaitable[T]],
    *,
    name: str = SCHEMA,
    done: Callable[[], Awaitable[T | None]] | None = None,
    terms: LeaseTerms | None = None,
) -> T:
    """Run work that one process at a time may do, and release the lease however it ends.

    Args:
        storage: The storage.
        work: The work. It is cancelled if the lease is lost.
        name: The name of the lease.
        done: Called while another process holds the lease. Returns a result if nothing is left to do, else None.
        terms: The times of the lease.

    Returns:
        The result of the work, or of `done`.

    Raises:
        MigrationError: Another process held the lease for longer than the patience, or has taken it over.
    """
    lease = _Lease(storage, name, terms or LeaseTerms())
    try:
        while not await lease.take():
            if done is not None and (result := await done()) is not None:
                return result
            await lease.wait()
        return await lease.keep(work)
    finally:
        await shielded(lease.release())


class _Lease:
    """A lease as one process sees it, first waiting and then holding."""

    def __init__(self, storage: Storage, name: str, terms: LeaseTerms) -> None:
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
        """Try to acquire the lease if it is free or its holder is dead; return whether this process has it."""
        if not self._began:
            await self._storage.apply_schema(CreateTable(LEASES, 0))
            self._began = time.monotonic()
        row, now = await self._read(), time.monotonic()
        watched = (0, "") if row is None else (row["revision"], row["token"])
        if watched != self._watched:
            self._watched, self._since = watched, now
        if row is None or not row["token"] or now - self._since > row["seconds"] or not may_be_alive(row["holder"]):
            return await self._write(row)
        if now - self._began > self._terms.patience:
            raise MigrationError(
                f"{row['holder']} has been changing the database since {row['held_since']:%Y-%m-%d %H:%M:%S} UTC, and did "
                f"not finish within {self._terms.patience:g} seconds. Try again later. If it is stuck, end it: another "
                f"process can continue {row['seconds']:g} seconds later."
            )
        return False

    async def wait(self) -> None:
        """Wait, longer each time."""
        await asyncio.sleep(self._pause * random.uniform(0.5, 1))  # noqa: S311 - no secret; it spreads the attempts
        self._pause = min(2 * self._pause, _LONGEST_PAUSE, self._terms.seconds / 4)

    async def keep(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run the work while renewing the lease; cancel it if the lease is lost."""
        working, renewing = asyncio.ensure_future(work()), asyncio.create_task(self._renew())
        try:
            await asyncio.wait([working, renewing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await shielded(_end([working, renewing]))
        if working.cancelled() and not renewing.cancelled():
            renewing.result()  # ends by itself only if the lease is lost
            raise self._lost()
        try:
            return working.result()
        except PatternError as error:
            if await self._is_lost():
                raise self._lost() from error
            raise

    async def release(self) -> None:
        """Release the lease, if it is held. If that fails, it expires."""
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
            except StorageError:  # perhaps it is out of reach for a while
                if time.monotonic() > self._until:
                    return
            else:
                self._until = began + self._terms.seconds

    async def _beat(self) -> bool:
        """Renew the lease, and return whether it is still held."""
        changes = {"revision": self._revision + 1, "updated_at": utc_now()}
        try:
            await shielded(self._storage.commit([Patch(LEASES, self._name, changes, self._revision)]))
        except (ConflictError, NotFoundError):
            return await self._is_mine()  # an earlier renewal may have succeeded without an answer
        self._revision += 1
        return True

    async def _write(self, row: Row | None) -> bool:
        """Write the lease as this process's own; return False if another process was faster."""
        self._tried = True
        now, began = utc_now(), time.monotonic()
        revision = 0 if row is None else int(row["revision"])
        mine: dict[str, Any] = {
            "revision": revision + 1,
            "updated_at": now,
            "holder": process_name(),
            "token": self._token,
            "held_since": now,
            "seconds": float(self._terms.seconds),
        }
        write = Patch(LEASES, self._name, mine, revision)
        first = Insert(LEASES, {"id": self._name, "created_at": now, **mine})
        try:
            await shielded(self._storage.commit([first if row is None else write]))
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
        """Return whether another process has the lease; False if the storage does not answer."""
        try:
            return not await self._is_mine()
        except PatternError:
            return False

    def _lost(self) -> MigrationError:
        return MigrationError(
            f"this process lost its lease while it changed the database: it did not renew it for {self._terms.seconds:g} "
            f"seconds, so another process could take over. Open the database again."
        )


async def _end(tasks: Iterable[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
