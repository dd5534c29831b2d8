"""Changes of records, and what they do to the vectors of those records.

An `Edit` knows a record before and after. From that follow the write with its precondition, and what a read within the
same transaction sees. `Mirror` makes the rest of the commit.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs

from pattern_core.abc import Check, Delete, Insert, Patch, Put, Row, Storage, Vector, VectorChange, Write
from pattern_core.catalog.metadata import Generation, Metadata, put_generation, stamp
from pattern_core.catalog.tables import UNEMBEDDED, vectors_of
from pattern_core.embedding.chunks import Parts, part_id, part_ids, part_rows, record_of
from pattern_core.errors import ModelChangedError
from pattern_core.schema import Table
from pattern_core.search.indexing import Change
from pattern_core.support.clock import utc_now

__all__ = ["Edit", "Mirror", "differs"]


@attrs.frozen
class Edit:
    """A change of one record.

    Attributes:
        table: The table.
        id: The record.
        before: Its columns as they were read; None for a new one.
        after: Its columns as they shall be; None for one that goes. Without a before and an after, nothing is
            written, but the record has to exist. Where both are one object, nothing is written, but the record has to
            be as it was read.
        parts: Where the record's text is new: what it became.
    """

    table: Table
    id: str
    before: Row | None = None
    after: Row | None = None
    parts: Parts | None = None

    def write(self) -> Write:
        """Return the write, with the revision that was read as its precondition."""
        if self.before is None:
            return Check(self.table, self.id) if self.after is None else Insert(self.table, self.after)
        revision = int(self.before["revision"])
        if self.after is self.before:
            return Check(self.table, self.id, revision)
        if self.after is None:
            return Delete(self.table, self.id, revision)
        before = self.before
        changes = {name: new for name, new in self.after.items() if differs(new, before[name])}
        return Patch(self.table, self.id, changes, revision)


def differs(new: Any, old: Any) -> bool:
    """Return whether two values of a column are not the same."""
    if new is old:
        return False
    if type(new) is not type(old):
        return True  # 1, 1.0 and True are equal, but three JSON values
    if isinstance(new, dict):
        return new.keys() != old.keys() or any(differs(value, old[key]) for key, value in new.items())
    if isinstance(new, list):
        return len(new) != len(old) or any(map(differs, new, old))
    return bool(new != old)


class Mirror:
    """What edits do to the vectors of records.

    Args:
        edits: The edits; those that leave vectors as they are do not count.
    """

    def __init__(self, edits: Iterable[Edit]) -> None:
        self._edits: dict[str, list[Edit]] = {}
        for edit in edits:
            if edit.table.texts and (edit.parts is not None or (edit.after is None and edit.before is not None)):
                self._edits.setdefault(edit.table.name, []).append(edit)

    async def writes(self, storage: Storage, known: Metadata) -> tuple[list[Write], list[Change]]:
        """Return what has to be written along with the records, and what the index has to hold then.

        Args:
            storage: The database.
            known: What it says of itself. The writes hold only where that is still so (`pattern_core.catalog.metadata.fence`).

        Returns:
            The writes, none where no vector changes; and the changes.

        Raises:
            ModelChangedError: A text was embedded for a generation that is no longer the active one.
        """
        writes: list[Write] = []
        changes: list[Change] = []
        for edits in self._edits.values():
            await self._of_table(edits, storage, known, writes, changes)
        active = known.in_use
        if not active.has_chunks and any(len(part) > 1 for part in self._vectors()):
            # With the stamp, so that all others learn of it before they write.
            writes.append(put_generation(attrs.evolve(active, has_chunks=True)))
            writes.append(stamp(known, known.schema_version, active.signature))
        return writes, changes

    def _vectors(self) -> Iterator[Sequence[Vector]]:
        for edits in self._edits.values():
            yield from (edit.parts.embedded.vectors for edit in edits if edit.parts and edit.parts.embedded)

    async def _of_table(
        self, edits: Sequence[Edit], storage: Storage, known: Metadata, writes: list[Write], changes: list[Change]
    ) -> None:
        active = known.in_use
        for edit in edits:
            if edit.parts is not None and edit.parts.generation != active.number:
                raise ModelChangedError(edit.parts.generation)
        table = edits[0].table
        vectors = vectors_of(table, active.number)
        before = await _before(vectors, active, edits, storage)
        homes = {}
        for edit in edits:
            row = edit.after or edit.before or {}
            homes[edit.id] = row[str(table.partition)]
            for each in part_rows(table, row, edit.parts) if edit.parts else []:
                writes.append(Insert(vectors, each) if edit.before is None else Put(vectors, each))
                changes.append((vectors, VectorChange(each["id"], each["partition"], each["embedding"])))
                before.pop(each["id"], None)
            if known.building is not None:
                writes.append(Insert(UNEMBEDDED, _unembedded(table, edit.id)))
        for id in before:
            writes.append(Delete(vectors, id))
            changes.append((vectors, VectorChange(id, homes[record_of(id)], None)))


async def _before(vectors: Table, active: Generation, edits: Sequence[Edit], storage: Storage) -> dict[str, None]:
    """Return the ids of the rows that some records may have."""
    ids = [edit.id for edit in edits if edit.before is not None]
    if not active.has_chunks:
        return dict.fromkeys(part_id(id, 0) for id in ids)
    heads = await storage.get(vectors, [part_id(id, part) for id in ids for part in (0, 1)])
    return dict.fromkeys(part_ids(ids, heads))


def _unembedded(table: Table, id: str) -> Row:
    now = utc_now()
    common = {"id": uuid.uuid4().hex, "revision": 1, "created_at": now, "updated_at": now}
    return {**common, "record_table": table.name, "record_id": id}
