"""Migrations of an in-memory storage."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from pattern_core.abc import Insert, Patch, Row, Signature, Storage
from pattern_core.catalog.metadata import Metadata, read_metadata, record_schema_version
from pattern_core.catalog.tables import EMBEDDING_QUEUE, GENERATIONS, OUTBOX, generation_number, vector_table
from pattern_core.embedding.chunks import hash_text
from pattern_core.errors import MigrationError
from pattern_core.maintenance.backup import restore
from pattern_core.maintenance.migrations.migrate import LATEST, migrate_down, migrate_up, plan_migration
from pattern_core.maintenance.migrations.versions import tables_at
from pattern_core.schema import COMMIT_LOG, EMBEDDED, TABLES, CreateTable
from pattern_core.testing import MemoryData, MemoryStorage, sample_row, sample_vector
from tests.helpers.dying import Death, Dying

pytestmark = pytest.mark.anyio

SIGNATURE = Signature(provider="test", model="m", revision="r", dimensions=4, normalized=True)
VECTORS = tuple(vector_table(table, 1) for table in EMBEDDED)
ALL = {*TABLES, *(table.name for table in (OUTBOX, GENERATIONS, EMBEDDING_QUEUE, COMMIT_LOG, *VECTORS))}


async def set_up_version_2(storage: Storage) -> dict[str, Row]:
    """Set up a database of version 2 with records of each kind; return the rows with vectors, by id."""
    old = tables_at(2)
    for table in (*old.values(), OUTBOX):
        await storage.apply_schema(CreateTable(table, 4))
    await storage.commit([record_schema_version(Metadata(), 2, SIGNATURE)])
    embedded: dict[str, Row] = {}
    for table in EMBEDDED:
        rows = [
            sample_row(old[table.name], f"{table.name} {n}", embedding=sample_vector(f"{n}", 4), embedding_model="m")
            for n in range(3)
        ]
        plain = sample_row(old[table.name], f"{table.name} bare")
        await storage.commit([Insert(old[table.name], row) for row in [*rows, plain]])
        embedded |= {row["id"]: row for row in rows}
    await storage.commit([Insert(TABLES["users"], sample_row(TABLES["users"], "ada"))])
    return embedded


async def check_vectors(storage: Storage, embedded: dict[str, Row]) -> None:
    """Check that all vectors are in separate tables, and the records without them."""
    metadata = await read_metadata(storage)
    tables = {vector_table(table, metadata.in_use.number) for table in EMBEDDED}
    assert {name for name in await storage.tables() if generation_number(name)} == {table.name for table in tables}
    for table in EMBEDDED:
        vectors = vector_table(table, metadata.in_use.number)
        mine = {id: row for id, row in embedded.items() if id.startswith(table.name)}
        found = {row["id"].removesuffix("#0000"): row for row in await storage.find(vectors, vectors=True)}
        assert found.keys() == mine.keys()
        for id, row in found.items():
            assert np.array_equal(row["embedding"], mine[id]["embedding"])
            assert row["partition"] == mine[id][str(table.partition)]
            assert row["text_hash"] == hash_text(table.text(mine[id]))
            assert (row["signature"], row["revision"]) == (SIGNATURE.digest, mine[id]["revision"])
        records = await storage.find(table)
        assert len(records) == 4
        assert all(row.keys() == {column.name for column in table.columns} for row in records)


@pytest.fixture
async def storage() -> AsyncIterator[MemoryStorage]:
    async with MemoryStorage() as storage:
        yield storage


class TestMigrations:
    async def test_up(self, storage: MemoryStorage) -> None:
        """The first migration creates every table and records version and signature; a second does nothing."""
        before = await plan_migration(storage)
        done = await migrate_up(storage, SIGNATURE)
        again = await migrate_up(storage, SIGNATURE)
        metadata = await read_metadata(storage)

        assert [step.version for step in before.pending] == [step.version for step in done.pending] == [1, 2, 3, 4, 5]
        assert again.pending == ()
        assert await storage.tables() == ALL
        assert (metadata.schema_version, metadata.signature, metadata.revision) == (LATEST, SIGNATURE, 1)
        assert metadata.active is not None
        assert (metadata.active.number, metadata.active.signature, metadata.building) == (1, SIGNATURE, None)

    async def test_from_version_1(self, storage: MemoryStorage, tmp_path: Path) -> None:
        """A database of version 1 with records is backed up and migrated; a new one is not backed up."""
        for table in tables_at(1).values():
            await storage.apply_schema(CreateTable(table, 4))
        await storage.commit([record_schema_version(Metadata(), 1, SIGNATURE)])
        await storage.commit([Insert(TABLES["users"], sample_row(TABLES["users"], "ada"))])
        done = await migrate_up(storage, SIGNATURE, backups=tmp_path)
        async with MemoryStorage() as new:
            await migrate_up(new, SIGNATURE, backups=tmp_path / "new")

        assert (done.current, done.target) == (1, LATEST)
        assert await storage.tables() == ALL
        assert await storage.count(TABLES["users"]) == 1
        assert [path.name for path in tmp_path.iterdir()] == ["before-version-2"]

    async def test_vectors_are_moved(self, storage: MemoryStorage, tmp_path: Path) -> None:
        """Vectors of version 2 are moved to separate tables, and the backup contains them."""
        embedded = await set_up_version_2(storage)
        await migrate_up(storage, SIGNATURE, backups=tmp_path)
        await check_vectors(storage, embedded)

        async with MemoryStorage() as again:
            await restore(again, tmp_path / "before-version-3")
            assert (await read_metadata(again)).schema_version == 2
            await migrate_up(again, SIGNATURE)
            await check_vectors(again, embedded)

    async def test_vectors_are_moved_back(self, storage: MemoryStorage) -> None:
        """A downgrade to version 2 moves the vectors back to the records, and an upgrade moves them again."""
        embedded = await set_up_version_2(storage)
        await migrate_up(storage, SIGNATURE)
        await migrate_down(storage, 2)

        old = tables_at(2)
        assert await storage.tables() == {*old, OUTBOX.name}
        for table in EMBEDDED:
            for row in await storage.find(old[table.name], vectors=True):
                expected = embedded.get(row["id"], {"embedding": None, "embedding_model": None})
                assert row["embedding_model"] == expected["embedding_model"]
                assert np.array_equal(row["embedding"], expected["embedding"])
        await migrate_up(storage, SIGNATURE)
        await check_vectors(storage, embedded)

    async def test_killed_while_vectors_are_moved(self) -> None:
        """A migration from version 2 that was killed before any of its changes is completed by the next one."""
        for survived in range(100):
            data: MemoryData = {}
            embedded = await set_up_version_2(MemoryStorage(data))
            dying = Dying(data, survived)
            try:
                await migrate_up(dying, SIGNATURE)
            except Death:
                await migrate_up(MemoryStorage(data), SIGNATURE)
            await check_vectors(MemoryStorage(data), embedded)
            if dying.left >= 0:
                break
        assert survived > 10

    async def test_killed_repeatedly(self) -> None:
        """A migration from version 2 that was killed several times is completed, and leaves no unused table."""
        generator = random.Random(2026)
        for _ in range(100):
            data: MemoryData = {}
            embedded = await set_up_version_2(MemoryStorage(data))
            for _ in range(5):
                with contextlib.suppress(Death):
                    await migrate_up(Dying(data, generator.randrange(30)), SIGNATURE)
            await migrate_up(MemoryStorage(data), SIGNATURE)
            await check_vectors(MemoryStorage(data), embedded)

    async def test_killed_during_a_downgrade(self) -> None:
        """A downgrade that was killed before any of its changes can be completed."""
        for survived in range(100):
            data: MemoryData = {}
            embedded = await set_up_version_2(MemoryStorage(data))
            await migrate_up(MemoryStorage(data), SIGNATURE)
            dying = Dying(data, survived)
            with contextlib.suppress(Death):
                await migrate_down(dying, 2)
            if survived % 2 and (await read_metadata(MemoryStorage(data))).schema_version > 2:
                await migrate_down(MemoryStorage(data), 2)
            await migrate_up(MemoryStorage(data), SIGNATURE)
            await check_vectors(MemoryStorage(data), embedded)
            if dying.left >= 0:
                break
        assert survived > 10

    async def test_downgrade(self, storage: MemoryStorage, tmp_path: Path) -> None:
        """A downgrade to version 0 drops all tables after a backup, and can be followed by an upgrade."""
        await migrate_up(storage, SIGNATURE)
        done = await migrate_down(storage, 0, backups=tmp_path)

        assert (done.current, done.target) == (LATEST, 0)
        assert await storage.tables() == set()
        assert (await read_metadata(storage)).schema_version == 0
        assert (tmp_path / "before-down-to-0" / "manifest.json").is_file()
        await migrate_up(storage, SIGNATURE)
        assert await storage.tables() == ALL

    async def test_unknown_versions(self, storage: MemoryStorage) -> None:
        """An unknown version, a downgrade to the current one or a later one, and a newer database are errors."""
        with pytest.raises(MigrationError, match="no schema version 7"):
            await plan_migration(storage, 7)
        with pytest.raises(MigrationError, match="Choose an earlier one"):
            await migrate_down(storage, 0)
        await migrate_up(storage, SIGNATURE)
        with pytest.raises(MigrationError, match="Choose an earlier one"):
            await migrate_down(storage, LATEST)
        await storage.commit([Patch(TABLES["system_metadata"], "main", {"schema_version": LATEST + 1})])
        with pytest.raises(MigrationError, match=f"version {LATEST + 1}"):
            await migrate_up(storage, SIGNATURE)

    @pytest.mark.parametrize("made", range(len(TABLES) + 1))
    async def test_killed_after_some_tables(self, storage: MemoryStorage, made: int) -> None:
        """A migration that was killed after any of its steps is completed by the next one."""
        for table in list(TABLES.values())[:made]:
            await storage.apply_schema(CreateTable(table, 4))
        assert (await read_metadata(storage)).schema_version == 0
        await migrate_up(storage, SIGNATURE)

        assert await storage.tables() == ALL
        assert (await read_metadata(storage)).schema_version == LATEST

    async def test_records_without_a_version(self, storage: MemoryStorage) -> None:
        """A database with records and without a version, as after an interrupted restore, is rejected."""
        await storage.apply_schema(CreateTable(TABLES["users"], 4))
        await storage.commit([Insert(TABLES["users"], sample_row(TABLES["users"], "ada"))])
        with pytest.raises(MigrationError, match="1 users, but was never set up"):
            await migrate_up(storage, SIGNATURE)

        assert (await read_metadata(storage)).schema_version == 0

    async def test_already_migrated(self) -> None:
        """If another process has migrated the database meanwhile, the version is not recorded again."""
        data: MemoryData = {}
        first, second = MemoryStorage(data), MemoryStorage(data)
        await migrate_up(first, SIGNATURE)
        await migrate_up(second, SIGNATURE)

        assert (await read_metadata(second)).revision == 1
