"""The storage on LanceDB."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Self

import attrs
import lancedb
import pyarrow as pa

from pattern_core.abc import Changes as LoggedChanges
from pattern_core.abc import Detail, Health, Position, Row, Storage, Write
from pattern_core.errors import StorageError, shorten
from pattern_core.filters import Filter
from pattern_core.schema import COMMIT_LOG, AlterTable, CreateTable, DropTable, Order, SchemaStep, Table

from .batch import batch_changes
from .commit_log import newest_position, newest_state, number_rows, recent_changes
from .database import LanceDatabase
from .engine import engine_errors
from .index_state import ann_key, index_key
from .maintenance import Maintenance, MaintenancePolicy
from .record_reader import RecordReader
from .snapshot import Changes, Snapshot, TableDefinition
from .store import Store
from .values import indexed_columns, stored_schema

__all__ = ["LanceStorage"]

_BATCH_ROWS: Final = 4096


class LanceStorage(Storage):
    """Records in LanceDB. `LanceStorage.open` opens the database.

    Args:
        database: The open database, which is closed with the storage.
        policy: When maintenance is due.

    Attributes:
        database: The database. A vector search may share it.
    """

    def __init__(self, database: LanceDatabase, policy: MaintenancePolicy | None = None) -> None:
        self.database = database
        self._reader = RecordReader()
        self._maintenance = Maintenance(database, policy)

    @classmethod
    async def open(cls, store: Store, policy: MaintenancePolicy | None = None) -> Self:
        """Open the database in a store, or create it.

        Args:
            store: The store, which is closed with the storage.
            policy: When maintenance is due.

        Raises:
            DataLossError: Acknowledged data are missing.
            StorageError: The database cannot be opened.
        """
        return cls(await LanceDatabase.open(store), policy)

    async def tables(self) -> frozenset[str]:
        return (await self.database.snapshot()).names

    async def apply_schema(self, step: SchemaStep) -> None:
        async def plan(snapshot: Snapshot) -> Changes:
            match step:
                case CreateTable(table, dimensions) if table.name not in snapshot.names:
                    definition = TableDefinition(stored_schema(table, dimensions), indexed_columns(table))
                    return Changes(create={table.name: definition})
                case DropTable(table) if table.name in snapshot.names:
                    state = newest_state(None) if table.name == COMMIT_LOG.name else {}
                    return Changes(drop=[table.name], state=state)
                case AlterTable():
                    return await self._alter(step, snapshot)
            return Changes()

        await self.database.commit(plan)

    async def _alter(self, step: AlterTable, snapshot: Snapshot) -> Changes:
        """Create the table again with the new columns, and copy the rows."""
        table, new = step.table, stored_schema(step.table, step.dimensions)
        current = await self._reader.schema(snapshot, table)
        if {*current.names} == {*new.names}:
            return Changes()
        kept = [column.name for column in step.before.columns if column.name in new.names]

        async def rows() -> AsyncIterator[pa.Table]:
            async for batch in self._reader.scan(snapshot, step.before, None, kept, _BATCH_ROWS):
                columns = [
                    batch[name] if name in kept else pa.nulls(len(batch), new.field(name).type) for name in new.names
                ]
                yield pa.table(columns, schema=new)

        definition = TableDefinition(new, indexed_columns(table), rows)
        state = {} if table.vector else {index_key(table.name): None, ann_key(table.name): None}
        return Changes(create={table.name: definition}, state=state)

    async def get(self, table: Table, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        snapshot = await self.database.snapshot()
        found = await self._reader.get(snapshot, table, ids, _names(table, vectors=vectors))
        returned: set[str] = set()
        rows: list[Row | None] = []
        for id in ids:  # the caller owns each row, so copy a repeated one
            rows.append(copy.deepcopy(found[id]) if id in returned else found.get(id))
            returned |= {id} & found.keys()
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
        snapshot = await self.database.snapshot()
        names = _names(table, vectors=vectors)
        return await self._reader.find(snapshot, table, where, names, order=order, limit=limit)

    async def count(self, table: Table, where: Filter | None = None) -> int:
        return await self._reader.count(await self.database.snapshot(), table, where)

    async def scan(
        self,
        table: Table,
        where: Filter | None = None,
        *,
        columns: Sequence[str] | None = None,
        batch_rows: int = 1024,
    ) -> AsyncIterator[pa.RecordBatch]:
        snapshot = await self.database.snapshot()
        names = [column.name for column in table.columns] if columns is None else columns
        async for batch in self._reader.scan(snapshot, table, where, names, batch_rows):
            yield batch

    async def commit(self, batch: Sequence[Write]) -> Position | None:
        batch, position = list(batch), None

        async def plan(snapshot: Snapshot) -> Changes:
            nonlocal position
            writes, position = number_rows(snapshot, batch)
            changes = await batch_changes(self._reader, snapshot, writes)
            return changes if position is None else attrs.evolve(changes, state=newest_state(position))

        await self.database.commit(plan)
        return position

    async def changes_since(self, position: Position | None, *, limit: int = 1000) -> LoggedChanges | None:
        snapshot = await self.database.snapshot()
        newest = newest_position(snapshot)
        if position in (None, newest):
            return LoggedChanges((), newest)
        return recent_changes(snapshot, position, limit) or await super().changes_since(position, limit=limit)

    async def maintain(self) -> Mapping[str, Detail]:
        return await self._maintenance.maintain()

    async def health(self) -> Health:
        snapshot = await self.database.snapshot()
        manifest = snapshot.manifest
        versions = fragments = size = 0
        for name in snapshot.names:
            table = await snapshot.table(name)
            with engine_errors(f"read the statistics of {name}"):
                stats: Any = await table.stats()  # lancedb's type is wrong: it is a dict
                versions += len(await table.list_versions())  # type: ignore[no-untyped-call]  # lancedb omits the type
            fragments += stats["fragment_stats"]["num_fragments"]
            size += stats["total_bytes"]
        details: dict[str, Detail] = {
            "path": self.database.store.uri,
            "commits": manifest.commits,
            "fragments": fragments,
            "versions": versions,
            "bytes": size,
            "log_rows": manifest.wal_rows,
            "log_bytes": manifest.wal_bytes,
            "changed_since_compaction": sum(entry.changed_rows for entry in manifest.tables.values()),
        }
        if self._maintenance.failure:
            details["maintenance_failure"] = self._maintenance.failure
        return Health(ok=not self._maintenance.failure, engine=f"LanceDB {lancedb.__version__}", details=details)

    async def execute(self, statement: str, parameters: Mapping[str, Any] | None = None) -> Any:  # noqa: ARG002
        await self.database.snapshot()
        message = f"LanceDB has no query language for {shorten(statement)}. Use its tables: `storage.database`."
        raise StorageError(message)

    async def aclose(self) -> None:
        await self._maintenance.aclose()
        await self.database.aclose()


def _names(table: Table, *, vectors: bool) -> set[str]:
    left_out = table.vector.name if table.vector and not vectors else None
    return {column.name for column in table.columns} - {left_out or ""}
