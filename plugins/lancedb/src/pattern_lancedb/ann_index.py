"""Lance's approximate (ANN) indexes: when one is due, building it, and extending it."""

from __future__ import annotations

from typing import Any, Final, Literal

import attrs
import lancedb
from lancedb.index import IvfFlat, IvfHnswSq, IvfSq

from .database import LanceDatabase
from .engine import engine_errors
from .index_state import ann_key
from .knn import DISTANCES, SearchEffort
from .maintenance import compact
from .manifest import TableEntry
from .snapshot import Snapshot

__all__ = ["AnnIndexes", "AnnSettings"]

_REBUILD_GROWTH: Final = 4
"""An index is rebuilt when its table has grown by this factor: its partitions no longer fit."""
_EXTEND_ROWS: Final = 2048
_EXTEND_SHARE: Final = 10
"""A search compares the rows that the index does not cover one by one. The index is extended by them when they are more
than `_EXTEND_ROWS`, and more than one in `_EXTEND_SHARE`."""
_MAX_EXTENSIONS: Final = 16
"""Each extension is one more part to search; after so many, the index is rebuilt."""


@attrs.frozen(kw_only=True)
class AnnSettings:
    """The settings of approximate indexes and searches.

    Attributes:
        kind: The index: ``ivf-sq`` (a byte for each float), ``ivf-hnsw-sq`` (graphs over those) or ``ivf-flat``.
        exact_rows: Up to so many rows, a search compares all.
        partitions: The number of partitions of the index; None lets Lance decide.
        m: The neighbors that a graph links a vector to.
        ef_construction: The candidates that are considered when a vector is added to a graph.
        effort: The effort of a search.
    """

    kind: Literal["ivf-sq", "ivf-hnsw-sq", "ivf-flat"]
    exact_rows: int
    partitions: int | None
    m: int
    ef_construction: int
    effort: SearchEffort

    def config(self, metric: str, rows: int) -> Any:  # lancedb's types omit IvfSq
        """Return the engine's configuration of an index over so many rows."""
        distance: Any = DISTANCES[metric]
        partitions = None if self.partitions is None else min(self.partitions, rows)
        if self.kind == "ivf-hnsw-sq":
            return IvfHnswSq(distance, partitions, m=self.m, ef_construction=self.ef_construction)
        return (IvfSq if self.kind == "ivf-sq" else IvfFlat)(distance, partitions)


class AnnIndexes:
    """The approximate indexes of a database. Without them, searches are slower and still correct.

    Args:
        database: The database.
        settings: The settings of the indexes.
    """

    def __init__(self, database: LanceDatabase, settings: AnnSettings) -> None:
        self.settings = settings
        self._database = database

    def is_current(self, snapshot: Snapshot, name: str, metric: str) -> bool:
        """Return whether a table has an index with these settings."""
        found = snapshot.state.get(ann_key(name))
        return found is not None and found["of"] == self._identity(snapshot, name, metric)

    async def maintain(self, name: str, column: str, metric: str) -> str:
        """Build or extend the index of a table if that is due.

        Args:
            name: The table.
            column: The column of the vectors.
            metric: The metric.

        Returns:
            ``built``, ``extended``, or an empty text if nothing was due.
        """
        snapshot = await self._database.snapshot()
        if metric not in DISTANCES or name not in snapshot.names:
            return ""
        with engine_errors(f"read the index of {name}"):
            table = await snapshot.table(name)
            rows = await table.count_rows()
            indexes = [each.name for each in await table.list_indices() if each.columns == [column]]
            stats = await table.index_stats(indexes[0]) if indexes else None
        if rows <= self.settings.exact_rows:
            return ""
        if (
            stats is None
            or not self.is_current(snapshot, name, metric)
            or rows > _REBUILD_GROWTH * snapshot.state[ann_key(name)]["rows"]
            or (stats.num_indices or 1) > _MAX_EXTENSIONS
        ):
            await self._build(snapshot, name, column, metric, rows)
            return "built"
        if stats.num_unindexed_rows > max(_EXTEND_ROWS, rows // _EXTEND_SHARE):
            await self._database.maintain_table(name, compact, compacted=True)
            return "extended"
        return ""

    async def _build(self, snapshot: Snapshot, name: str, column: str, metric: str, rows: int) -> None:
        config = self.settings.config(metric, rows)

        async def build(table: lancedb.AsyncTable, _: TableEntry) -> None:
            await table.create_index(column, config=config, replace=True)

        record = {"of": self._identity(snapshot, name, metric), "rows": rows}
        await self._database.maintain_table(name, build, state={ann_key(name): record})

    def _identity(self, snapshot: Snapshot, name: str, metric: str) -> dict[str, Any]:
        """Return the settings that the manifest's state keeps of an index. Their keys are stored names."""
        settings = self.settings
        graph = {"m": settings.m, "ef_construction": settings.ef_construction} if "hnsw" in settings.kind else {}
        lance_name = snapshot.entry(name).lance_name  # a table that is created again has no index
        shape = {"kind": settings.kind, "metric": metric, "parts": settings.partitions, "place": lance_name}
        return {**shape, **graph}
