"""Transactions: gathered writes, reads that see them, and clashes that are noticed."""

from __future__ import annotations

import asyncio

import pytest

from pattern_core.database import Database, Repositories
from pattern_core.errors import AlreadyExistsError, ClosedError, ConflictError, NotFoundError, ReferencedError
from pattern_core.filters import Field

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("people")]


class TestVisibility:
    async def test_all_at_the_end(self, db: Database) -> None:
        """Nobody sees the writes before the end; then all are there, and found."""
        async with db.transaction() as tx:
            user = await tx.users.create(id="bob")
            agent = await tx.agents.create(user_id=user.id, agent_type="archive", name="B", id="bobs")
            await tx.memories.create(agent_id=agent.id, label="tea", content="Bob drinks green tea.")
            assert await db.users.find("bob") is None
            assert await db.memories.count() == 0

        assert (await db.memories.by_label("bobs", "tea")).revision == 1
        assert len(await db.memories.search_semantic("bobs", "green tea")) == 1

    async def test_an_exception_discards(self, db: Database) -> None:
        """Where the block fails, nothing is written."""

        async def fail() -> None:
            async with db.transaction() as tx:
                await tx.memories.create(agent_id="archive", label="a", content="b")
                raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            await fail()

        assert await db.memories.count() == 0
        assert await db.memories.search_semantic("archive", "b") == []

    async def test_reads_see_writes(self, db: Database) -> None:
        """Get, find, list, count and search see what the transaction has created, changed and deleted."""
        keep = await db.memories.create(agent_id="archive", label="keep", content="keep this text")
        change = await db.memories.create(agent_id="archive", label="change", content="old words here")
        gone = await db.memories.create(agent_id="archive", label="gone", content="gone text")
        async with db.transaction() as tx:
            new = await tx.memories.create(agent_id="archive", label="new", content="green tea")
            changed = await tx.memories.update(change.id, content="black tea")
            await tx.memories.delete(gone.id)
            assert await tx.memories.get(new.id) == new
            assert await tx.memories.get(change.id) == changed
            assert await tx.memories.find(gone.id) is None
            assert [each.label for each in await tx.memories.list(order="label")] == ["change", "keep", "new"]
            assert [each.label for each in await tx.memories.list(order="-label", limit=2)] == ["new", "keep"]
            assert await tx.memories.count() == 3
            assert await tx.memories.count(Field("content").contains("tea")) == 2
            hits = await tx.memories.search_semantic("archive", "black tea")
            assert [hit.memory.label for hit in hits] == ["change", "new", "keep"]
            assert hits[0].score == pytest.approx(1, abs=1e-5)
            assert (await tx.memories.get(new.id, with_embedding=True)).embedding is not None

        after = await db.memories.search_semantic("archive", "black tea")
        assert [hit.memory.id for hit in after] == [hit.memory.id for hit in hits]
        assert [hit.score for hit in after] == pytest.approx([hit.score for hit in hits], abs=1e-6)
        assert keep.id in {hit.memory.id for hit in after}

    async def test_equally_close_ones_have_one_order(self, db: Database) -> None:
        """Records that are equally close come by id, in a transaction as without, whatever signs the ids have."""
        ids = ["a", "a!", "a b", 'a"', "a-1"]
        for id in ids:
            await db.memories.create(agent_id="archive", label=id, content="same text", id=id)
        assert [hit.record.id for hit in await db.memories.search_semantic("archive", "same text")] == sorted(ids)
        assert [hit.record.id for hit in await db.memories.search_semantic("archive", "same text", limit=2)] == sorted(
            ids
        )[:2]
        async with db.transaction() as tx:
            assert [hit.record.id for hit in await tx.memories.search_semantic("archive", "same text")] == sorted(ids)

    async def test_a_record_changed_in_other_fields_is_still_found(self, db: Database) -> None:
        """A search scores a record by its stored vector where the transaction left its text alone."""
        made = await db.memories.create(agent_id="archive", label="a", content="green tea")
        async with db.transaction() as tx:
            await tx.memories.update(made, label="b")
            (hit,) = await tx.memories.search_semantic("archive", "green tea")
            assert hit.memory.label == "b"
            assert hit.score == pytest.approx(1, abs=1e-5)

    async def test_the_record_counts_one_revision(self, db: Database) -> None:
        """However often a transaction changes a record, it is one write of it."""
        async with db.transaction() as tx:
            for n in range(5):
                await tx.agents.save_state("archive", {"n": n})
        agent = await db.agents.get("archive")

        assert (agent.revision, agent.state) == (2, {"n": 4})

    async def test_a_second_change_keeps_the_first_ones_vector(self, db: Database) -> None:
        """Text that changes first, and other fields that change after it, end in the new text's vector."""
        made = await db.memories.create(agent_id="archive", label="a", content="alpha beta gamma")
        async with db.transaction() as tx:
            await tx.memories.update(made.id, content="zebra stripes")
            await tx.memories.update(made.id, description="an animal")
            new = await tx.memories.create(agent_id="archive", label="b", content="green tea")
            await tx.memories.update(new.id, description="a drink")
            await tx.memories.upsert("archive", "c", "first words")
            await tx.memories.upsert("archive", "c", "second words")
            task = await tx.tasks.create(user_id="ada", title="Write")
            await tx.tasks.start(task.id)

        for text in ("zebra stripes", "green tea", "second words"):
            (hit, *_) = await db.memories.search_semantic("archive", text)
            assert hit.memory.content == text
            assert hit.score == pytest.approx(1, abs=1e-5)
        assert (await db.tasks.get(task.id)).started_at is not None

    async def test_what_is_returned_is_what_is_committed(self, db: Database) -> None:
        """A record that a transaction returned, its revision included, is the record that is read afterwards."""
        async with db.transaction() as tx:
            await tx.users.update("ada", settings={"n": 1})
            changed = await tx.users.update("ada", settings={"n": 2})
            created = await tx.users.create(id="bob")
            created = await tx.users.update(created, metadata={"n": 3})

        assert await db.users.get("ada") == changed
        assert await db.users.get("bob") == created
        assert (changed.revision, created.revision) == (2, 1)

    async def test_a_call_that_fails_stages_nothing(self, db: Database) -> None:
        """A call of many records that is refused leaves nothing of them in a transaction that goes on."""
        async with db.transaction() as tx:
            with pytest.raises(AlreadyExistsError):
                await tx.users.create_many([{"id": "bob"}, {"id": "dup"}, {"id": "dup"}])
            await tx.users.create(id="eve")

        assert sorted([user.id async for user in db.users.iterate()]) == ["ada", "eve"]

    async def test_a_key_that_moves(self, db: Database) -> None:
        """A label that one memory gives up can be taken by another, whichever was touched first."""
        p = await db.memories.create(agent_id="archive", label="p", content="one")
        q = await db.memories.create(agent_id="archive", label="q", content="two")
        async with db.transaction() as tx:
            await tx.memories.update(p.id, description="touched first")
            await tx.memories.update(q.id, label="r")
            await tx.memories.update(p.id, label="q")

        assert (await db.memories.by_label("archive", "q")).id == p.id

    async def test_created_and_deleted_within(self, db: Database) -> None:
        """What a transaction makes and deletes again leaves no trace."""
        async with db.transaction() as tx:
            made = await tx.memories.create(agent_id="archive", label="a", content="b")
            await tx.memories.update(made.id, content="c")
            await tx.memories.delete(made.id)

        assert await db.memories.count() == 0

    async def test_a_freed_key_can_be_taken(self, db: Database) -> None:
        """A label that a deletion frees can be taken in the same transaction."""
        old = await db.memories.create(agent_id="archive", label="a", content="old")
        async with db.transaction() as tx:
            await tx.memories.delete(old.id)
            await tx.memories.create(agent_id="archive", label="a", content="new")

        assert (await db.memories.by_label("archive", "a")).content == "new"

    async def test_cascade(self, db: Database) -> None:
        """Deleting with everything below sees what the transaction has added below."""
        await db.memories.create(agent_id="archive", label="a", content="b")
        async with db.transaction() as tx:
            await tx.memories.create(agent_id="archive", label="c", content="d")
            with pytest.raises(ReferencedError) as caught:
                await tx.agents.delete("archive")
            assert caught.value.by == {"memory_blocks": 2}
            assert await tx.agents.delete("archive", cascade=True) == {"agents": 1, "memory_blocks": 2}

        assert await db.memories.count() == 0


