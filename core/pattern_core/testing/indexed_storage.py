"""A storage and a vector index side by side, with what both should hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import numpy as np

from pattern_core.abc import Delete, IndexSpec, Matches, Patch, Put, Storage, Vector, VectorChange, VectorStore, Write
from pattern_core.schema import Table

from .rows import TASKS, sample_row

__all__ = ["DIMENSIONS", "TASKS", "USERS", "IndexedStorage", "axis", "clustered"]

DIMENSIONS: Final = 16
USERS: Final = ("ada", "grace", "a' OR '1' = '1", "⟨ada⟩", "😀")


@attrs.define
class IndexedStorage:
    """A storage, its index, and what both should hold.

    Attributes:
        storage: Where the records are.
        vectors: The index under test.
        metric: How it compares.
        truth: For each record that has a vector, its partition and its vector.
        written: The records that are there, with a vector or without.
    """

    storage: Storage
    vectors: VectorStore
    metric: str
    table: Table = TASKS
    truth: dict[str, tuple[str, Vector]] = attrs.field(factory=dict)
    written: set[str] = attrs.field(factory=set)

    async def create(self) -> None:
        """Make the index."""
        await self.vectors.create(IndexSpec(self.table, DIMENSIONS, self.metric))

    async def write(
        self, records: Mapping[str, tuple[str, Vector | None] | None], *, tell: bool = True, whole: bool = False
    ) -> None:
        """Write records as core does: commit to the storage, then tell the index.

        Args:
            records: For each id its partition and its vector; None deletes the record.
            tell: Whether to tell the index.
            whole: Whether to write over records that are there as a whole; else they are patched.
        """
        batch: list[Write] = []
        changes: list[VectorChange] = []
        for id, record in records.items():
            if record is None:
                partition, vector = self.truth[id][0] if id in self.truth else USERS[0], None
                batch.append(Delete(self.table, id))
                self.written.discard(id)
            else:
                partition, vector = record
                batch.append(self._write(id, partition, vector, whole=whole))
            if vector is None:
                self.truth.pop(id, None)
            else:
                self.truth[id] = (partition, vector)
            changes.append(VectorChange(id, partition, vector))
        await self.storage.commit(batch)
        if tell:
            await self.vectors.apply(self.table, changes)

    def _write(self, id: str, partition: str, vector: Vector | None, *, whole: bool) -> Write:
        if id in self.written and not whole:
            return Patch(self.table, id, {"user_id": partition, "embedding": vector})
        self.written.add(id)
        return Put(self.table, sample_row(self.table, id, user_id=partition, embedding=vector))

    async def search(
        self, query: Vector, partitions: Sequence[str], limit: int = 10, ids: Sequence[str] | None = None
    ) -> Matches:
        """Search the index."""
        return await self.vectors.search(self.table, query, partitions=partitions, limit=limit, ids=ids)

    async def check(
        self, query: Vector, partitions: Sequence[str], limit: int = 10, ids: Sequence[str] | None = None
    ) -> float:
        """Search, fail unless the answer is right, and return the share of the true matches that was found."""
        matches = await self.search(query, partitions, limit, ids)
        scores = {
            id: self.score(query, vector)
            for id, (partition, vector) in self.truth.items()
            if partition in partitions and (ids is None or id in ids)
        }
        best = sorted(scores, key=lambda each: (-scores[each], each))[:limit]
        assert set(matches.ids) <= scores.keys(), "a record that is gone, or of another partition, or not in `ids`"
        assert len(matches.ids) == len(set(matches.ids)) == len(matches.scores), "each match once, each with a score"
        assert len(matches.ids) == len(best), "as many matches as there are, up to the limit"
        assert list(matches.ids) == [
            id for _, id in sorted((-score, id) for score, id in zip(matches.scores, matches.ids, strict=True))
        ], "closest first, ties by id"
        true = [scores[id] for id in matches.ids]
        assert np.allclose(matches.scores, true, rtol=1e-4, atol=1e-4), "each score is that of its record"
        if matches.exact:
            assert np.allclose(true, [scores[id] for id in best], rtol=1e-4, atol=1e-4), "the closest ones, all of them"
        return len(set(best) & set(matches.ids)) / len(best) if best else 1.0

    def score(self, query: Vector, vector: Vector) -> float:
        """Compare two vectors in float64, by definition."""
        left, right = query.astype(np.float64), vector.astype(np.float64)
        if self.metric == "cosine":
            return float(left @ right / np.sqrt((left @ left) * (right @ right)))
        if self.metric == "euclidean":
            return -float(np.sqrt(((left - right) ** 2).sum()))
        return -float(np.abs(left - right).sum())


def clustered(generator: np.random.Generator, count: int) -> list[Vector]:
    """Vectors in loose clusters, of many lengths, as embeddings are not but could be."""
    centres = generator.standard_normal((8, DIMENSIONS))
    points = centres[generator.integers(0, 8, count)] + 0.3 * generator.standard_normal((count, DIMENSIONS))
    return list((points * generator.uniform(0.1, 10, (count, 1))).astype(np.float32))


def axis(position: int, length: float = 1.0) -> Vector:
    """A vector, float32 ``[DIMENSIONS]``, along one axis."""
    vector = np.zeros(DIMENSIONS, dtype=np.float32)
    vector[position] = length
    return vector
