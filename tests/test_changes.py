"""`Database.changes`: what has changed since a position."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pattern_core import ChangesLostError, RecordChange, ValidationError
from pattern_core.catalog import commit_log
from pattern_core.database import Database
from pattern_core.schema import COMMIT_LOG
from pattern_core.sessions import commits as commits_module

pytestmark = pytest.mark.anyio


async def _read(changes: AsyncIterator[RecordChange]) -> list[tuple[str, str, str, int]]:
    return [(each.table, each.id, each.kind, each.revision) async for each in changes]


async def test_every_change_is_reported_once(db: Database, people: None) -> None:
    """A program reads what has changed since a stored position: created, updated and deleted records, in order."""
    since = await db.position()
    memory = await db.memories.create(agent_id="archive", label="tea", content="Ada drinks tea.")
    await db.memories.update(memory, description="of the afternoon")
    await db.memories.delete(memory.id)
    assert await _read(db.changes(since=since)) == [
        ("memory_blocks", memory.id, "create", 1),
        ("memory_blocks", memory.id, "update", 2),
        ("memory_blocks", memory.id, "delete", 2),
    ]
    assert await _read(db.changes(since=await db.position())) == []


async def test_the_first_change_is_the_oldest(db: Database, people: None) -> None:
    """Without a position, the changes begin with the first commit; internal tables are not reported."""
    tables = {table for table, *_ in await _read(db.changes())}
    assert {"users", "agents"} <= tables
    assert "system_metadata" not in tables


async def test_a_position_resumes(db: Database, people: None) -> None:
    """The position of a change continues after its commit; changes name the partition and, if wanted, the record."""
    since = await db.position()
    for label in ("tea", "coffee"):
        await db.memories.create(agent_id="archive", label=label, content=f"Ada drinks {label}.")
    first = await anext(db.changes(since=since))
    assert first.partition == "archive"
    assert first.record is None
    (second,) = [each async for each in db.changes(since=first.position, records=True)]
    assert second.record == await db.memories.by_label("archive", "coffee")


async def test_follow_waits_for_changes(db: Database, people: None) -> None:
    """With ``follow``, the iteration waits for commits, and begins with the next one."""
    seen: list[str] = []
    ready = asyncio.Event()

    async def follow() -> None:
        async for change in db.changes(follow=True):
            seen.append(change.id)
            ready.set()

    task = asyncio.create_task(follow())
    await asyncio.sleep(0)
    user = await db.users.create()
    while not seen:  # the follower may begin after some of these
        user = await db.users.create()
        try:
            await asyncio.wait_for(ready.wait(), 0.05)
        except TimeoutError:
            continue
    last = await db.users.create()
    while last.id not in seen:
        ready.clear()
        await asyncio.wait_for(ready.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert user.id in seen
    assert len(seen) == len(set(seen))


async def test_a_transaction_is_one_commit(db: Database, people: None) -> None:
    """All changes of a transaction have one position."""
    since = await db.position()
    async with db.transaction() as transaction:
        await transaction.users.create(id="grace")
        await transaction.users.create(id="hedy")
    changes = [each async for each in db.changes(since=since)]
    assert [each.id for each in changes] == ["grace", "hedy"]
    assert len({each.position for each in changes}) == 1


async def test_a_failed_write_is_not_reported(db: Database, people: None) -> None:
    """A write that was refused changes nothing."""
    since = await db.position()
    with pytest.raises(ValidationError):
        await db.users.update("ada", nonsense=1)
    async with db.transaction() as transaction:
        await transaction.users.create(id="grace")
        with pytest.raises(RuntimeError):
            raise RuntimeError
        await transaction.users.delete("grace")
    assert await _read(db.changes(since=since)) == []


@pytest.mark.parametrize("since", ["", "7", "x.y", "-1.abc", "1.", "0.abc"])
async def test_not_a_position(db: Database, since: str) -> None:
    """A text that is not a position is rejected."""
    with pytest.raises(ValidationError, match="position"):
        await anext(db.changes(since=since))


async def test_a_position_before_a_restore(db: Database, tmp_path: Path) -> None:
    """After a restore, the changes since an older position are unknown, and the error says what to do."""
    pytest.importorskip("pattern_surreal_embedded", reason="needs the plugin surreal-embedded")
    since = await db.position()
    await db.back_up(tmp_path / "backup")
    await db.restore(tmp_path / "backup")
    with pytest.raises(ChangesLostError, match=r"db\.position"):
        await anext(db.changes(since=since))
    assert await _read(db.changes(since=await db.position())) == []


async def test_the_log_is_pruned(db: Database, people: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log keeps its newest commits; older positions are then unknown, and newer ones still work."""
    monkeypatch.setattr(commits_module, "_PRUNE_EVERY", 5)
    monkeypatch.setattr(commit_log, "KEPT_COMMITS", 10)
    oldest = await db.position()
    positions = []
    for number in range(40):
        await db.users.create(id=f"u{number}")
        positions.append(await db.position())
    with pytest.raises(ChangesLostError):
        await anext(db.changes(since=oldest))
    assert len(await _read(db.changes(since=positions[-6]))) == 5
    assert await db.storage.count(COMMIT_LOG) < 20
