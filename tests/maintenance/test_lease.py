"""The lease for changes of a whole database: one holder at a time, and no wait for dead ones."""

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
from tests.maintenance.test_migrations import ALL, SIGNATURE, check_vectors, set_up_version_2

pytestmark = pytest.mark.anyio

ELSEWHERE = "process 1 on another host"
DEAD = f"process {2**22 + 1} on {HOST}"
SHORT = LeaseTerms(seconds=0.2)


class SlowStorage(MemoryStorage):
    """An in-memory storage that lets other tasks run in each call, and may be unreachable.

    Attributes:
        failures: For each of the next commits, whether it takes effect before it fails; later ones succeed.
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


async def hold_lease(storage: MemoryStorage, holder: str, seconds: float) -> None:
    """Take the lease for a holder that does not renew it."""
    await storage.apply_schema(CreateTable(LEASES, 0))
    row = sample_row(LEASES, SCHEMA, holder=holder, token="theirs", seconds=seconds, held_since=utc_now(), revision=7)
    await storage.commit([Insert(LEASES, row)])


async def take_over(storage: MemoryStorage) -> None:
    """Take the lease for another process, as if its holder had died."""
    (row,) = await storage.get(LEASES, [SCHEMA])
    assert row is not None
    theirs = {"holder": ELSEWHERE, "token": "theirs", "revision": row["revision"] + 1}
    await storage.commit([Patch(LEASES, SCHEMA, theirs, row["revision"])])


async def token(storage: MemoryStorage) -> str:
    """Return the token of the lease holder; empty if there is none."""
    (row,) = await storage.get(LEASES, [SCHEMA])
    assert row is not None
    return str(row["token"])


async def finish() -> str:
    """Finish at once."""
    return "done"


async def run_forever() -> str:
    """Run until cancelled."""
    await asyncio.Event().wait()
    raise AssertionError


class TestLease:
    async def test_one_at_a_time(self) -> None:
        """Of several concurrent calls, one runs at a time, and all run."""
        data: MemoryData = {}
        running, most, finished = 0, 0, []

        async def run(name: int) -> int:
            async def work() -> int:
                nonlocal running, most
                running += 1
                most = max(most, running)
                for _ in range(20):
                    await asyncio.sleep(0)
                running -= 1
                finished.append(name)
                return name

            return await with_lease(SlowStorage(data), work, terms=SHORT)

        assert await asyncio.gather(*map(run, range(6))) == [*range(6)]
        assert (most, sorted(finished)) == (1, [*range(6)])

    async def test_others_have_done_the_work(self) -> None:
        """A caller that waits for work which another process completes returns without the lease."""
        storage = MemoryStorage()
        await hold_lease(storage, ELSEWHERE, 1000.0)
        answers: list[str | None] = [None, None, "done by them"]

        async def done() -> str | None:
            return answers.pop(0)

        assert await with_lease(storage, run_forever, done=done) == "done by them"
        assert await token(storage) == "theirs"

    async def test_a_dead_holder(self) -> None:
        """A lease that is not renewed is taken over when it ends, and not before."""
        storage = MemoryStorage()
        await hold_lease(storage, ELSEWHERE, 0.3)
        began = time.monotonic()
        assert await with_lease(storage, finish) == "done"
        assert time.monotonic() - began >= 0.3

    async def test_a_dead_process_on_this_machine(self) -> None:
        """The lease of a process of this machine that is known to be dead is taken over at once."""
        storage = MemoryStorage()
        await hold_lease(storage, DEAD, 1000.0)
        assert await with_lease(storage, finish) == "done"

    async def test_a_renewed_lease_is_not_taken_over(self) -> None:
        """A lease that is renewed is not taken over. A caller that waits too long gets an error with the holder."""
        data: MemoryData = {}
        release = asyncio.Event()

        async def work() -> bool:
            return await release.wait()

        first = asyncio.create_task(with_lease(SlowStorage(data), work, terms=SHORT))
        with pytest.raises(MigrationError, match=rf"{process_name()} has been changing the database since 2\d\d\d-"):
            await asyncio.gather(
                with_lease(SlowStorage(data), finish, terms=LeaseTerms(seconds=0.2, patience=1)), asyncio.sleep(0)
            )
        release.set()
        assert await first
        assert await token(MemoryStorage(data)) == ""

    async def test_one_caller_takes_over(self) -> None:
        """Of several callers that wait for a dead holder, one runs at a time."""
        data: MemoryData = {}
        await hold_lease(MemoryStorage(data), ELSEWHERE, 0.1)
        busy = False

        async def work() -> None:
            nonlocal busy
            assert not busy
            busy = True
            for _ in range(20):
                await asyncio.sleep(0)
            busy = False

        await asyncio.gather(*(with_lease(SlowStorage(data), work) for _ in range(5)))

    async def test_a_lost_lease_stops_the_work(self) -> None:
        """When the lease is lost, the work is cancelled, and the new holder's lease is kept."""
        data: MemoryData = {}
        begun, stopped = asyncio.Event(), False

        async def work() -> None:
            nonlocal stopped
            begun.set()
            try:
                await run_forever()
            finally:
                stopped = True

        holder = asyncio.create_task(with_lease(SlowStorage(data), work, terms=SHORT))
        await begun.wait()
        await take_over(MemoryStorage(data))
        with pytest.raises(MigrationError, match="lost its lease"):
            await holder
        assert stopped
        assert await token(MemoryStorage(data)) == "theirs"

    @pytest.mark.parametrize("lost", [True, False])
    async def test_work_that_fails(self, *, lost: bool) -> None:
        """An error of the work is raised, unless it comes from the loss of the lease."""
        data: MemoryData = {}

        async def work() -> None:
            if lost:
                await take_over(MemoryStorage(data))
            raise ConflictError("system_metadata", "main", 3)

        with pytest.raises(MigrationError if lost else ConflictError) as caught:
            await with_lease(SlowStorage(data), work)
        assert isinstance(caught.value.__cause__ if lost else caught.value, ConflictError)
        assert await token(MemoryStorage(data)) == ("theirs" if lost else "")

    @pytest.mark.parametrize("takes_effect", [True, False])
    async def test_a_renewal_that_fails(self, *, takes_effect: bool) -> None:
        """A renewal may fail for a while, and its own write that took effect is not taken for another holder's."""
        storage = SlowStorage({})

        async def revision() -> int:
            (row,) = await storage.get(LEASES, [SCHEMA])
            assert row is not None
            return int(row["revision"])

        async def work() -> bool:
            storage.failures, first = [takes_effect], await revision()
            while await revision() < first + 3:
                pass  # each read lets other tasks run
            return not storage.failures

        assert await with_lease(storage, work, terms=SHORT)

    async def test_an_unreachable_storage(self) -> None:
        """If the lease cannot be renewed before it ends, the work stops."""
        storage = SlowStorage({})

        async def work() -> None:
            storage.failures = [False] * 6
            await run_forever()

        with pytest.raises(MigrationError, match=r"did not renew it for 0\.2 seconds"):
            await with_lease(storage, work, terms=LeaseTerms(seconds=0.2))

    async def test_a_deleted_lease(self) -> None:
        """A lease whose record was deleted is lost."""
        data: MemoryData = {}

        async def work() -> None:
            data[LEASES.name].clear()
            await run_forever()

        with pytest.raises(MigrationError, match="lost its lease"):
            await with_lease(SlowStorage(data), work, terms=SHORT)

    async def test_errors_and_cancellations_are_raised(self) -> None:
        """Any other error, and a cancellation within the work, is raised, and the lease is released."""
        for error in (ZeroDivisionError, asyncio.CancelledError, NotFoundError):
            data: MemoryData = {}

            async def work(error: type[BaseException] = error) -> None:
                raise error("users", "u") if error is NotFoundError else error

            with pytest.raises(error):
                await with_lease(SlowStorage(data), work)
            assert await token(MemoryStorage(data)) == ""

    @pytest.mark.parametrize("steps", range(12))
    async def test_a_cancelled_caller_releases_the_lease(self, steps: int) -> None:
        """A caller that is cancelled at any point holds no lease afterwards."""
        data: MemoryData = {}
        task = asyncio.create_task(
            with_lease(SlowStorage(data), run_forever, terms=LeaseTerms(seconds=1000, patience=0))
        )
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert await with_lease(SlowStorage(data), finish, terms=LeaseTerms(patience=0)) == "done"

    @pytest.mark.parametrize("takes_effect", [True, False])
    async def test_a_cancellation_during_a_failed_renewal(self, *, takes_effect: bool) -> None:
        """A cancellation takes effect at any point of a failed renewal."""
        for steps in range(6):
            storage, begun = SlowStorage({}), asyncio.Event()

            async def work(storage: SlowStorage = storage, begun: asyncio.Event = begun) -> None:
                storage.failures = [takes_effect]
                while storage.failures:
                    await storage.get(LEASES, [SCHEMA])
                begun.set()
                await run_forever()

            task = asyncio.create_task(with_lease(storage, work, terms=SHORT))
            await begun.wait()
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            async with asyncio.timeout(10):
                await asyncio.wait([task])
            assert task.cancelled()
            assert await token(storage) == ""

    async def test_an_unknown_result_of_taking_the_lease(self) -> None:
        """If taking the lease fails and may have taken effect, the lease is released."""
        storage = SlowStorage({})
        storage.failures = [True]
        with pytest.raises(StorageError, match="cannot be reached"):
            await with_lease(storage, finish)
        assert await token(storage) == ""

    def test_may_be_alive(self) -> None:
        """A process is dead only if it ran on this machine and is not running."""
        assert may_be_alive(process_name())
        assert may_be_alive(ELSEWHERE)
        assert may_be_alive(None)
        assert may_be_alive(f"process 1 on {HOST}")
        assert not may_be_alive(DEAD)


