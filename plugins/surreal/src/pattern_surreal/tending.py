"""The engine's own index on a table's vectors: made in the background, and not asked before it is known to be whole.

The engine makes an index while others write, and says ``ready`` too soon: also where the server was killed while it made
one, and has only a part of it. So what is believed is a note in the database that somebody has seen it whole, after
looking for records in it. And a big index first answers slowly, until the engine has worked what it holds into a graph.
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

from .commit import Transaction
from .connection import StatementError
from .derived import INDEX, State, native_column, note, read_state, state_of
from .dialect import Parameters, name
from .knn import Query, by_index, definition, lacking
from .storage import SurrealStorage

__all__ = ["Tending"]

_LOG: Final = logging.getLogger("pattern_core")
_TENDED_S: Final = 30
"""For how many seconds nobody else takes over an index that somebody makes."""
_FIRST_POLL_S: Final = 0.05
_LAST_POLL_S: Final = 2.0
_SETTLING_S: Final = 15.0
"""How many seconds lie between two looks at an index that answers slowly, at most."""
_QUICK_S: Final = 1.0
"""How long a search may take for the index to be used."""
_SAMPLE: Final = 8
"""How many records are looked for from each end of the table: the engine goes through it in order."""
_SAME: Final = 1e-4
"""How far from itself, in relation to its length, a vector may be found: the index calculates in float32."""
_ATTEMPTS: Final = 3
_BUSY: Final = frozenset({"started", "indexing", "cleaning"})

Status = Literal["making", "settling", "ready", "distrusted"]


class Tending:
    """Sees to the engine's index of one table.

    Args:
        storage: Where the table is.
        spec: What the index is for.
        form: How it is to be defined.
        ef: How many candidates it weighs in a search, at least.

    Attributes:
        status: How far it has come. Only a ``ready`` one is asked.
        reason: Why it is distrusted; empty where it is not.
    """

    def __init__(self, storage: SurrealStorage, spec: IndexSpec, form: str, ef: int) -> None:
        self.status: Status = "making"
        self.reason = ""
        self._storage = storage
        self._spec = spec
        self._form = form
        self._ef = ef
        self._attempts = 0
        self._promised = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """See to it in the background, from now until it is ready; do nothing where that is under way."""
        if self.status != "distrusted" and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run())

    async def wait(self) -> None:
        """Return when nothing is done in the background any more."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def aclose(self) -> None:
        """Leave off. What the engine has begun, it finishes."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def unsettle(self) -> None:
        """Use it no more until it answers quickly again."""
        if self.status == "ready":
            self.status = "settling"
            self.start()

    def distrust(self, reason: str) -> None:
        """Use it no more."""
        self.status, self.reason = "distrusted", reason
        _LOG.warning(
            "The vector index of %s is not used, and searches compare all vectors: %s. "
            "`pattern vectors rebuild` makes it anew.",
            self._spec.table.name,
            reason,
        )

    async def _run(self) -> None:
        try:
            pause = _FIRST_POLL_S
            while self.status == "making" and not await self._step():
                await asyncio.sleep(pause)
                pause = min(_LAST_POLL_S, 1.5 * pause)
            pause = _LAST_POLL_S
            while self.status == "settling" and not await self._is_quick():
                await asyncio.sleep(pause)
                pause = min(_SETTLING_S, 1.5 * pause)
        except PatternError as error:
            # It stays unused. The next search that could use it starts this again.
            _LOG.debug("the vector index of %s is not ready: %s", self._spec.table.name, error)

    async def _step(self) -> bool:
        """Bring it a step on. Return whether nothing is left to be done here."""
        table = self._spec.table.name
        [result] = await self._storage.query(read_state(table))
        state = state_of(result)
        if state is None or not state.filled:
            return False  # somebody makes the column
        if state.index == self._form and state.built:
            self.status = "settling"
            return True
        if state.index != self._form:
            await self._begin(state)
            return False
        status, failure = await self._building()
        if status == "error":
            self.distrust(f"the engine could not make it: {failure}")
            return True
        if status in _BUSY:
            await self._promise(state)
        elif await self._is_whole():
            await self._storage.transact(lambda: Transaction([note(table, attrs.evolve(state, built=True))], {}, []))
        elif not state.tended or self._promised:
            await self._begin(state)
        return self.status == "distrusted"

    async def _begin(self, state: State) -> None:
        """Have the engine make it anew, unless somebody else has just done so."""
        if self._attempts == _ATTEMPTS:
            self.distrust("it lacks vectors, however often it is made")
            return
        table = self._spec.table.name
        claim = note(table, attrs.evolve(state, index=self._form, built=False), tended_s=_TENDED_S)
        unless = "IF $state.tended AND $state.index = $form { THROW 'pattern tended' }"
        statements = (
            [f"LET $state = ({read_state(table).removeprefix('RETURN ')})", unless] if not self._promised else []
        )
        remove = f"REMOVE INDEX IF EXISTS {INDEX} ON {name(table)}"
        try:
            bound = {"form": self._form}
            await self._storage.transact(lambda: Transaction([*statements, claim, remove], bound, []))
            self._promised = time.monotonic()
            self._attempts += 1
            await self._storage.execute(definition(self._spec, self._form))
        except StatementError as error:
            _LOG.debug("somebody else makes the vector index of %s: %s", table, error)

    async def _promise(self, state: State) -> None:
        if self._promised and time.monotonic() - self._promised > _TENDED_S / 3:
            again = note(self._spec.table.name, state, tended_s=_TENDED_S)
            await self._storage.transact(lambda: Transaction([again], {}, []))
            self._promised = time.monotonic()

    async def _building(self) -> tuple[str, str]:
        try:
            [info] = await self._storage.query(f"INFO FOR INDEX {INDEX} ON {name(self._spec.table.name)}")
        except StatementError:  # there is none
            return "", ""
        building = info.get("building") or {}
        return str(building.get("status", "")), str(building.get("error", ""))

    async def _is_whole(self) -> bool:
        """Look for some records in it, by their own vectors, at both ends of the table."""
        sample = await self._sample()
        for vector, row in zip(sample, await self._nearest(sample), strict=True):
            if row is None or lacking([row]) or row["distance"] > _SAME * max(1.0, sum(map(abs, vector))):
                return False
        return True

    async def _is_quick(self) -> bool:
        sample = (await self._sample())[:2]
        began = time.perf_counter()
        await self._nearest(sample)
        if time.perf_counter() - began > _QUICK_S:
            return False
        self.status = "ready"
        return True

    async def _sample(self) -> list[list[float]]:
        at, column = name(self._spec.table.name), name(native_column(self._spec.table))
        ends = [
            f"SELECT `id`, {column} AS vector FROM {at} ORDER BY `id` {order} LIMIT {_SAMPLE}"
            for order in ("ASC", "DESC")
        ]
        found = await self._storage.query(";".join(ends))
        return [list(row["vector"]) for rows in found for row in rows if row["vector"]]

    async def _nearest(self, sample: list[list[float]]) -> list[dict[str, Any] | None]:
        """Return, for each vector, what the index says is the closest record."""
        if not sample:
            return []
        parameters = Parameters()
        queries = [Query(self._spec, vector, (), 1) for vector in sample]
        found = await self._storage.query(
            ";".join(by_index(query, parameters, 1, self._ef) for query in queries), parameters.values
        )
        return [rows[0] if rows else None for rows in found]
