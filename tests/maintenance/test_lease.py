"""The lease of those who change a database as a whole: one works, the others wait, and the dead are not waited for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pattern_core.abc import Insert, Patch, Row, Write
from pattern_core.catalog.metadata import read_metadata
from pattern_core.catalog.tables import LEASES, find_table
from pattern_core.errors import ConflictError, MigrationError, NotFoundError, StorageError
from pattern_core.maintenance.backup import back_up, restore
from pattern_core.maintenance.migrations.lease import SCHEMA, LeaseTerms, with_lease
from pattern_core.maintenance.migrations.migrate import LATEST, MigrationPlan, migrate_down, migrate_up
from pattern_core.schema import TABLES, CreateTable, Table
from pattern_core.support.clock import utc_now
from pattern_core.support.processes import HOST, may_be_alive, process_name
from pattern_core.testing import MemoryData, MemoryStorage, sample_row
from tests.helpers.dying import Death, Dying
from tests.maintenance.test_migrations import ALL, SIGNATURE, check_vectors, second_version

pytestmark = pytest.mark.anyio

ELSEWHERE = "process 1 on another host"
DEAD = f"process {2**22 + 1} on {HOST}"
SHORT = LeaseTerms(seconds=0.2)


class Slow(MemoryStorage):
    """A storage in memory that lets others go on in each of its calls, and may be out of reach.

    Attributes:
        failures: For each of the next commits, whether it takes effect before it fails; others succeed.
    """

    def __init__(self, data: MemoryData) -> None:
        super().__init__(data)
        self.failures: list[bool] = []

    async def get(self, table: Table, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        await asyncio.sleep(0)
        return await super().get(table, ids, vectors=vectors)

    async def commit(self, batch: Sequence[Write]) -> None:
        await asyncio.sleep(0)
        if self.failures:
            if self.failures.pop(0):
                await super().commit(batch)
            raise StorageError("it cannot be reached, and whether the batch took effect is not known")
        await super().commit(batch)
        await asyncio.sleep(0)


async def held_by(storage: MemoryStorage, holder: str, seconds: float) -> None:
    """Let somebody hold the lease, and never renew it."""
    await storage.apply_schema(CreateTable(LEASES, 0))
    row = sample_row(LEASES, SCHEMA, holder=holder, token="theirs", seconds=seconds, held_since=utc_now(), revision=7)
    await storage.commit([Insert(LEASES, row)])


async def taken_over(storage: MemoryStorage) -> None:
    """Let somebody else take the lease, as if its holder were dead."""
    (row,) = await storage.get(LEASES, [SCHEMA])
    assert row is not None
    theirs = {"holder": ELSEWHERE, "token": "theirs", "revision": row["revision"] + 1}
    await storage.commit([Patch(LEASES, SCHEMA, theirs, row["revision"])])


async def token(storage: MemoryStorage) -> str:
    """Return what tells who holds the lease; empty where nobody does."""
    (row,) = await storage.get(LEASES, [SCHEMA])
    assert row is not None
    return str(row["token"])


async def nothing() -> str:
    """Work that is done at once."""
    return "done"


async def forever() -> str:
    """Work that is never done."""
    await asyncio.Event().wait()
    raise AssertionError


class TestTheLease:
    async def test_one_at_a_time(self) -> None:
        """Of many who come at once, one works at a time, and each gets its turn."""
        data: MemoryData = {}
        at_work, most, turns = 0, 0, []

        async def come(name: int) -> int:
            async def work() -> int:
                nonlocal at_work, most
                at_work += 1
                most = max(most, at_work)
                for _ in range(20):
                    await asyncio.sleep(0)
                at_work -= 1
                turns.append(name)
                return name

            return await with_lease(Slow(data), work, terms=SHORT)

        assert await asyncio.gather(*map(come, range(6))) == [*range(6)]
        assert (most, sorted(turns)) == (1, [*range(6)])

    async def test_nothing_left_to_do(self) -> None:
        """Who waits for work that others have done meanwhile goes on without the lease."""
        storage = MemoryStorage()
        await held_by(storage, ELSEWHERE, 1000.0)
        looks: list[str | None] = [None, None, "done by them"]

        async def done() -> str | None:
            return looks.pop(0)

        assert await with_lease(storage, forever, done=done) == "done by them"
        assert await token(storage) == "theirs"

    async def test_a_dead_holder(self) -> None:
        """The lease of one who is silent for too long is taken over, and not before."""
        storage = MemoryStorage()
        await held_by(storage, ELSEWHERE, 0.3)
        began = time.monotonic()
        assert await with_lease(storage, nothing) == "done"
        assert time.monotonic() - began >= 0.3

    async def test_a_dead_process_on_this_machine(self) -> None:
        """Who is known to have died is not waited for."""
        storage = MemoryStorage()
        await held_by(storage, DEAD, 1000.0)
        assert await with_lease(storage, nothing) == "done"

    async def test_one_who_lives_is_waited_for(self) -> None:
        """A lease that is renewed is not taken, however long it is held; who has waited long enough learns who holds it."""
        data: MemoryData = {}
        release = asyncio.Event()

        async def work() -> bool:
            return await release.wait()

        first = asyncio.create_task(with_lease(Slow(data), work, terms=SHORT))
        with pytest.raises(MigrationError, match=rf"{process_name()} has been changing the database since 2\d\d\d-"):
            await asyncio.gather(
                with_lease(Slow(data), nothing, terms=LeaseTerms(seconds=0.2, patience=1)), asyncio.sleep(0)
            )
        release.set()
        assert await first
        assert await token(MemoryStorage(data)) == ""

    async def test_one_dead_holder_has_one_heir(self) -> None:
        """Of several who wait for a dead one, one at a time goes on."""
        data: MemoryData = {}
        await held_by(MemoryStorage(data), ELSEWHERE, 0.1)
        busy = False

        async def work() -> None:
            nonlocal busy
            assert not busy
            busy = True
            for _ in range(20):
                await asyncio.sleep(0)
            busy = False

        await asyncio.gather(*(with_lease(Slow(data), work) for _ in range(5)))

    async def test_one_who_has_lost_it_stops(self) -> None:
        """Work is cancelled as soon as its holder learns that the lease is another's, and that one's is left alone."""
        data: MemoryData = {}
        begun, stopped = asyncio.Event(), False

        async def work() -> None:
            nonlocal stopped
            begun.set()
            try:
                await forever()
            finally:
                stopped = True

        holder = asyncio.create_task(with_lease(Slow(data), work, terms=SHORT))
        await begun.wait()
        await taken_over(MemoryStorage(data))
        with pytest.raises(MigrationError, match="lost its lease"):
            await holder
        assert stopped
        assert await token(MemoryStorage(data)) == "theirs"

    @pytest.mark.parametrize("lost", [True, False])
    async def test_work_that_fails(self, *, lost: bool) -> None:
        """An error of the work is told as it is, unless it comes from the lease being another's."""
        data: MemoryData = {}

        async def work() -> None:
            if lost:
                await taken_over(MemoryStorage(data))
            raise ConflictError("system_metadata", "main", 3)

        with pytest.raises(MigrationError if lost else ConflictError) as caught:
            await with_lease(Slow(data), work)
        assert isinstance(caught.value.__cause__ if lost else caught.value, ConflictError)
        assert await token(MemoryStorage(data)) == ("theirs" if lost else "")

    @pytest.mark.parametrize("takes_effect", [True, False])
    async def test_a_renewal_that_fails(self, *, takes_effect: bool) -> None:
        """The storage may be out of reach for a moment, and what it has written unheard is no one else's."""
        storage = Slow({})

        async def revision() -> int:
            (row,) = await storage.get(LEASES, [SCHEMA])
            assert row is not None
            return int(row["revision"])

        async def work() -> bool:
            storage.failures, first = [takes_effect], await revision()
            while await revision() < first + 3:
                pass  # each look lets others go on
            return not storage.failures

        assert await with_lease(storage, work, terms=SHORT)

    async def test_out_of_reach(self) -> None:
        """Who cannot renew the lease for as long as others would wait stops."""
        storage = Slow({})

        async def work() -> None:
            storage.failures = [False] * 6
            await forever()

        with pytest.raises(MigrationError, match=r"did not renew it for 0\.2 seconds"):
            await with_lease(storage, work, terms=LeaseTerms(seconds=0.2))

    async def test_the_record_is_gone(self) -> None:
        """A lease whose table was removed by hand is lost."""
        data: MemoryData = {}

        async def work() -> None:
            data[LEASES.name].clear()
            await forever()

        with pytest.raises(MigrationError, match="lost its lease"):
            await with_lease(Slow(data), work, terms=SHORT)

    async def test_the_work_is_never_cut_off_silently(self) -> None:
        """An error that is none of ours, and a cancellation within the work, come through; the lease is let go."""
        for error in (ZeroDivisionError, asyncio.CancelledError, NotFoundError):
            data: MemoryData = {}

            async def work(error: type[BaseException] = error) -> None:
                raise error("users", "u") if error is NotFoundError else error

            with pytest.raises(error):
                await with_lease(Slow(data), work)
            assert await token(MemoryStorage(data)) == ""

    @pytest.mark.parametrize("steps", range(12))
    async def test_cancelled(self, steps: int) -> None:
        """Whoever is cancelled, at whatever point, holds nothing afterwards: the next one need not wait."""
        data: MemoryData = {}
        task = asyncio.create_task(with_lease(Slow(data), forever, terms=LeaseTerms(seconds=1000, patience=0)))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert await with_lease(Slow(data), nothing, terms=LeaseTerms(patience=0)) == "done"

    @pytest.mark.parametrize("takes_effect", [True, False])
    async def test_cancelled_while_a_renewal_fails(self, *, takes_effect: bool) -> None:
        """A cancellation is not lost in a renewal that fails, at whatever point of it it comes."""
        for steps in range(6):
            storage, begun = Slow({}), asyncio.Event()

            async def work(storage: Slow = storage, begun: asyncio.Event = begun) -> None:
                storage.failures = [takes_effect]
                while storage.failures:
                    await storage.get(LEASES, [SCHEMA])
                begun.set()
                await forever()

            task = asyncio.create_task(with_lease(storage, work, terms=SHORT))
            await begun.wait()
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            async with asyncio.timeout(10):
                await asyncio.wait([task])
            assert task.cancelled()
            assert await token(storage) == ""

    async def test_out_of_reach_while_it_is_taken(self) -> None:
        """Where nobody knows whether the lease was taken, it is given back."""
        storage = Slow({})
        storage.failures = [True]
        with pytest.raises(StorageError, match="cannot be reached"):
            await with_lease(storage, nothing)
        assert await token(storage) == ""

    def test_who_may_live(self) -> None:
        """A process is dead only where that is certain: it was on this machine, and is gone."""
        assert may_be_alive(process_name())
        assert may_be_alive(ELSEWHERE)
        assert may_be_alive(None)
        assert may_be_alive(f"process 1 on {HOST}")
        assert not may_be_alive(DEAD)