class TestClashes:
    async def test_a_changed_record(self, db: Database) -> None:
        """A record that was read and has changed since is a conflict on leaving, also where it was only read."""
        for write in (True, False):
            with pytest.raises(ConflictError):
                async with db.transaction() as tx:
                    agent = await tx.agents.get("archive")
                    if write:
                        await tx.agents.save_state(agent, {"by": "transaction"})
                    else:
                        await tx.memories.create(agent_id="archive", label="a", content="b")
                    await db.agents.save_state("archive", {"by": str(write)})

        assert (await db.agents.get("archive")).state == {"by": "False"}
        assert await db.memories.count() == 0

    async def test_a_record_that_was_missing(self, db: Database) -> None:
        """Having read that a record is missing, and writing, conflicts with somebody who created it."""
        with pytest.raises(ConflictError):
            async with db.transaction() as tx:
                assert await tx.users.find("bob") is None
                await tx.agents.save_state("archive", {"n": 1})
                await db.users.create(id="bob")

        assert (await db.agents.get("archive")).state == {}

    async def test_a_key_that_somebody_took(self, db: Database) -> None:
        """A key that was free when it was staged, and is taken at the end, is a conflict that can be retried."""
        with pytest.raises(ConflictError):
            async with db.transaction() as tx:
                await tx.memories.create(agent_id="archive", label="a", content="mine")
                await db.memories.create(agent_id="archive", label="a", content="theirs")

        assert (await db.memories.by_label("archive", "a")).content == "theirs"

    async def test_a_parent_that_went(self, db: Database) -> None:
        """A child of a record that was there and has gone is a conflict."""
        with pytest.raises(ConflictError):
            async with db.transaction() as tx:
                await tx.memories.create(agent_id="archive", label="a", content="b")
                await db.agents.delete("archive")

        assert await db.memories.count() == 0

    async def test_a_parent_that_changed(self, db: Database) -> None:
        """A child needs its parent to be there; what else becomes of the parent is no conflict."""
        async with db.transaction() as tx:
            await tx.memories.create(agent_id="archive", label="a", content="b")
            await db.agents.save_state("archive", {"n": 1})

        assert await db.memories.count() == 1

    async def test_mistakes_are_told_at_once(self, db: Database) -> None:
        """What cannot be committed, whatever others do, is an error at the call and not at the end."""
        async with db.transaction() as tx:
            await tx.memories.create(agent_id="archive", label="a", content="b", id="one")
            with pytest.raises(AlreadyExistsError):
                await tx.memories.create(agent_id="archive", label="a", content="c")
            with pytest.raises(AlreadyExistsError):
                await tx.memories.create(agent_id="archive", label="c", content="c", id="one")
            with pytest.raises(NotFoundError):
                await tx.memories.create(agent_id="nobody", label="a", content="b")
            with pytest.raises(NotFoundError):
                await tx.agents.update("nobody", name="x")

        assert [each.id for each in await db.memories.list()] == ["one"]

    async def test_reading_only(self, db: Database) -> None:
        """A transaction that wrote nothing has nothing to conflict with."""
        async with db.transaction() as tx:
            await tx.agents.get("archive")
            await db.agents.save_state("archive", {"n": 1})

    async def test_a_changed_record_is_noticed_while_reading(self, db: Database) -> None:
        """A record that is read again and has changed meanwhile is a conflict, not two versions in one transaction."""
        with pytest.raises(ConflictError):
            async with db.transaction() as tx:
                await tx.agents.get("archive")
                await db.agents.save_state("archive", {"n": 1})
                await tx.agents.list()

    async def test_children_that_come_while_the_parent_goes(self, db: Database) -> None:
        """A parent is not deleted with children that came after the look: the transaction conflicts, and can repeat."""
        with pytest.raises(ConflictError):
            async with db.transaction() as tx:
                await tx.agents.delete("planner", cascade=True)
                await db.memories.create(agent_id="planner", label="late", content="late")
        assert await db.agents.find("planner") is not None

        assert await db.run(lambda tx: tx.agents.delete("planner", cascade=True)) == {"agents": 1, "memory_blocks": 1}
        assert await db.memories.count() == 0

    async def test_a_call_inside_does_not_repeat_what_cannot_succeed(self, db: Database) -> None:
        """Within `run`, a call that meets a foreign change gives up at once, and the whole is repeated."""
        runs = 0

        async def work(tx: Repositories) -> None:
            nonlocal runs
            runs += 1
            await tx.agents.get("archive")
            if runs < 3:
                await db.agents.save_state("archive", {"run": runs})
            await tx.agents.update("archive", name=f"run {runs}")
            await db.users.set_settings("ada", run=runs)

        await asyncio.wait_for(db.run(work), 10)
        assert (runs, (await db.agents.get("archive")).name) == (3, "run 3")

    async def test_after_the_end(self, db: Database) -> None:
        """A transaction that has ended cannot be used."""
        async with db.transaction() as tx:
            pass
        with pytest.raises(ClosedError, match="ended"):
            await tx.users.get("ada")