class TestMigrations:
    async def test_concurrent_migrations(self, tmp_path: Path) -> None:
        """Of several processes that open an old database at once, one migrates it, with one backup."""
        data: MemoryData = {}
        embedded = await set_up_version_2(MemoryStorage(data))
        migrations = [migrate_up(SlowStorage(data), SIGNATURE, backups=tmp_path, shared=True) for _ in range(5)]
        done = await asyncio.gather(*migrations)
        assert [len(each.pending) for each in done] == [3, 0, 0, 0, 0]
        assert len(list(tmp_path.iterdir())) == 1
        assert (await read_metadata(MemoryStorage(data))).revision == 4
        await check_vectors(MemoryStorage(data), embedded)

    async def test_concurrent_setup(self) -> None:
        """Of several processes that open a new database at once, one sets it up."""
        data: MemoryData = {}
        await asyncio.gather(*(migrate_up(SlowStorage(data), SIGNATURE, shared=True) for _ in range(5)))
        assert await MemoryStorage(data).tables() == {*ALL, LEASES.name}
        assert (await read_metadata(MemoryStorage(data))).revision == 1

    async def test_no_lease_without_need(self) -> None:
        """A database that is up to date, or that only one process opens, gets no table of leases."""
        storage = MemoryStorage()
        await migrate_up(storage, SIGNATURE)
        assert await migrate_up(storage, SIGNATURE, shared=True) == MigrationPlan(LATEST, LATEST, ())
        assert LEASES.name not in await storage.tables()

    async def test_killed_while_holding_the_lease(self) -> None:
        """A migration that was killed before any of its changes, also one of the lease, is completed by the next."""
        for survived in range(100):
            data: MemoryData = {}
            embedded = await set_up_version_2(MemoryStorage(data))
            dying = Dying(data, survived)
            try:
                await migrate_up(dying, SIGNATURE, shared=True)
            except Death:
                for row in data.get(LEASES.name, {}).values():
                    row["holder"] = DEAD  # the process of this test is alive
                await migrate_up(MemoryStorage(data), SIGNATURE, shared=True)
            await check_vectors(MemoryStorage(data), embedded)
            if dying.left >= 0:
                break
        assert survived > 10

    async def test_down_and_up_again(self, tmp_path: Path) -> None:
        """A downgrade takes the lease, too, and the lease does not count as a record."""
        storage = MemoryStorage()
        await migrate_up(storage, SIGNATURE, shared=True)
        assert (await migrate_down(storage, 0, backups=tmp_path, shared=True)).target == 0
        assert await storage.tables() == {LEASES.name}
        with pytest.raises(MigrationError, match="Choose an earlier one"):
            await migrate_down(storage, 0, shared=True)
        await migrate_up(storage, SIGNATURE, shared=True)
        assert (await read_metadata(storage)).schema_version == LATEST

    async def test_the_lease_is_not_backed_up(self, tmp_path: Path) -> None:
        """A backup contains no lease, and a restore takes one, so that other openers wait."""
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
            restore(SlowStorage(new), tmp_path / "b", shared=True), migrate_up(SlowStorage(new), SIGNATURE, shared=True)
        )
        assert (restored, opened) == (counts, MigrationPlan(LATEST, LATEST, ()))
        assert await MemoryStorage(new).count(TABLES["users"]) == 1
