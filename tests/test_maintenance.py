"""Migrations and backups, over the storage that needs no plugin."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path

import attrs
import numpy as np
import pyarrow as pa
import pytest

from pattern_core.abc import Delete, Insert, Patch, Row, Signature, Storage, Write
from pattern_core.catalog.metadata import Metadata, put_generation, read_metadata, stamp
from pattern_core.catalog.tables import GENERATIONS, OUTBOX, UNEMBEDDED, generation_of, vectors_of
from pattern_core.embedding.chunks import Parts, hash_text, part_id, part_rows
from pattern_core.embedding.model import Embedded
from pattern_core.errors import MigrationError, StorageError
from pattern_core.maintenance.backup import back_up, restore
from pattern_core.maintenance.migrate import LATEST, Plan, migrate_down, migrate_up, plan
from pattern_core.maintenance.versions import tables_at
from pattern_core.schema import EMBEDDED, TABLES, CreateTable, Table
from pattern_core.testing import MemoryData, MemoryStorage, sample_row, sample_vector
from tests.dying import Death, Dying

pytestmark = pytest.mark.anyio

SIGNATURE = Signature(provider="test", model="m", revision="r", dimensions=4, normalized=True)
VECTORS = tuple(vectors_of(table, 1) for table in EMBEDDED)
ALL = {*TABLES, OUTBOX.name, GENERATIONS.name, UNEMBEDDED.name, *(table.name for table in VECTORS)}


async def second_version(storage: Storage) -> dict[str, Row]:
    """Set a database up as version 2 did, with records of each kind; return what had a vector, by id."""
    old = tables_at(2)
    for table in (*old.values(), OUTBOX):
        await storage.apply_schema(CreateTable(table, 4))
    await storage.commit([stamp(Metadata(), 2, SIGNATURE)])
    embedded: dict[str, Row] = {}
    for table in EMBEDDED:
        rows = [
            sample_row(old[table.name], f"{table.name} {n}", embedding=sample_vector(f"{n}", 4), embedding_model="m")
            for n in range(3)
        ]
        bare = sample_row(old[table.name], f"{table.name} bare")
        await storage.commit([Insert(old[table.name], row) for row in [*rows, bare]])
        embedded |= {row["id"]: row for row in rows}
    await storage.commit([Insert(TABLES["users"], sample_row(TABLES["users"], "ada"))])
    return embedded


async def check_vectors(storage: Storage, embedded: dict[str, Row]) -> None:
    """Fail unless all vectors have arrived in tables of their own, and the records are there without them."""
    known = await read_metadata(storage)
    tables = {vectors_of(table, known.in_use.number) for table in EMBEDDED}
    assert {name for name in await storage.tables() if generation_of(name)} == {table.name for table in tables}
    for table in EMBEDDED:
        vectors = vectors_of(table, known.in_use.number)
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
        """The first migration makes every table and records the version and the signature; a second does nothing."""
        before = await plan(storage)
        done = await migrate_up(storage, SIGNATURE)
        again = await migrate_up(storage, SIGNATURE)
        metadata = await read_metadata(storage)

        assert [step.version for step in before.pending] == [step.version for step in done.pending] == [1, 2, 3, 4]
        assert again.pending == ()
        assert await storage.tables() == ALL
        assert (metadata.schema_version, metadata.signature, metadata.revision) == (LATEST, SIGNATURE, 1)
        assert metadata.active is not None
        assert (metadata.active.number, metadata.active.signature, metadata.building) == (1, SIGNATURE, None)

    async def test_from_the_first_version(self, storage: MemoryStorage, tmp_path: Path) -> None:
        """A database of version 1, with records, is backed up and gets what is new; a new one is not backed up."""
        for table in tables_at(1).values():
            await storage.apply_schema(CreateTable(table, 4))
        await storage.commit([stamp(Metadata(), 1, SIGNATURE)])
        await storage.commit([Insert(TABLES["users"], sample_row(TABLES["users"], "ada"))])
        done = await migrate_up(storage, SIGNATURE, backups=tmp_path)
        async with MemoryStorage() as new:
            await migrate_up(new, SIGNATURE, backups=tmp_path / "new")

        assert (done.current, done.target) == (1, LATEST)
        assert await storage.tables() == ALL
        assert await storage.count(TABLES["users"]) == 1
        assert [path.name for path in tmp_path.iterdir()] == ["before-version-2"]

    async def test_vectors_are_carried(self, storage: MemoryStorage, tmp_path: Path) -> None:
        """The vectors that stood beside the records of version 2 stand in tables of their own; the backup has them, too."""
        embedded = await second_version(storage)
        await migrate_up(storage, SIGNATURE, backups=tmp_path)
        await check_vectors(storage, embedded)

        async with MemoryStorage() as again:
            await restore(again, tmp_path / "before-version-3")
            assert (await read_metadata(again)).schema_version == 2
            await migrate_up(again, SIGNATURE)
            await check_vectors(again, embedded)

    async def test_vectors_are_carried_back(self, storage: MemoryStorage) -> None:
        """The way down to version 2 puts the vectors beside the records again, and the way up leads back."""
        embedded = await second_version(storage)
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

    async def test_killed_while_vectors_are_carried(self) -> None:
        """A migration from version 2 that was killed before any of its changes is finished by the next one."""
        for survived in range(100):
            data: MemoryData = {}
            embedded = await second_version(MemoryStorage(data))
            dying = Dying(data, survived)
            try:
                await migrate_up(dying, SIGNATURE)
            except Death:
                await migrate_up(MemoryStorage(data), SIGNATURE)
            await check_vectors(MemoryStorage(data), embedded)
            if dying.left >= 0:
                break
        assert survived > 10

    async def test_killed_again_and_again(self) -> None:
        """However often a migration from version 2 was killed, and wherever, it leaves nothing behind but what is used."""
        dice = random.Random(2026)
        for _ in range(100):
            data: MemoryData = {}
            embedded = await second_version(MemoryStorage(data))
            for _ in range(5):
                with contextlib.suppress(Death):
                    await migrate_up(Dying(data, dice.randrange(30)), SIGNATURE)
            await migrate_up(MemoryStorage(data), SIGNATURE)
            await check_vectors(MemoryStorage(data), embedded)

    async def test_killed_on_the_way_down(self) -> None:
        """A way down that was killed before any of its changes can be gone to its end."""
        for survived in range(100):
            data: MemoryData = {}
            embedded = await second_version(MemoryStorage(data))
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

    async def test_down(self, storage: MemoryStorage, tmp_path: Path) -> None:
        """The way down removes everything, after a backup, and the way up leads back."""
        await migrate_up(storage, SIGNATURE)
        done = await migrate_down(storage, 0, backups=tmp_path)

        assert (done.current, done.target) == (LATEST, 0)
        assert await storage.tables() == set()
        assert (await read_metadata(storage)).schema_version == 0
        assert (tmp_path / "before-down-to-0" / "manifest.json").is_file()
        await migrate_up(storage, SIGNATURE)
        assert await storage.tables() == ALL

    async def test_no_way(self, storage: MemoryStorage) -> None:
        """A version that there is not, a way down that leads nowhere, and a newer database are refused."""
        with pytest.raises(MigrationError, match="no schema version 7"):
            await plan(storage, 7)
        with pytest.raises(MigrationError, match="give an earlier one"):
            await migrate_down(storage, 0)
        await migrate_up(storage, SIGNATURE)
        with pytest.raises(MigrationError, match="give an earlier one"):
            await migrate_down(storage, LATEST)
        await storage.commit([Patch(TABLES["system_metadata"], "main", {"schema_version": LATEST + 1})])
        with pytest.raises(MigrationError, match=f"version {LATEST + 1}"):
            await migrate_up(storage, SIGNATURE)

    @pytest.mark.parametrize("made", range(len(TABLES) + 1))
    async def test_begun_and_killed(self, storage: MemoryStorage, made: int) -> None:
        """A migration that was killed after any step is finished by the next one."""
        for table in list(TABLES.values())[:made]:
            await storage.apply_schema(CreateTable(table, 4))
        assert (await read_metadata(storage)).schema_version == 0
        await migrate_up(storage, SIGNATURE)

        assert await storage.tables() == ALL
        assert (await read_metadata(storage)).schema_version == LATEST

    async def test_records_without_a_stamp(self, storage: MemoryStorage) -> None:
        """A database that holds records and was never set up, as a cut-off restore leaves it, is refused."""
        await storage.apply_schema(CreateTable(TABLES["users"], 4))
        await storage.commit([Insert(TABLES["users"], sample_row(TABLES["users"], "ada"))])
        with pytest.raises(MigrationError, match="1 users and was never set up"):
            await migrate_up(storage, SIGNATURE)

        assert (await read_metadata(storage)).schema_version == 0

    async def test_two_at_once(self) -> None:
        """Where another process has migrated since the plan was made, nothing is stamped twice."""
        data: MemoryData = {}
        first, second = MemoryStorage(data), MemoryStorage(data)
        await migrate_up(first, SIGNATURE)
        await migrate_up(second, SIGNATURE)

        assert (await read_metadata(second)).revision == 1


def vector_rows(table: Table, records: Iterable[Row]) -> list[Row]:
    """Return the vectors of some records: two of each text with a space in it, none of a blank one, else one."""
    rows: list[Row] = []
    for record in records:
        text = table.text(record)
        if not text:
            continue
        spans = tuple((n, n + 1) for n in range(2)) if " " in text else (None,)
        made = Embedded(tuple(sample_vector(f"{text} {n}", 4) for n, _ in enumerate(spans)), spans)
        rows += part_rows(table, record, Parts(1, SIGNATURE.digest, hash_text(text), made))
    return rows


class Busy(MemoryStorage):
    """A storage that others write to while a backup looks away.

    Attributes:
        writes: What they commit, one batch before each look at vectors.
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

    async def test_there_and_back(self, storage: MemoryStorage, tmp_path: Path) -> None:
        """A backup that is read into an empty database gives every record back, vectors and JSON included."""
        counts = await self.fill(storage)
        seen: list[tuple[str, int]] = []
        assert await back_up(storage, tmp_path / "b", lambda name, rows: seen.append((name, rows))) == counts
        async with MemoryStorage() as empty:
            assert await restore(empty, tmp_path / "b") == counts
            for table in (*TABLES.values(), *VECTORS, GENERATIONS):
                rows = zip(await storage.find(table, vectors=True), await empty.find(table, vectors=True), strict=True)
                for mine, theirs in rows:
                    differ = {name for name in mine if repr(mine[name]) != repr(theirs[name])}
                    # Another database: an index of the first must not pass for one of the second.
                    assert differ == ({"created_at"} if table.name == "system_metadata" else set())
            assert await migrate_up(empty, SIGNATURE) == Plan(LATEST, LATEST, ())
            assert OUTBOX.name in await empty.tables()

        assert sum(rows for _, rows in seen) == sum(counts.values())

    async def test_others_write_meanwhile(self, tmp_path: Path) -> None:
        """A record comes with the vectors of the text that it has in the backup, whatever others do while it is made."""
        table, vectors = TABLES["memory_blocks"], VECTORS[0]
        records = [sample_row(table, f"m{n}", content=f"text{n}") for n in range(4)]

        def changed(number: int, text: str, **also: object) -> list[Write]:
            records[number] |= {"content": text, "revision": records[number]["revision"] + 1, **also}
            parts = vector_rows(table, [records[number]])
            ids = [part_id(f"m{number}", part) for part in range(3)]
            return [
                Patch(table, f"m{number}", {name: records[number][name] for name in ("content", "revision", *also)}),
                *(Delete(vectors, id) for id in ids),
                *(Insert(vectors, row) for row in parts),
            ]

        async with Busy() as storage:
            await migrate_up(storage, SIGNATURE)
            await storage.commit([Insert(table, row) for row in records])
            await storage.commit([Insert(vectors, row) for row in vector_rows(table, records)])
            gone = [Delete(table, "m3"), Delete(vectors, "m3#0000")]
            storage.writes = iter(
                [
                    [*changed(0, "now two"), *changed(1, "text1", agent_id="another"), *gone],
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

    async def test_a_record_without_its_vectors(self, tmp_path: Path) -> None:
        """What is broken is backed up as it is, and does not hold up the backup."""
        async with Busy() as storage:
            await migrate_up(storage, SIGNATURE)
            await storage.commit([Insert(TABLES["tasks"], sample_row(TABLES["tasks"], "t"))])

            assert (await back_up(storage, tmp_path / "b"))["tasks"] == 1

    async def test_another_model_takes_over(self, tmp_path: Path) -> None:
        """A backup during which another model took over says so, and leaves nothing that passes for a backup."""
        async with Busy() as storage:
            await migrate_up(storage, SIGNATURE)
            await storage.commit([Insert(TABLES["tasks"], sample_row(TABLES["tasks"], "t"))])
            first = (await read_metadata(storage)).in_use
            second = attrs.evolve(first, number=2, revision=0)
            storage.writes = iter([[put_generation(attrs.evolve(first, state="retired")), put_generation(second)]])
            with pytest.raises(StorageError, match="another embedding model"):
                await back_up(storage, tmp_path / "b")
            with pytest.raises(StorageError, match="no whole backup"):
                await restore(storage, tmp_path / "b")

    async def test_any_arrow_reader_opens_it(self, storage: MemoryStorage, tmp_path: Path) -> None:
        """A table of a backup is an Arrow IPC stream."""
        counts = await self.fill(storage)
        await back_up(storage, tmp_path / "b")
        with pa.OSFile(str(tmp_path / "b" / "tasks.arrows"), "rb") as source:
            table = pa.ipc.open_stream(source).read_all()

        assert table.num_rows == counts["tasks"]

    async def test_nothing_is_overwritten(self, storage: MemoryStorage, tmp_path: Path) -> None:
        """A second backup of the same name goes beside the first."""
        await self.fill(storage)
        await back_up(storage, tmp_path / "b")
        await back_up(storage, tmp_path / "b")

        assert len(list(tmp_path.iterdir())) == 2

    async def test_what_is_no_whole_backup(self, storage: MemoryStorage, tmp_path: Path) -> None:
        """A folder without a manifest, or whose tables do not hold what it says, is refused."""
        await self.fill(storage)
        with pytest.raises(StorageError, match="no whole backup"):
            await restore(storage, tmp_path)
        await back_up(storage, tmp_path / "b")
        with pytest.raises(StorageError, match="Restore into a new one"):
            await restore(storage, tmp_path / "b")
        manifest = tmp_path / "b" / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"users": 1', '"users": 2'))
        async with MemoryStorage() as empty:
            with pytest.raises(StorageError, match="manifest says 2"):
                await restore(empty, tmp_path / "b")
