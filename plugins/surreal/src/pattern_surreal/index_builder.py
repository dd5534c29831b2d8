"""Builds the engine's index of a table in the background, and tells when it can be used.

The engine builds an index while others write, and reports ``ready`` too early: also if the server was killed during the
build, and holds only a part of it. So a process first finds sample records in it, then records in the database that the
index is complete. A large index is slow at first, until the engine has linked its vectors.
"""

# ruff: noqa: S608 - the names in the statements come from the schema, and every value is bound

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Final, Literal

import attrs

from pattern_core.abc import IndexSpec
from pattern_core.errors import PatternError

from .array_column import INDEX, State, array_column, read_state, set_state, state_of
from .commit import Transaction
from .connection import StatementError
from .dialect import Parameters, name
from .knn import Query, by_index, definition, lacking
from .storage import SurrealStorage

__all__ = ["IndexBuilder"]

_LOG: Final = logging.getLogger("pattern_core")
_CLAIM_S: Final = 30
"""For how many seconds a process claims to build an index."""
_FIRST_POLL_S: Final = 0.05
_LAST_POLL_S: Final = 2.0
_WARMING_S: Final = 15.0
"""The longest pause between two measurements of a slow index, in seconds."""
_FAST_S: Final = 1.0
"""The longest search, in seconds, with which the index counts as fast."""
_SAMPLE: Final = 8
"""How many records are searched from each end of the table: the engine indexes it in order."""
_SAME: Final = 1e-4
"""The relative distance from itself at which a vector may be found: the index uses float32."""
_ATTEMPTS: Final = 3
_BUSY: Final = frozenset({"started", "indexing", "cleaning"})

Status = Literal["building", "warming", "ready", "distrusted"]


class IndexBuilder:
    """Builds the engine's index of one table.

    Args:
        storage: The storage.
        spec: The spec of the index.
        form: The definition of the engine's index.
        ef: The fewest candidates that it considers in a search.

    Attributes:
        status: The progress. Only a ``ready`` index is used.
        reason: Why the index is distrusted; empty if it is not.
    """

    def __init__(self, storage: SurrealStorage, spec: IndexSpec, form: str, ef: int) -> None:
        self.status: Status = "building"
        self.reason = ""
        self._storage = storage
        self._spec = spec
        self._form = form
        self._ef = ef
        self._attempts = 0
        self._claimed_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Build the index in the background until it is ready; do nothing if that is running."""
        if self.status != "distrusted" and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run())

    async def wait(self) -> None:
        """Wait for the work in the background."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def aclose(self) -> None:
        """Stop. The engine finishes a build that it has begun."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def warm_up(self) -> None:
        """Do not use the index until it is fast again."""
        if self.status == "ready":
            self.status = "warming"
            self.start()

    def distrust(self, reason: str) -> None:
        """Do not use the index any more."""
        self.status, self.reason = "distrusted", reason
        _LOG.warning(
            "The vector index of %s is not used, and searches compare all vectors: %s. "
            "`pattern vectors rebuild` rebuilds it.",
            self._spec.table.name,
            reason,
        )

    async def _run(self) -> None:
        try:
            pause = _FIRST_POLL_S
            while self.status == "building" and not await self._step():
                await asyncio.sleep(pause)
                pause = min(_LAST_POLL_S, 1.5 * pause)
            pause = _LAST_POLL_S
            while self.status == "warming" and not await self._is_fast():
                await asyncio.sleep(pause)
                pause = min(_WARMING_S, 1.5 * pause)
        except PatternError as error:
            # The next search that could use it starts this again.
            _LOG.debug("the vector index of %s is not ready: %s", self._spec.table.name, error)

    async def _step(self) -> bool:
        """Do one step, and return whether the build is done."""
        table = self._spec.table.name
        [result] = await self._storage.query(read_state(table))
        state = state_of(result)
        if state is None or not state.filled:
            return False  # a process is filling the column
        if state.index == self._form and state.built:
            self.status = "warming"
            return True
        if state.index != self._form:
            await self._begin(state)
            return False
        status, failure = await self._building()
        if status == "error":
            self.distrust(f"the engine could not build it: {failure}")
            return True
        if status in _BUSY:
            await self._renew_claim(state)
        elif await self._is_complete():
            await self._storage.transact(
                lambda: Transaction([set_state(table, attrs.evolve(state, built=True))], {}, [])
            )
        elif not state.claimed or self._claimed_at:
            await self._begin(state)
        return self.status == "distrusted"

    async def _begin(self, state: State) -> None:
        """Make the engine build it, unless another process has just begun to."""
        if self._attempts == _ATTEMPTS:
            self.distrust(f"it lacks vectors after {_ATTEMPTS} builds")
            return
        table = self._spec.table.name
        claim = set_state(table, attrs.evolve(state, index=self._form, built=False), claim_s=_CLAIM_S)
        unless = "IF $state.claimed AND $state.index = $form { THROW 'pattern claimed' }"
        statements = (
            [f"LET $state = ({read_state(table).removeprefix('RETURN ')})", unless] if not self._claimed_at else []
        )
        remove = f"REMOVE INDEX IF EXISTS {INDEX} ON {name(table)}"
        try:
            bound = {"form": self._form}
            await self._storage.transact(lambda: Transaction([*statements, claim, remove], bound, []))
            self._claimed_at = time.monotonic()
            self._attempts += 1
            await self._storage.execute(definition(self._spec, self._form))
        except StatementError as error:
            _LOG.debug("another process builds the vector index of %s: %s", table, error)

    async def _renew_claim(self, state: State) -> None:
        if self._claimed_at and time.monotonic() - self._claimed_at > _CLAIM_S / 3:
            again = set_state(self._spec.table.name, state, claim_s=_CLAIM_S)
            await self._storage.transact(lambda: Transaction([again], {}, []))
            self._claimed_at = time.monotonic()

    async def _building(self) -> tuple[str, str]:
        try:
            [info] = await self._storage.query(f"INFO FOR INDEX {INDEX} ON {name(self._spec.table.name)}")
        except StatementError:  # there is no index
            return "", ""
        building = info.get("building") or {}
        return str(building.get("status", "")), str(building.get("error", ""))

    async def _is_complete(self) -> bool:
        """Search for sample records from both ends of the table, by their own vectors."""
        sample = await self._sample()
        for vector, row in zip(sample, await self._nearest(sample), strict=True):
            if row is None or lacking([row]) or row["distance"] > _SAME * max(1.0, sum(map(abs, vector))):
                return False
        return True

    async def _is_fast(self) -> bool:
        sample = (await self._sample())[:2]
        began = time.perf_counter()
        await self._nearest(sample)
        if time.perf_counter() - began > _FAST_S:
            return False
        self.status = "ready"
        return True

    async def _sample(self) -> list[list[float]]:
        at, column = name(self._spec.table.name), name(array_column(self._spec.table))
        ends = [
            f"SELECT `id`, {column} AS vector FROM {at} ORDER BY `id` {order} LIMIT {_SAMPLE}"
            for order in ("ASC", "DESC")
        ]
        found = await self._storage.query(";".join(ends))
        return [list(row["vector"]) for rows in found for row in rows if row["vector"]]

    async def _nearest(self, sample: list[list[float]]) -> list[dict[str, Any] | None]:
        """Return the closest record of each vector, according to the index."""
        if not sample:
            return []
        parameters = Parameters()
        queries = [Query(self._spec, vector, (), 1) for vector in sample]
        found = await self._storage.query(
            ";".join(by_index(query, parameters, 1, self._ef) for query in queries), parameters.values
        )
        return [rows[0] if rows else None for rows in found]
