"""Lance's own vector indexes: when one is due, making it, and renewing it."""

from __future__ import annotations

from typing import Any, Final, Literal

import attrs
import lancedb
from lancedb.index import IvfFlat, IvfHnswSq, IvfSq

from .head import TableEntry
from .nearest import DISTANCES, Effort
from .tables import Lance, Snapshot, engine_errors
from .upkeep import compact

__all__ = ["Indexes", "Settings", "index_key", "made_key"]

_GROWTH: Final = 4
"""An index is made anew when the table has grown this many times over: its parts no longer fit."""
_STALE_ROWS: Final = 2048
_STALE_SHARE: Final = 10
"""Rows that an index does not know are compared one by one. It takes them in when there are more than `_STALE_ROWS`, and
more than one in so many."""
_MOST_DELTAS: Final = 16
"""Each time that an index takes rows in, a search has one more part to look into; then it is made anew."""


@attrs.frozen(kw_only=True)
class Settings:
    """How to search.

    Attributes:
        kind: The index: ``ivf-sq`` (bytes for floats), ``ivf-hnsw-sq`` (graphs over those) or ``ivf-flat``.
        exact_rows: Among up to so many rows, all are compared.
        parts: How many parts the index has; None for as many as Lance thinks fit.
        m: How many neighbours a graph links a vector to.
        ef_construction: How many candidates are weighed when a vector is added to a graph.
        effort: How hard to look.
    """

    kind: Literal["ivf-sq", "ivf-hnsw-sq", "ivf-flat"]
    exact_rows: int
    parts: int | None
    m: int
    ef_construction: int
    effort: Effort

    def config(self, metric: str, rows: int) -> Any:  # IvfSq is missing from the types that LanceDB says it takes
        """Return what Lance is told to make, for so many rows."""
        distance: Any = DISTANCES[metric]
        parts = None if self.parts is None else min(self.parts, rows)
        if self.kind == "ivf-hnsw-sq":
            return IvfHnswSq(distance, parts, m=self.m, ef_construction=self.ef_construction)
        return (IvfSq if self.kind == "ivf-sq" else IvfFlat)(distance, parts)


class Indexes:
    """The indexes of the tables of a database. Searches are right without them, but slower.

    Args:
        lance: The tables.
        settings: Which indexes they are to have.
    """

    def __init__(self, lance: Lance, settings: Settings) -> None:
        self.settings = settings
        self._lance = lance

    def ready(self, snapshot: Snapshot, name: str, metric: str) -> bool:
        """Return whether a table has the index that the settings ask for."""
        found = snapshot.state.get(index_key(name))
        return found is not None and found["of"] == self._wanted(snapshot, name, metric)

    async def tend(self, name: str, column: str, metric: str) -> str:
        """Make or renew the index of a table if that is due.

        Args:
            name: The table.
            column: The column of its vectors.
            metric: How they are compared.

        Returns:
            ``made``, ``extended``, or nothing where nothing was due.
        """
        snapshot = await self._lance.snapshot()
        if metric not in DISTANCES or name not in snapshot.names:
            return ""
        with engine_errors(f"look at the index of {name}"):
            table = await snapshot.table(name)
            rows = await table.count_rows()
            indexes = [each.name for each in await table.list_indices() if each.columns == [column]]
            stats = await table.index_stats(indexes[0]) if indexes else None
        if rows <= self.settings.exact_rows:
            return ""
        if (
            stats is None
            or not self.ready(snapshot, name, metric)
            or rows > _GROWTH * snapshot.state[index_key(name)]["rows"]
            or (stats.num_indices or 1) > _MOST_DELTAS
        ):
            due = "made"
        elif stats.num_unindexed_rows > max(_STALE_ROWS, rows // _STALE_SHARE):
            due = "extended"
        else:
            return ""
        if due == "extended":
            await self._lance.rework(name, compact, settled=True)
            return due
        config = self.settings.config(metric, rows)

        async def make(table: lancedb.AsyncTable, _: TableEntry) -> None:
            await table.create_index(column, config=config, replace=True)

        record = {"of": self._wanted(snapshot, name, metric), "rows": rows}
        await self._lance.rework(name, make, state={index_key(name): record})
        return due

    def _wanted(self, snapshot: Snapshot, name: str, metric: str) -> dict[str, Any]:
        settings = self.settings
        graph = {"m": settings.m, "ef_construction": settings.ef_construction} if "hnsw" in settings.kind else {}
        place = snapshot.entry(name).place  # a table that is made again has no index
        return {"kind": settings.kind, "metric": metric, "parts": settings.parts, "place": place, **graph}


def index_key(name: str) -> str:
    """Return under what name the head's state holds what is known of a table's index."""
    return f"index/{name}"


def made_key(name: str) -> str:
    """Return under what name the head's state holds what a table's vectors are searched by."""
    return f"vectors/{name}"
