"""`pattern_core.abc.Storage` on LanceDB."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Self

import pyarrow as pa

from pattern_core.abc import Detail, Health, Row, Storage, Write
from pattern_core.errors import StorageError, shorten
from pattern_core.filters import Filter
from pattern_core.schema import AlterTable, CreateTable, DropTable, Order, SchemaStep, Table

from .batch import decide
from .index import index_key, made_key
from .place import Place
from .reading import Reader
from .tables import Changes, Definition, Lance, Snapshot, engine_errors
from .upkeep import Policy, Upkeep
from .values import indexed_columns, stored_schema

__all__ = ["LanceStorage"]

_ROWS: Final = 4096


class LanceStorage(Storage):
    """Records in LanceDB. `LanceStorage.open` makes one.

    Args:
        lance: The open tables.
        policy: When upkeep is due.

    Attributes:
        lance: The tables, which a vector search may work on as well.
    """

    def __init__(self, lance: Lance, policy: Policy | None = None) -> None:
        self.lance = lance
        self._reader = Reader()
        self._upkeep = Upkeep(lance, policy)

    @classmethod
    async def open(cls, place: Place, policy: Policy | None = None) -> Self:
        """Open the database in a place, new or existing.

        Args:
            place: The place, which is closed with the storage.
            policy: When upkeep is due.

        Raises:
            DataLossError: It lacks what was acknowledged.
            StorageError: It cannot be opened.
        """
        return cls(await Lance.open(place), policy)

    async def tables(self) -> frozenset[str]:
        return (await self.lance.snapshot()).names

    async def apply_schema(self, step: SchemaStep) -> None:
        async def plan(snapshot: Snapshot) -> Changes:
            match step:
                case CreateTable(table, dimensions) if table.name not in snapshot.names:
                    definition = Definition(stored_schema(table, dimensions), indexed_columns(table))
                    return Changes(create={table.name: definition})
                case DropTable(table) if table.name in snapshot.names:
                    return Changes(drop=[table.name])
                case AlterTable():
                    return await self._alter(step, snapshot)
            return Changes()

        await self.lance.commit(plan)

    async def _alter(self, step: AlterTable, snapshot: Snapshot) -> Changes:
        """Make the table again, with the columns that it shall have and what it holds of them."""
        table, wanted = step.table, stored_schema(step.table, step.dimensions)
        there = await self._reader.schema(snapshot, table)
        if {*there.names} == {*wanted.names}:
            return Changes()
        kept = [column.name for column in step.before.columns if column.name in wanted.names]

        async def rows() -> AsyncIterator[pa.Table]:
            async for batch in self._reader.scan(snapshot, step.before, None, kept, _ROWS):
                columns = [
                    batch[name] if name in kept else pa.nulls(len(batch), wanted.field(name).type)
                    for name in wanted.names
                ]
                yield pa.table(columns, schema=wanted)

        definition = Definition(wanted, indexed_columns(table), rows)
        state = {} if table.vector else {made_key(table.name): None, index_key(table.name): None}
        return Changes(create={table.name: definition}, state=state)

    async def get(self, table: Table, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        snapshot = await self.lance.snapshot()
        found = await self._reader.get(snapshot, table, ids, _names(table, vectors=vectors))
        given: set[str] = set()
        rows: list[Row | None] = []
        for id in ids:  # each row belongs to the caller, so a repeated one is copied
            rows.append(copy.deepcopy(found[id]) if id in given else found.get(id))
            given |= {id} & found.keys()
        return rows

    async def find(
        self,
        table: Table,
        where: Filter | None = None,
        *,
        order: Sequence[Order] = (),
        limit: int | None = None,
        vectors: bool = False,
    ) -> list[Row]:
        snapshot = await self.lance.snapshot()
        names = _names(table, vectors=vectors)
        return await self._reader.find(snapshot, table, where, names, order=order, limit=limit)

    async def count(self, table: Table, where: Filter | None = None) -> int:
        return await self._reader.count(await self.lance.snapshot(), table, where)

    async def scan(
        self,
        table: Table,
        where: Filter | None = None,
        *,
        columns: Sequence[str] | None = None,
        batch_rows: int = 1024,
    ) -> AsyncIterator[pa.RecordBatch]:
        snapshot = await self.lance.snapshot()
        names = [column.name for column in table.columns] if columns is None else columns
        async for batch in self._reader.scan(snapshot, table, where, names, batch_rows):
            yield batch

    async def commit(self, batch: Sequence[Write]) -> None:
        writes = list(batch)
        await self.lance.commit(lambda snapshot: decide(self._reader, snapshot, writes))

    async def foreign_commits(self) -> int:
        return await self.lance.foreign_commits()

    async def maintain(self) -> Mapping[str, Detail]:
        return await self._upkeep.maintain()

    async def health(self) -> Health:
        import lancedb

        snapshot = await self.lance.snapshot()
        head = snapshot.head
        versions = fragments = size = 0
        for name in snapshot.names:
            table = await snapshot.table(name)
            with engine_errors(f"ask for the state of {name}"):
                stats: Any = await table.stats()  # lancedb's types are wrong here: it is a dict
                versions += len(await table.list_versions())  # type: ignore[no-untyped-call]  # see `stats`
            fragments += stats["fragment_stats"]["num_fragments"]
            size += stats["total_bytes"]
        details: dict[str, Detail] = {
            "path": self.lance.place.uri,
            "commits": head.commits,
            "fragments": fragments,
            "versions": versions,
            "bytes": size,
            "log_rows": sum(each.rows for each in head.log),
            "log_bytes": sum(each.size for each in head.log),
            "changed_since_compaction": sum(entry.changed for entry in head.tables.values()),
        }
        if self._upkeep.failure:
            details["upkeep_failure"] = self._upkeep.failure
        return Health(ok=not self._upkeep.failure, engine=f"LanceDB {lancedb.__version__}", details=details)

    async def execute(self, statement: str, parameters: Mapping[str, Any] | None = None) -> Any:  # noqa: ARG002
        await self.lance.snapshot()
        message = f"LanceDB has no language to run {shorten(statement)} in; work with its tables: `storage.lance`"
        raise StorageError(message)

    async def aclose(self) -> None:
        await self._upkeep.aclose()
        await self.lance.aclose()


def _names(table: Table, *, vectors: bool) -> set[str]:
    left_out = table.vector.name if table.vector and not vectors else None
    return {column.name for column in table.columns} - {left_out or ""}
