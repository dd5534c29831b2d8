"""Backups and restores of an in-memory storage."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path

import attrs
import pyarrow as pa
import pytest

from pattern_core.abc import Delete, Insert, Patch, Row, Write
from pattern_core.catalog.metadata import read_metadata, record_generation
from pattern_core.catalog.tables import GENERATIONS, OUTBOX
from pattern_core.embedding.chunks import EmbeddedText, chunk_id, chunk_rows, hash_text
from pattern_core.embedding.fitting import TextVectors
from pattern_core.errors import StorageError
from pattern_core.maintenance.backup import back_up, restore
from pattern_core.maintenance.migrations.migrate import LATEST, MigrationPlan, migrate_up
from pattern_core.schema import EMBEDDED, TABLES, Table
from pattern_core.testing import MemoryStorage, sample_row, sample_vector

from .test_migrations import SIGNATURE, VECTORS

pytestmark = pytest.mark.anyio


@pytest.fixture
async def storage() -> AsyncIterator[MemoryStorage]:
    async with MemoryStorage() as storage:
        yield storage


def vector_rows(table: Table, records: Iterable[Row]) -> list[Row]:
    """Return the vectors of records: two for a text with a space, one for another text, none for a blank one."""
    rows: list[Row] = []
    for record in records:
        text = table.text(record)
        if not text:
            continue
        spans = tuple((n, n + 1) for n in range(2)) if " " in text else (None,)
        made = TextVectors(tuple(sample_vector(f"{text} {n}", 4) for n, _ in enumerate(spans)), spans)
        rows += chunk_rows(table, record, EmbeddedText(1, SIGNATURE.digest, hash_text(text), made))
    return rows


class BusyStorage(MemoryStorage):
    """A storage that others write to during a backup.

    Attributes:
        writes: Batches, one of which is committed before each read of vectors.
    """

    writes: Iterator[Sequence[Write]] = iter(())

    async def get(self, table: Table, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        if table in VECTORS and (batch := next(self.writes, None)):
            await self.commit(batch)
        return await super().get(table, ids, vectors=vectors)


class TestBackups:
    async def fill(self, storage: MemoryStorage) -> dict[str, int]:
        await migrate_up(storage, SIGNATURE)
        for number, table in enumerate(TABLES.values()):
            if table.name != "system_metadata":
                await storage.commit([Insert(table, sample_row(table, f"{table.name}-{n}")) for n in range(number)])
        for table, vectors in zip(EMBEDDED, VECTORS, strict=True):
            rows = vector_rows(table, await storage.find(table))
            await storage.commit([Insert(vectors, row) for row in rows])
        return {table.name: await storage.count(table) for table in (*TABLES.values(), *VECTORS, GENERATIONS)}

    async def test_round_trip(self, storage: MemoryStorage, tmp_path: Path) -> None:
        """A restore into an empty database gives back every record with its vectors."""
        counts = await self.fill(storage)
        seen: list[tuple[str, int]] = []
        assert await back_up(storage, tmp_path / "b", lambda name, rows: seen.append((name, rows))) == counts
        async with MemoryStorage() as empty:
            assert await restore(empty, tmp_path / "b") == counts
            for table in (*TABLES.values(), *VECTORS, GENERATIONS):
                rows = zip(await storage.find(table, vectors=True), await empty.find(table, vectors=True), strict=True)
                for mine, theirs in rows:
                    differ = {name for name in mine if repr(mine[name]) != repr(theirs[name])}
                    # The identity differs, so that no index of the first database is used for the second.
                    assert differ == ({"created_at"} if table.name == "system_metadata" else set())
            assert await migrate_up(empty, SIGNATURE) == MigrationPlan(LATEST, LATEST, ())
            assert OUTBOX.name in await empty.tables()

        assert sum(rows for _, rows in seen) == sum(counts.values())

    async def test_concurrent_writes(self, tmp_path: Path) -> None:
        """Each record in a backup has the vectors of its text, also if others write during the backup."""
        table, vectors = TABLES["memory_blocks"], VECTORS[0]
        records = [sample_row(table, f"m{n}", content=f"text{n}") for n in range(4)]

        def changed(number: int, text: str, **also: object) -> list[Write]:
            records[number] |= {"content": text, "revision": records[number]["revision"] + 1, **also}
            chunks = vector_rows(table, [records[number]])
            ids = [chunk_id(f"m{number}", n) for n in range(3)]
            return [
                Patch(table, f"m{number}", {name: records[number][name] for name in ("content", "revision", *also)}),
                *(Delete(vectors, id) for id in ids),
                *(Insert(vectors, row) for row in chunks),
            ]

        async with BusyStorage() as storage:
            await migrate_up(storage, SIGNATURE)
            await storage.commit([Insert(table, row) for row in records])
            await storage.commit([Insert(vectors, row) for row in vector_rows(table, records)])
            deletions = [Delete(table, "m3"), Delete(vectors, "m3#0000")]
            storage.writes = iter(
                [
                    [*changed(0, "now two"), *changed(1, "text1", agent_id="another"), *deletions],
                    changed(0, "again two"),
                    changed(0, "one"),
                    changed(0, ""),
                ]
            )
            counts = await back_up(storage, tmp_path / "b")

        async with MemoryStorage() as empty:
            await restore(empty, tmp_path / "b")
            found = await empty.find(table)
            assert {row["id"]: row["content"] for row in found} == {"m0": "", "m1": "text1", "m2": "text2"}
            expected = vector_rows(table, found)
            assert repr(await empty.find(vectors, vectors=True)) == repr(sorted(expected, key=lambda row: row["id"]))
        assert (counts["memory_blocks"], counts[vectors.name]) == (3, 2)

    async def test_a_record_without_vectors(self, tmp_path: Path) -> None:
        """A record whose vectors are missing is backed up without them."""
        async with BusyStorage() as storage:
            await migrate_up(storage, SIGNATURE)
            await storage.commit([Insert(TABLES["tasks"], sample_row(TABLES["tasks"], "t"))])

            assert (await back_up(storage, tmp_path / "b"))["tasks"] == 1

    async def test_another_model_becomes_active(self, tmp_path: Path) -> None:
        """A backup during which another model becomes active is an error, and leaves no complete backup."""
        async with BusyStorage() as storage:
            await migrate_up(storage, SIGNATURE)
            await storage.commit([Insert(TABLES["tasks"], sample_row(TABLES["tasks"], "t"))])
            first = (await read_metadata(storage)).in_use
            second = attrs.evolve(first, number=2, revision=0)
            storage.writes = iter(
                [[record_generation(attrs.evolve(first, state="retired")), record_generation(second)]]
            )
            with pytest.raises(StorageError, match="re-embedded meanwhile"):
                await back_up(storage, tmp_path / "b")
            with pytest.raises(StorageError, match="no complete backup"):
                await restore(storage, tmp_path / "b")

    async def test_tables_are_arrow_streams(self, storage: MemoryStorage, tmp_path: Path) -> None:
        """A table in a backup is an Arrow IPC stream."""
        counts = await self.fill(storage)
        await back_up(storage, tmp_path / "b")
        with pa.OSFile(str(tmp_path / "b" / "tasks.arrows"), "rb") as source:
            table = pa.ipc.open_stream(source).read_all()

        assert table.num_rows == counts["tasks"]

    async def test_nothing_is_overwritten(self, storage: MemoryStorage, tmp_path: Path) -> None:
        """A second backup with the same name gets a folder of its own."""
        await self.fill(storage)
        await back_up(storage, tmp_path / "b")
        await back_up(storage, tmp_path / "b")

        assert len(list(tmp_path.iterdir())) == 2

    async def test_incomplete_backups(self, storage: MemoryStorage, tmp_path: Path) -> None:
        """A folder without a manifest, or with another number of rows than in it, is rejected."""
        await self.fill(storage)
        with pytest.raises(StorageError, match="no complete backup"):
            await restore(storage, tmp_path)
        await back_up(storage, tmp_path / "b")
        with pytest.raises(StorageError, match="Restore into a new one"):
            await restore(storage, tmp_path / "b")
        manifest = tmp_path / "b" / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"users": 1', '"users": 2'))
        async with MemoryStorage() as empty:
            with pytest.raises(StorageError, match="manifest says 2"):
                await restore(empty, tmp_path / "b")
