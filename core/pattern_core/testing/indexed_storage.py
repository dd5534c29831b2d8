"""A storage, a vector index over it, and the vectors that both should hold."""

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
    """A storage, the index over it, and the vectors that both should hold.

    Attributes:
        storage: The storage of the records.
        vectors: The index under test.
        metric: The metric of the index.
        table: The table of the records.
        expected: The partition and the vector of each record with a vector, by id.
        ids: The ids of all records, with or without a vector.
    """

    storage: Storage
    vectors: VectorStore
    metric: str
    table: Table = TASKS
    expected: dict[str, tuple[str, Vector]] = attrs.field(factory=dict)
    ids: set[str] = attrs.field(factory=set)

    async def create(self) -> None:
        """Create the index."""
        await self.vectors.create(IndexSpec(self.table, DIMENSIONS, self.metric))

    async def write(
        self, records: Mapping[str, tuple[str, Vector | None] | None], *, apply: bool = True, put: bool = False
    ) -> None:
        """Write records as core does: commit them to the storage, then apply the changes to the index.

        Args:
            records: The partition and the vector of each record, by id; None deletes the record.
            apply: Whether to apply the changes to the index.
            put: Whether to put existing records; otherwise they are patched.
        """
        batch: list[Write] = []
        changes: list[VectorChange] = []
        for id, record in records.items():
            if record is None:
                partition, vector = self.expected[id][0] if id in self.expected else USERS[0], None
                batch.append(Delete(self.table, id))
                self.ids.discard(id)
            else:
                partition, vector = record
                batch.append(self._write(id, partition, vector, put=put))
            if vector is None:
                self.expected.pop(id, None)
            else:
                self.expected[id] = (partition, vector)
            changes.append(VectorChange(id, partition, vector))
        await self.storage.commit(batch)
        if apply:
            await self.vectors.apply(self.table, changes)

    def _write(self, id: str, partition: str, vector: Vector | None, *, put: bool) -> Write:
        if id in self.ids and not put:
            return Patch(self.table, id, {"user_id": partition, "embedding": vector})
        self.ids.add(id)
        return Put(self.table, sample_row(self.table, id, user_id=partition, embedding=vector))

    async def search(
        self, query: Vector, partitions: Sequence[str], limit: int = 10, ids: Sequence[str] | None = None
    ) -> Matches:
        """Search the index."""
        return await self.vectors.search(self.table, query, partitions=partitions, limit=limit, ids=ids)

    async def check(
        self, query: Vector, partitions: Sequence[str], limit: int = 10, ids: Sequence[str] | None = None
    ) -> float:
        """Search, fail if the matches are wrong, and return the recall."""
        matches = await self.search(query, partitions, limit, ids)
        scores = {
            id: self.score(query, vector)
            for id, (partition, vector) in self.expected.items()
            if partition in partitions and (ids is None or id in ids)
        }
        best = sorted(scores, key=lambda each: (-scores[each], each))[:limit]
        assert set(matches.ids) <= scores.keys(), "a match is deleted, in another partition, or not in `ids`"
        assert len(matches.ids) == len(set(matches.ids)) == len(matches.scores), "each match comes once, with a score"
        assert len(matches.ids) == len(best), "there are as many matches as candidates, up to the limit"
        assert list(matches.ids) == [
            id for _, id in sorted((-score, id) for score, id in zip(matches.scores, matches.ids, strict=True))
        ], "matches are ordered closest first, ties by id"
        true = [scores[id] for id in matches.ids]
        assert np.allclose(matches.scores, true, rtol=1e-4, atol=1e-4), "each score belongs to its record"
        if matches.exact:
            assert np.allclose(true, [scores[id] for id in best], rtol=1e-4, atol=1e-4), "no closer record is missing"
        return len(set(best) & set(matches.ids)) / len(best) if best else 1.0

    def score(self, query: Vector, vector: Vector) -> float:
        """Return the score of two vectors, computed in float64 from the definition of the metric."""
        left, right = query.astype(np.float64), vector.astype(np.float64)
        if self.metric == "cosine":
            return float(left @ right / np.sqrt((left @ left) * (right @ right)))
        if self.metric == "euclidean":
            return -float(np.sqrt(((left - right) ** 2).sum()))
        return -float(np.abs(left - right).sum())


def clustered(generator: np.random.Generator, count: int) -> list[Vector]:
    """Return vectors in loose clusters, with lengths from about 0.1 to 10 times those of the cluster."""
    centers = generator.standard_normal((8, DIMENSIONS))
    points = centers[generator.integers(0, 8, count)] + 0.3 * generator.standard_normal((count, DIMENSIONS))
    return list((points * generator.uniform(0.1, 10, (count, 1))).astype(np.float32))


def axis(position: int, length: float = 1.0) -> Vector:
    """Return a float32 vector, shape ``[DIMENSIONS]``, along one axis."""
    vector = np.zeros(DIMENSIONS, dtype=np.float32)
    vector[position] = length
    return vector