class TestRun:
    async def test_fifty_concurrent_updates_all_count(self, db: Database) -> None:
        """Fifty read-modify-writes of one record at the same time through `run` all count."""

        async def increment(tx: Repositories) -> int:
            agent = await tx.agents.get("archive")
            count = int(agent.state.get("count", 0)) + 1
            await tx.agents.save_state(agent, {"count": count})
            return count

        counts = await asyncio.gather(*(db.run(increment) for _ in range(50)))

        assert (await db.agents.get("archive")).state == {"count": 50}
        assert sorted(counts) == list(range(1, 51))

    async def test_get_or_create(self, db: Database) -> None:
        """Many that look for a record and create it where it is missing make one, and none gets an error."""

        async def ensure(tx: Repositories) -> str:
            found = await tx.memories.list((Field("agent_id") == "archive") & (Field("label") == "once"))
            made = found[0] if found else await tx.memories.create(agent_id="archive", label="once", content="x")
            return made.id

        ids = await asyncio.gather(*(db.run(ensure) for _ in range(10)))

        assert len(set(ids)) == 1

    async def test_attempts_are_bounded(self, db: Database) -> None:
        """Work that always meets a conflict ends with it after the given number of attempts."""
        runs: list[int] = []

        async def clash(tx: Repositories) -> None:
            runs.append(len(runs))
            agent = await tx.agents.get("archive")
            await db.agents.save_state("archive", {"run": len(runs)})
            await tx.agents.save_state(agent, {"mine": True})

        for attempts in (1, 2, 4):
            before = len(runs)
            with pytest.raises(ConflictError):
                await db.run(clash, attempts=attempts)
            assert len(runs) == before + attempts

    async def test_other_errors_pass(self, db: Database) -> None:
        """An error that is no conflict is not retried."""
        runs = 0

        async def fail(tx: Repositories) -> None:
            nonlocal runs
            runs += 1
            await tx.users.get("nobody")

        with pytest.raises(NotFoundError):
            await db.run(fail)

        assert runs == 1


class TestCancellation:
    async def test_a_cancelled_write_is_whole_or_absent(self, db: Database) -> None:
        """A caller that is cancelled leaves all of its batch or nothing, and what is there is found."""
        for n in range(15):
            records = [{"agent_id": "archive", "label": f"{n}-{k}", "content": f"word{n} {k}"} for k in range(8)]
            task = asyncio.create_task(db.memories.create_many(records))
            for _ in range(n):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await db.users.create()  # waits behind whatever is under way
        labels = [each.label async for each in db.memories.iterate()]
        groups = {label.split("-")[0] for label in labels}

        assert sorted(labels) == sorted(f"{group}-{k}" for group in groups for k in range(8))
        hits = await db.memories.search_semantic("archive", "word", limit=500)
        assert sorted(hit.memory.label for hit in hits) == sorted(labels)
