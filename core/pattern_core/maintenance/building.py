"""The making of a generation of vectors beside the one that is searched, and the switch to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import timedelta
from typing import Final

import attrs

from pattern_core.abc import CheckNone, Delete, IndexSpec, Insert, Put, Row, Signature, Storage, VectorChange, Write
from pattern_core.catalog.metadata import Generation, Metadata, put_generation, read_metadata, specs_of, stamp
from pattern_core.catalog.tables import UNEMBEDDED, vectors_of
from pattern_core.embedding.chunks import Parts, embed_parts, hash_text, part_id, part_ids, part_rows, record_of
from pattern_core.embedding.model import Embeddings
from pattern_core.errors import ConflictError, PatternError, ReembedError, StorageError, TextTooLongError, shorten
from pattern_core.filters import Field
from pattern_core.schema import EMBEDDED, TABLES, CreateTable, Table
from pattern_core.search.exact import score
from pattern_core.search.indexing import Change
from pattern_core.sessions.direct import Direct
from pattern_core.support.cancellation import to_the_end
from pattern_core.support.clock import utc_now

from .generations import clean_up, reusable
from .workers import may_live, this_process

__all__ = ["Builder", "Progress", "ids_of"]

_BATCH: Final = 128
"""How many records are embedded and written at a time."""
_FEW: Final = 16
"""With so many records left in the queue, other commits of this process are held back until the switch."""
_ALIVE_S: Final = 60
"""Who was seen no longer ago than that, in seconds, is taken for being at work."""
_BEAT_S: Final = 15.0
"""How often somebody at work says so, in seconds."""
_VERIFIED: Final = 50
_ALIKE: Final = 0.999
"""How alike a vector and another one of the same text have to be (cosine): services round, and batches differ."""
_HOLD_AFTER: Final = 3
"""After how many attempts to switch, in vain, the writers in other processes are asked to wait."""
_HOLD_S: Final = 10.0
"""For how long, in seconds; and how long writers in this process wait at most for one attempt."""
_ROUNDS: Final = 100
_ANY: Final = ~Field("id").is_null()
_FIRST: Final = Field("part") <= 1

Progress = Callable[[int, int], None]
"""Called with how many records are done, and of how many."""


class Builder:
    """One run that makes a generation.

    Args:
        session: The open database.
        target: The model.
        signature: Its signature.
        progress: Called while records are embedded.

    Attributes:
        generation: The generation.
        embedded: How many records were embedded.
    """

    def __init__(self, session: Direct, target: Embeddings, signature: Signature, progress: Progress) -> None:
        self.generation = Generation(number=0, signature=signature, state="building")
        self.embedded = 0
        self._session = session
        self._storage = session.storage
        self._target = target
        self._progress = progress
        self._indexed: set[str] = set()
        self._turn = asyncio.Lock()

    async def begin(self, *, again: bool, take_over: bool) -> bool:
        """Begin the generation, or go on with it.

        Args:
            again: Whether to begin one even where the model is the one that is in use.
            take_over: Whether to go on with the work of another process that may still be at it.

        Returns:
            Whether there is something to do.

        Raises:
            ReembedError: Another model's is half made, or another process is at it.
        """
        for _ in range(_ROUNDS):
            await clean_up(self._session)
            known = await read_metadata(self._storage)
            found, signature = known.building, self.generation.signature
            if found is None and known.in_use.signature == signature and not again:
                await self._session.reload()
                if self._session.is_outdated:  # it took over, but not in this session
                    await self._session.switch(known.in_use.number, self._target, _nothing)
                self.generation = known.in_use
                return False
            try:
                await (self._create(known, again=again) if found is None else self._claim(found, take_over=take_over))
            except ConflictError:
                continue  # somebody else was faster; look again
            await self._session.reload()
            await self._prepare()
            return True
        raise ReembedError("other processes keep changing the generations of vectors; nothing was done")

    async def _create(self, known: Metadata, *, again: bool) -> None:
        reused = None if again else reusable(known, self.generation.signature)
        number = max((each.number for each in known.generations), default=0) + 1
        new = reused or attrs.evolve(self.generation, number=number)
        # With the stamp: all who write learn of it before their next commit.
        await self._put(new, stamp(known, known.schema_version, known.in_use.signature))

    async def _claim(self, found: Generation, *, take_over: bool) -> None:
        if found.signature != self.generation.signature:
            raise ReembedError(
                f"vectors of {found.signature} are half made, and {self.generation.signature} is configured. Configure "
                f"the first again and resume, or abandon them: `pattern reembed rollback`."
            )
        seen = found.worker_seen_at
        if seen is not None and not take_over and found.worker != this_process() and may_live(found.worker):
            ago = (utc_now() - seen).total_seconds()
            if ago < _ALIVE_S:
                raise ReembedError(
                    f"{found.worker} is making these vectors; it was seen {ago:.0f} seconds ago. If it has ended, take "
                    f"over: `pattern reembed resume`, or reembed(take_over=True)."
                )
        await self._put(found)

    async def _put(self, generation: Generation, *also: Write) -> None:
        """Record the generation as this process's work. It fails where it is not as it was read."""
        mine = attrs.evolve(
            generation, state="building", held_until=None, worker=this_process(), worker_seen_at=utc_now()
        )
        await self._session.commit([put_generation(mine), *also])
        self.generation = attrs.evolve(mine, revision=mine.revision + 1)

    async def _prepare(self) -> None:
        """Make the tables, and find out which indexes have to be told of changes from the start."""
        for table in EMBEDDED:
            vectors = vectors_of(table, self.generation.number)
            await self._storage.apply_schema(CreateTable(vectors, self.generation.signature.dimensions))
        for spec in await self._specs():
            if await self._session.vectors.exists(spec.table):
                await self._session.vectors.create(spec)
                self._indexed.add(spec.table.name)

    async def _specs(self) -> list[IndexSpec]:
        return specs_of(await read_metadata(self._storage), self._session.metric, self.generation)

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Say all the while that somebody is at work."""
        beating = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_S)
            with contextlib.suppress(PatternError):  # who is at work will learn of it
                await self._commit([])

    async def fill(self) -> None:
        """Give every record its vectors, and take those away whose record is gone."""
        total, done = sum([await self._storage.count(table) for table in EMBEDDED]), 0
        self._progress(done, total)
        for table in EMBEDDED:
            ids = await ids_of(self._storage, table)
            for part in _portions(ids):
                await self._sync(table, part)
                done += len(part)
                self._progress(min(done, total), total)
            await self._remove_surplus(table, set(ids))

    async def _remove_surplus(self, table: Table, there: set[str]) -> None:
        surplus: dict[str, None] = {}
        async for batch in self._storage.scan(vectors_of(table, self.generation.number), columns=["id"]):
            surplus.update(
                (id, None) for each in batch.column("id").to_pylist() if (id := record_of(each)) not in there
            )
        for part in _portions(list(surplus)):
            await self._sync(table, part)

    async def index(self) -> None:
        """Make the vectors searchable."""
        for spec in await self._specs():
            await self._session.vectors.create(spec)
            self._indexed.add(spec.table.name)

    async def finish(self) -> None:
        """Switch, when everything that was written meanwhile has its vectors.

        Raises:
            ReembedError: The vectors do not verify, or others write without a pause.
        """
        await self._drain()
        await self.fill()  # which looks at every record again, and has little to do
        await self._verify()
        for attempt in range(_ROUNDS):
            if self._session.generation == self.generation.number:  # which was done in the last moment of an attempt
                return
            if attempt >= _HOLD_AFTER:
                await self._hold()
            await self._drain()
            try:
                async with asyncio.timeout(_HOLD_S):
                    if await self._switch():
                        return
            except TimeoutError:
                continue
            except ConflictError:  # somebody else has written meanwhile
                await self._still_mine()
            else:
                await self.fill()
        raise ReembedError(
            "other processes write texts without a pause, so the new vectors were never complete. Resume when there is less "
            "to do: `pattern reembed resume`."
        )

    async def _hold(self) -> None:
        """Ask all who write to wait a little."""
        known = await read_metadata(self._storage)
        async with self._turn:
            held = attrs.evolve(self.generation, held_until=utc_now() + timedelta(seconds=_HOLD_S))
            with contextlib.suppress(ConflictError):
                again = stamp(known, known.schema_version, known.in_use.signature)
                await self._session.commit([again, put_generation(held)])
                self.generation = attrs.evolve(held, revision=held.revision + 1)
        await self._session.reload()

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
        try:
            writes, changes, embedded = await self._plan(table, ids)
            if writes:
                await self._commit(writes, changes)
        except StorageError:  # it was abandoned meanwhile, perhaps, and its tables are gone
            await self._still_mine()
            raise
        self.embedded += embedded

    async def _commit(self, writes: Sequence[Write], changes: Sequence[Change] = ()) -> None:
        """Write, and say that somebody is at work; it holds only while it is this one."""
        async with self._turn:
            seen = attrs.evolve(self.generation, worker_seen_at=utc_now())
            told = [(table, change) for table, change in changes if table.name in self._indexed]
            try:
                await self._session.commit([put_generation(seen), *writes], changes=told)
            except ConflictError:
                await self._still_mine()
                raise
            self.generation = attrs.evolve(seen, revision=seen.revision + 1)

    async def _still_mine(self) -> None:
        found = (await read_metadata(self._storage)).building
        mine = self.generation
        if found is None or (found.number, found.revision) != (mine.number, mine.revision):
            raise ReembedError(
                f"another process has taken over the making of these vectors, or has abandoned it: "
                f"{found.worker if found else 'nobody is at it'}. Nothing is lost."
            )

    async def _plan(self, table: Table, ids: Sequence[str]) -> tuple[list[Write], list[Change], int]:
        """Say what has to be written so that the generation agrees with some records, and how many are embedded for it."""
        vectors = vectors_of(table, self.generation.number)
        rows = await self._storage.get(table, ids)
        heads = await self._storage.get(vectors, [part_id(id, part) for id in ids for part in (0, 1)])
        known = {record_of(row["id"]): row for row in heads if row is not None}
        records = {id: row for id, row in zip(ids, rows, strict=True) if row is not None}
        due = [row for id, row in records.items() if not self._is_done(table, row, known.get(id))]
        parts = await self._embed(table, due)
        fresh = {row["id"]: part_rows(table, row, each) for row, each in zip(due, parts, strict=True)}
        writes: list[Write] = []
        changes: list[Change] = []
        for id, made in fresh.items():
            writes += [Put(vectors, row) if id in known else Insert(vectors, row) for row in made]
            changes += [(vectors, VectorChange(row["id"], row["partition"], row["embedding"])) for row in made]
        if any(len(made) > 1 for made in fresh.values()):
            self.generation = attrs.evolve(self.generation, has_chunks=True)
        kept = {row["id"] for made in fresh.values() for row in made}
        outdated = {id for id in ids if id in known and (id not in records or id in fresh)}
        for id in part_ids(outdated, [row for row in heads if row and record_of(row["id"]) in outdated]):
            if id not in kept:
                writes.append(Delete(vectors, id))
                changes.append((vectors, VectorChange(id, known[record_of(id)]["partition"], None)))
        return writes, changes, len(due)

    async def _embed(self, table: Table, records: Sequence[Row]) -> list[Parts]:
        texts = [table.text(row) for row in records]
        try:
            return await embed_parts(self._target, self.generation.number, texts)
        except TextTooLongError as error:
            given = [row["id"] for row, text in zip(records, texts, strict=True) if text.strip()]
            error.args = (f"{table.name} record {shorten(given[error.position])}: {error}",)
            raise

    def _is_done(self, table: Table, record: Row, head: Row | None) -> bool:
        """Return whether a record has the vectors that it would get now."""
        text = table.text(record)
        if head is None:
            return not text.strip()
        made_of = (head["text_hash"], head["signature"], head["partition"])
        if made_of != (hash_text(text), self.generation.signature.digest, record[str(table.partition)]):
            return False
        cut = "chunk" if head["part"] else "truncate"
        return head["ends_at"] is None or self._target.policy.overflow == cut

    async def _verify(self) -> None:
        """Refuse to switch unless some records' vectors are what the model makes of their texts, and are found."""
        for table, spec in zip(EMBEDDED, await self._specs(), strict=True):
            ids = await ids_of(self._storage, table)
            sample = ids[:: max(1, len(ids) // _VERIFIED)][:_VERIFIED]
            if wrong := await self._wrong(table, spec.table, sample):
                await self._sync(table, wrong)
                wrong = await self._wrong(table, spec.table, wrong)
            if wrong:
                raise ReembedError(
                    f"the new vector of {table.name} record {shorten(wrong[0])} is not what {self.generation.signature} "
                    f"makes of its text now, or is not found by its index. Nothing was switched."
                )

    async def _wrong(self, table: Table, vectors: Table, ids: Sequence[str]) -> list[str]:
        """Return which records have a vector that is not right; those that are written just now do not count."""
        rows = dict(zip(ids, await self._storage.get(table, ids), strict=True))
        heads = await self._storage.get(vectors, [part_id(id, 0) for id in ids], vectors=True)
        whole = {
            record_of(head["id"]): head
            for head in heads
            if head is not None and (row := rows[record_of(head["id"])]) and self._is_done(table, row, head)
        }
        texts = [table.text(rows[id] or {}) for id in whole]
        made = await self._target.documents(texts, cached=False)
        wrong = []
        for (id, head), each in zip(whole.items(), made, strict=True):
            alike = score(each.vectors[0], head["embedding"], "cosine") >= _ALIKE
            found = await self._session.vectors.search(
                vectors, head["embedding"], partitions=[head["partition"]], limit=1, ids=[head["id"]]
            )
            if not alike or found.ids != (head["id"],):
                wrong.append(id)
        return wrong

    async def _switch(self) -> bool:
        """Embed the rest of the queue and make the generation the active one, all in one commit.

        Returns:
            Whether that was done; False where the generation lacks records, or the queue has grown too long meanwhile.

        Raises:
            ConflictError: Others have written meanwhile.
        """
        async with self._turn, self._session.alone() as commit:
            known = await read_metadata(self._storage)
            entries = await self._storage.find(UNEMBEDDED, limit=_BATCH)
            writes: list[Write] = [Delete(UNEMBEDDED, row["id"]) for row in entries]
            changes: list[Change] = []
            embedded = 0
            for table, ids in _by_table(entries):
                more, changed, count = await self._plan(table, ids)
                writes, changes, embedded = [*writes, *more], [*changes, *changed], embedded + count
            if not entries and not await self._is_complete(known.in_use):
                return False
            active = known.in_use
            new = attrs.evolve(
                self.generation,
                state="active",
                index=active.index,
                index_since=active.index_since,
                held_until=None,
                worker=None,
                worker_seen_at=None,
            )
            batch = [
                stamp(known, known.schema_version, self.generation.signature),
                put_generation(new),
                put_generation(attrs.evolve(active, state="retired")),
                *writes,
                CheckNone(UNEMBEDDED, _ANY),
            ]

            # To the end: what is switched in the database is switched here, too.
            await to_the_end(self._session.switch(new.number, self._target, lambda: commit(batch, changes)))
            self.embedded += embedded
            return True

    async def _is_complete(self, active: Generation) -> bool:
        """Compare the numbers of records that have vectors, old and new, while nobody else in this process writes."""
        for table in EMBEDDED:
            new, old = (vectors_of(table, each.number) for each in (self.generation, active))
            if await self._storage.count(new, _FIRST) < await self._storage.count(old, _FIRST):
                return False
        return True


async def ids_of(storage: Storage, table: Table) -> list[str]:
    """Read the ids of all records of a table.

    Args:
        storage: The database.
        table: The table.

    Returns:
        The ids, sorted.
    """
    ids: list[str] = []
    async for batch in storage.scan(table, columns=["id"]):
        ids += batch.column("id").to_pylist()
    return ids


async def _nothing() -> None:
    """It has been done already."""


def _portions(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH))


def _by_table(entries: Iterable[Row]) -> Iterable[tuple[Table, list[str]]]:
    found: dict[str, dict[str, None]] = {}
    for row in entries:
        found.setdefault(row["record_table"], {})[row["record_id"]] = None
    return [(TABLES[name], list(ids)) for name, ids in found.items() if name in TABLES]
