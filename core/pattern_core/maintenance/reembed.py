"""Change the embedding model while the database is used.

The new model's vectors are made beside those that are searched, as another generation (`pattern_core.metadata`). What is
written meanwhile is noted in a queue by whoever writes it, in the same commit, and embedded after. When the queue is
empty, one commit makes the new generation the active one: it holds only if nothing was noted in between, and every
commit that relies on the old one fails from then on. So no record is missed, and no search sees two models.

All that is done is done so that it can be done again: after a crash, what has its vectors already is passed over.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Final

import attrs

from pattern_core.abc import CheckNone, Delete, Insert, Put, Row, Signature, Storage, VectorChange, Write
from pattern_core.clock import utc_now
from pattern_core.embedding import Embeddings
from pattern_core.errors import ConflictError, ReembedError
from pattern_core.exact import score
from pattern_core.filters import Field
from pattern_core.indexing import Change
from pattern_core.metadata import Generation, Metadata, put_generation, read_metadata, stamp
from pattern_core.parts import embed_parts, hash_text, part_id, part_ids, part_rows, record_of
from pattern_core.schema import EMBEDDED, TABLES, UNEMBEDDED, CreateTable, DropTable, Table, vectors_of
from pattern_core.session import Direct

from .indexes import specs_of

__all__ = ["Estimate", "Outcome", "Progress", "abandon", "drop_retired", "estimate", "reembed"]

_BATCH: Final = 128
"""How many records are embedded and written at a time."""
_FEW: Final = 16
"""With so many records left in the queue, other commits are held back until the switch."""
_ALIVE_S: Final = 60
"""Who was seen no longer ago than that, in seconds, is taken for being at work."""
_SAMPLE: Final = 200
_TIMED: Final = 32
_VERIFIED: Final = 50
_ALIKE: Final = 0.999
"""How alike a vector and another one of the same text have to be (cosine): services round, and batches differ."""
_CHARS_PER_TOKEN: Final = 4
_ROUNDS: Final = 100
_ANY: Final = ~Field("id").is_null()

Progress = Callable[[int, int], None]
"""Called with how many records are done, and of how many."""


def _ignore(_done: int, _total: int) -> None: ...


@attrs.frozen
class Estimate:
    """What making all vectors by another model would take.

    Attributes:
        current: What makes the vectors that are searched.
        target: What would make the new ones.
        records: How many records have a text, about.
        done: How many of them have their new vectors already, from a run that was cut off or a model that was used before.
        tokens: How many tokens the others have, about.
        too_long: How many of them have more tokens than the model reads, about.
        seconds: How long embedding them takes at the speed of a sample, about; None where all of the sample was cached.
        cost: What the provider asks for it, about; None where no price is configured.
    """

    current: Signature
    target: Signature
    records: int
    done: int
    tokens: int
    too_long: int
    seconds: float | None
    cost: float | None


@attrs.frozen
class Outcome:
    """What was done.

    Attributes:
        signature: What makes the vectors that are searched now.
        generation: The number of their generation.
        embedded: How many records were embedded anew.
        switched: Whether another model took over; False where the vectors were that model's already.
    """

    signature: Signature
    generation: int
    embedded: int
    switched: bool


async def estimate(session: Direct, target: Embeddings) -> Estimate:
    """Say what `reembed` would take. A few records are embedded, to see how long that takes.

    Args:
        session: The open database.
        target: The other model.

    Returns:
        The estimate.
    """
    storage, known = session.storage, await read_metadata(session.storage)
    signature = await target.signature()
    ids = {table.name: await _ids(storage, table) for table in EMBEDDED}
    records = sum(map(len, ids.values()))
    generation = known.building or _reusable(known, signature)
    done = 0 if generation is None else sum([await _heads(storage, table, generation) for table in EMBEDDED])
    sample = await _texts(storage, ids, records)
    counts = await target.count_tokens(sample) or [len(text) // _CHARS_PER_TOKEN + 1 for text in sample]
    share = max(0, records - done) / max(1, len(sample))
    fitting = [text for text, count in zip(sample, counts, strict=True) if count <= (signature.max_tokens or count)]
    tokens = int(sum(counts) * share)
    price = target.policy.price_per_million_tokens
    return Estimate(
        current=session.active.signature,
        target=signature,
        records=records,
        done=min(done, records),
        tokens=tokens,
        too_long=round((len(sample) - len(fitting)) * share),
        seconds=await _seconds(target, fitting[:_TIMED], max(0, records - done)),
        cost=None if price is None else tokens * price / 1_000_000,
    )


async def _seconds(target: Embeddings, sample: Sequence[str], records: int) -> float | None:
    if not sample or not records:
        return 0.0
    before, start = target.embedded, time.perf_counter()
    await target.documents(sample)
    made = target.embedded - before
    return (time.perf_counter() - start) / made * records if made else None


async def _texts(storage: Storage, ids: dict[str, list[str]], records: int) -> list[str]:
    """Return the texts of records from everywhere."""
    step = max(1, records // _SAMPLE)
    texts = []
    for name, known in ids.items():
        rows = await storage.get(TABLES[name], known[::step])
        texts += [text for row in rows if row is not None and (text := TABLES[name].text(row)).strip()]
    return texts


async def reembed(
    session: Direct,
    target: Embeddings,
    *,
    again: bool = False,
    take_over: bool = False,
    progress: Progress = _ignore,
) -> Outcome:
    """Make all vectors by another model, and let it take over. Goes on where an earlier run was cut off.

    The session goes on with the new model; the old vectors are kept until `drop_retired`.

    Args:
        session: The open database. It may be used meanwhile, in other processes too.
        target: The other model. It belongs to the session from the moment that it takes over.
        again: Whether to make new vectors even where the model is the one that made those there are.
        take_over: Whether to go on with the work of a process that was at it a moment ago, and may still be.
        progress: Called while records are embedded.

    Returns:
        What was done.

    Raises:
        ReembedError: Another model's vectors are half made; another process is at it; or the new vectors do not verify.
        EmbeddingError: The model failed. What was made so far is kept.
    """
    work = _Work(session, target, await target.signature(), progress)
    if not await work.begin(again=again, take_over=take_over):
        return Outcome(work.signature, session.active.number, 0, switched=False)
    await work.fill()
    await work.index()
    return await work.finish()


class _Work:
    """One run of `reembed`."""

    def __init__(self, session: Direct, target: Embeddings, signature: Signature, progress: Progress) -> None:
        self.signature = signature
        self._session = session
        self._storage = session.storage
        self._target = target
        self._progress = progress
        self._generation = Generation(number=0, signature=signature, state="building")
        self._indexed = False
        self._embedded = 0

    async def begin(self, *, again: bool, take_over: bool) -> bool:
        """Begin a generation, or go on with one; return False where there is nothing to do."""
        for _ in range(_ROUNDS):
            known = await read_metadata(self._storage)
            await _finish_dropping(self._session, known)
            found = known.building
            if found is None and known.active and known.active.signature == self.signature and not again:
                return False
            try:
                await (self._create(known, again=again) if found is None else self._claim(found, take_over=take_over))
            except ConflictError:
                continue  # somebody else was faster; look again
            await self._session.reload()
            tables = [vectors_of(table, self._generation.number) for table in EMBEDDED]
            self._indexed = all([await self._session.vectors.exists(table) for table in tables])
            return True
        raise ReembedError("other processes keep changing the generations of vectors; nothing was done")

    async def _create(self, known: Metadata, *, again: bool) -> None:
        reused = None if again else _reusable(known, self.signature)
        number = reused.number if reused else max((each.number for each in known.generations), default=0) + 1
        for table in EMBEDDED:
            await self._storage.apply_schema(CreateTable(vectors_of(table, number), self.signature.dimensions))
        new = reused or Generation(number=number, signature=self.signature, state="building")
        assert known.signature is not None and known.active is not None  # noqa: S101, PT018 - an open database has both
        new = attrs.evolve(new, index=known.active.index, index_since=known.active.index_since)
        # With the stamp: all who write learn of it before their next commit.
        await self._put(new, stamp(known, known.schema_version, known.signature))

    async def _claim(self, found: Generation, *, take_over: bool) -> None:
        if found.signature != self.signature:
            raise ReembedError(
                f"vectors of {found.signature} are half made, and {self.signature} is configured. Configure the first "
                f"again and resume, or abandon them: `pattern reembed rollback`."
            )
        seen = found.worker_seen_at
        fresh = seen is not None and utc_now() - seen < timedelta(seconds=_ALIVE_S)
        if fresh and seen is not None and not take_over and found.worker != _worker() and _may_live(found.worker):
            ago = (utc_now() - seen).total_seconds()
            raise ReembedError(
                f"{found.worker} is making these vectors; it was seen {ago:.0f} seconds ago. If it has ended, take over: "
                f"`pattern reembed resume`, or reembed(take_over=True)."
            )
        await self._put(found)

    async def _put(self, generation: Generation, also: Write | None = None) -> None:
        self._generation = attrs.evolve(generation, state="building", worker=_worker(), worker_seen_at=utc_now())
        await self._session.commit([put_generation(self._generation), *([also] if also else [])])
        self._generation = attrs.evolve(self._generation, revision=self._generation.revision + 1)

    async def fill(self) -> None:
        """Give every record its vectors, and take those away whose record is gone."""
        ids = {table.name: await _ids(self._storage, table) for table in EMBEDDED}
        total, done = sum(map(len, ids.values())), 0
        self._progress(done, total)
        for table in EMBEDDED:
            for part in _parts_of(ids[table.name]):
                await self._sync(table, part)
                done += len(part)
                self._progress(done, total)
            there = set(ids[table.name])
            vectors = vectors_of(table, self._generation.number)
            surplus = {record_of(id) for id in await _ids(self._storage, vectors)} - there
            for part in _parts_of(sorted(surplus)):
                await self._sync(table, part)

    async def index(self) -> None:
        """Make the vectors searchable."""
        known = await read_metadata(self._storage)
        for spec in specs_of(known, self._session.metric, self._generation):
            await self._session.vectors.create(spec)
        self._indexed = True

    async def finish(self) -> Outcome:
        """Let the generation take over, when everything that was written meanwhile is in it."""
        await self._drain()
        await self._verify()
        for _ in range(_ROUNDS):
            await self._drain()
            try:
                if await self._switch():
                    return Outcome(self.signature, self._generation.number, self._embedded, switched=True)
            except ConflictError:  # somebody else has written meanwhile
                await self._still_mine()
            else:
                await self.fill()
        raise ReembedError(
            "records are written faster than they can be embedded, so the new vectors were never complete. Resume when "
            "there is less to do: `pattern reembed resume`."
        )

    async def _drain(self) -> None:
        """Embed what the queue holds, until it holds little: it need not become empty while others write."""
        for _ in range(_ROUNDS):
            entries = await self._storage.find(UNEMBEDDED, limit=_BATCH)
            for table, ids in _by_table(entries):
                await self._sync(table, ids)
            await self._session.commit([Delete(UNEMBEDDED, row["id"]) for row in entries])
            if len(entries) <= _FEW:
                return

    async def _sync(self, table: Table, ids: Sequence[str]) -> None:
        """Make the generation agree with some records."""
        writes, changes, embedded = await self._plan(table, ids)
        if writes:
            try:
                await self._session.commit([self._seen(), *writes], changes=changes if self._indexed else ())
            except ConflictError:
                await self._still_mine()
                raise
            self._generation = attrs.evolve(self._generation, revision=self._generation.revision + 1)
            self._embedded += embedded

    def _seen(self) -> Write:
        """Return the write that tells others that somebody is at work, and that holds only while it is this one."""
        self._generation = attrs.evolve(self._generation, worker_seen_at=utc_now())
        return put_generation(self._generation)

    async def _still_mine(self) -> None:
        known = await read_metadata(self._storage)
        found = known.building
        if found is None or (found.number, found.revision) != (self._generation.number, self._generation.revision):
            raise ReembedError(
                f"another process has taken over the making of these vectors, or has abandoned it: "
                f"{found.worker if found else 'nobody is at it'}. Nothing is lost."
            )

    async def _plan(self, table: Table, ids: Sequence[str]) -> tuple[list[Write], list[Change], int]:
        """Say what has to be written so that the generation agrees with some records, and how many are embedded for it."""
        vectors = vectors_of(table, self._generation.number)
        rows = await self._storage.get(table, ids)
        heads = await self._storage.get(vectors, [part_id(id, part) for id in ids for part in (0, 1)])
        known = {record_of(row["id"]): row for row in heads if row is not None}
        records = {id: row for id, row in zip(ids, rows, strict=True) if row is not None}
        due = [row for id, row in records.items() if not self._is_done(table.text(row), known.get(id))]
        parts = await embed_parts(self._target, self._generation.number, [table.text(row) for row in due])
        fresh = {row["id"]: [*part_rows(table, row, each)] for row, each in zip(due, parts, strict=True)}
        writes: list[Write] = []
        changes: list[Change] = []
        for id, made in fresh.items():
            writes += [Put(vectors, row) if id in known else Insert(vectors, row) for row in made]
            changes += [(vectors, VectorChange(row["id"], row["partition"], row["embedding"])) for row in made]
        if any(len(made) > 1 for made in fresh.values()):
            self._generation = attrs.evolve(self._generation, has_chunks=True)
        kept = {row["id"] for made in fresh.values() for row in made}
        outdated = [id for id in ids if id in known and (id not in records or id in fresh)]
        for id in part_ids(outdated, [row for row in heads if row and record_of(row["id"]) in outdated]):
            if id not in kept:
                writes.append(Delete(vectors, id))
                changes.append((vectors, VectorChange(id, known[record_of(id)]["partition"], None)))
        return writes, changes, len(due)

    def _is_done(self, text: str, head: Row | None) -> bool:
        """Return whether a record has the vectors that it would get now."""
        if head is None:
            return not text.strip()
        if head["text_hash"] != hash_text(text) or head["signature"] != self.signature.digest:
            return False
        cut = "chunk" if head["part"] else "truncate"
        return head["ends_at"] is None or self._target.policy.overflow == cut

    async def _verify(self) -> None:
        """Refuse to switch unless some records' vectors are what the model makes of their texts, and are found."""
        known = await read_metadata(self._storage)
        for table, spec in zip(EMBEDDED, specs_of(known, self._session.metric, self._generation), strict=True):
            ids = await _ids(self._storage, table)
            sample = ids[:: max(1, len(ids) // _VERIFIED)][:_VERIFIED]
            for id in sample:
                if not await self._is_right(table, spec.table, id):
                    await self._sync(table, [id])
                    if not await self._is_right(table, spec.table, id):
                        raise ReembedError(
                            f"the new vector of {table.name} record {id!r} is not what {self.signature} makes of its text "
                            f"now, or is not found by its index. Nothing was switched."
                        )

    async def _is_right(self, table: Table, vectors: Table, id: str) -> bool:
        (record,) = await self._storage.get(table, [id])
        (head,) = await self._storage.get(vectors, [part_id(id, 0)], vectors=True)
        if record is None or head is None or head["text_hash"] != hash_text(table.text(record)):
            return True  # it is gone, has no text or several vectors, or is in the queue
        (made,) = await self._target.documents([table.text(record)], cached=False)
        if score(made.vectors[0], head["embedding"], "cosine") < _ALIKE:
            return False
        found = await self._session.vectors.search(
            vectors, head["embedding"], partitions=[head["partition"]], limit=1, ids=[head["id"]]
        )
        return found.ids == (head["id"],)

    async def _switch(self) -> bool:
        """Embed the rest of the queue and make the generation the active one, all in one commit; False if it lacks any.

        Raises:
            ConflictError: Others have written meanwhile.
        """
        async with self._session.alone() as commit:
            known = await read_metadata(self._storage)
            active = known.active
            assert active is not None  # noqa: S101 - an open database has one
            entries = await self._storage.find(UNEMBEDDED)
            writes: list[Write] = [Delete(UNEMBEDDED, row["id"]) for row in entries]
            changes: list[Change] = []
            for table, ids in _by_table(entries):
                more, changed, embedded = await self._plan(table, ids)
                writes, changes = [*writes, *more], [*changes, *changed]
                self._embedded += embedded
            if not entries and not await self._is_complete(active):
                return False
            new = attrs.evolve(self._generation, state="active", worker=None, worker_seen_at=None)
            await commit(
                [
                    stamp(known, known.schema_version, self.signature),
                    put_generation(new),
                    put_generation(attrs.evolve(active, state="retired")),
                    *writes,
                    CheckNone(UNEMBEDDED, _ANY),
                ],
                changes,
            )
            before = self._session.adopt(await read_metadata(self._storage), self._target)
        if before is not self._target:
            await before.retire()
        return True

    async def _is_complete(self, active: Generation) -> bool:
        """Compare the numbers of records that have vectors, old and new, while nobody else in this process writes."""
        for table in EMBEDDED:
            if await _heads(self._storage, table, self._generation) < await _heads(self._storage, table, active):
                return False
        return True


async def abandon(session: Direct) -> Generation | None:
    """Give up a generation that is half made, and remove its vectors. Searches are not touched.

    Args:
        session: The open database.

    Returns:
        The generation; None where none was in the making.
    """
    known = await read_metadata(session.storage)
    building = known.building
    if building is None or known.signature is None:
        return None
    await session.commit(
        [
            stamp(known, known.schema_version, known.signature),
            put_generation(attrs.evolve(building, state="dropped", worker=None, worker_seen_at=None)),
        ]
    )
    await session.reload()
    await _finish_dropping(session, session.known)
    return building


async def drop_retired(session: Direct) -> list[Generation]:
    """Remove the vectors of models that were in use before. There is no way back to them then but embedding again.

    Args:
        session: The open database.

    Returns:
        The generations that were removed.
    """
    known = await read_metadata(session.storage)
    retired = [each for each in known.generations if each.state == "retired"]
    if retired:
        await session.commit([put_generation(attrs.evolve(each, state="dropped")) for each in retired])
        await session.reload()
    await _finish_dropping(session, session.known)
    return retired


async def _finish_dropping(session: Direct, known: Metadata) -> None:
    """Remove the vectors of dropped generations; what is left when this is cut off is removed the next time."""
    storage = session.storage
    present = await storage.tables()
    for generation in known.generations:
        if generation.state != "dropped":
            continue
        for table in EMBEDDED:
            vectors = vectors_of(table, generation.number)
            if vectors.name in present:
                await session.vectors.drop(vectors)
                await storage.apply_schema(DropTable(vectors))
    if known.building is None:
        while entries := await storage.find(UNEMBEDDED, limit=_BATCH):
            await session.commit([Delete(UNEMBEDDED, row["id"]) for row in entries])


_HOST: Final = socket.gethostname()


def _worker() -> str:
    return f"process {os.getpid()} on {_HOST}"


def _may_live(worker: str | None) -> bool:
    """Return whether a process may still be there; False only where that is certain."""
    found = re.fullmatch(rf"process (\d+) on {re.escape(_HOST)}", worker or "")
    if found is None or sys.platform == "win32":  # where asking a process for a sign of life ends it
        return True
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _reusable(known: Metadata, signature: Signature) -> Generation | None:
    """Return the vectors that a model has made before and that are still there."""
    retired = [each for each in known.generations if each.state == "retired" and each.signature == signature]
    return retired[-1] if retired else None


async def _ids(storage: Storage, table: Table) -> list[str]:
    ids: list[str] = []
    async for batch in storage.scan(table, columns=["id"]):
        ids += batch.column("id").to_pylist()
    return ids


async def _heads(storage: Storage, table: Table, generation: Generation) -> int:
    """Count the records that have vectors in a generation."""
    return await storage.count(vectors_of(table, generation.number), Field("part") <= 1)


def _parts_of(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH))


def _by_table(entries: Iterable[Row]) -> Iterable[tuple[Table, list[str]]]:
    found: dict[str, dict[str, None]] = {}
    for row in entries:
        found.setdefault(row["record_table"], {})[row["record_id"]] = None
    return [(TABLES[name], list(ids)) for name, ids in found.items() if name in TABLES]