class TestMigrations:
    async def test_one_migrates(self, tmp_path: Path) -> None:
        """Of several who open an old database at once, one migrates it, with one backup, and all find it migrated."""
        data: MemoryData = {}
        embedded = await second_version(MemoryStorage(data))
        all_of_them = [migrate_up(Slow(data), SIGNATURE, backups=tmp_path, shared=True) for _ in range(5)]
        done = await asyncio.gather(*all_of_them)
        assert [len(each.pending) for each in done] == [2, 0, 0, 0, 0]
        assert len(list(tmp_path.iterdir())) == 1
        assert (await read_metadata(MemoryStorage(data))).revision == 3
        await check_vectors(MemoryStorage(data), embedded)

    async def test_one_sets_up(self) -> None:
        """Of several who open a new database at once, one sets it up."""
        data: MemoryData = {}
        await asyncio.gather(*(migrate_up(Slow(data), SIGNATURE, shared=True) for _ in range(5)))
        assert await MemoryStorage(data).tables() == {*ALL, LEASES.name}
        assert (await read_metadata(MemoryStorage(data))).revision == 1

    async def test_no_lease_where_none_is_needed(self) -> None:
        """A database that is up to date, or that one process opens, gets no record of leases."""
        storage = MemoryStorage()
        await migrate_up(storage, SIGNATURE)
        assert await migrate_up(storage, SIGNATURE, shared=True) == MigrationPlan(LATEST, LATEST, ())
        assert LEASES.name not in await storage.tables()

    async def test_killed_with_the_lease(self) -> None:
        """A migration that was killed before any of its changes, the lease's included, is finished by the next one."""
        for survived in range(100):
            data: MemoryData = {}
            embedded = await second_version(MemoryStorage(data))
            dying = Dying(data, survived)
            try:
                await migrate_up(dying, SIGNATURE, shared=True)
            except Death:
                for row in data.get(LEASES.name, {}).values():
                    row["holder"] = DEAD  # this process lives on
                await migrate_up(MemoryStorage(data), SIGNATURE, shared=True)
            await check_vectors(MemoryStorage(data), embedded)
            if dying.left >= 0:
                break
        assert survived > 10

    async def test_down_and_up_again(self, tmp_path: Path) -> None:
        """The way down takes the lease, too; what is left of the lease is no record of the user's."""
        storage = MemoryStorage()
        await migrate_up(storage, SIGNATURE, shared=True)
        assert (await migrate_down(storage, 0, backups=tmp_path, shared=True)).target == 0
        assert await storage.tables() == {LEASES.name}
        with pytest.raises(MigrationError, match="Choose an earlier one"):
            await migrate_down(storage, 0, shared=True)
        await migrate_up(storage, SIGNATURE, shared=True)
        assert (await read_metadata(storage)).schema_version == LATEST

    async def test_no_part_of_a_backup(self, tmp_path: Path) -> None:
        """The lease is not backed up, and a backup can be read where there is one: those who come meanwhile wait."""
        data: MemoryData = {}
        storage = MemoryStorage(data)
        await migrate_up(storage, SIGNATURE, shared=True)
        await storage.commit([Insert(TABLES["users"], sample_row(TABLES["users"], "ada"))])
        counts = await back_up(storage, tmp_path / "b")
        assert LEASES.name not in counts
        assert find_table(LEASES.name) == LEASES
        assert LEASES.name not in TABLES

        new: MemoryData = {}
        restored, opened = await asyncio.gather(
            restore(Slow(new), tmp_path / "b", shared=True), migrate_up(Slow(new), SIGNATURE, shared=True)
        )
        assert (restored, opened) == (counts, MigrationPlan(LATEST, LATEST, ()))
        assert await MemoryStorage(new).count(TABLES["users"]) == 1
