"""A storage whose process dies."""

from __future__ import annotations

from collections.abc import Sequence

from pattern_core.abc import Write
from pattern_core.schema import SchemaStep
from pattern_core.testing import MemoryData, MemoryStorage

__all__ = ["Death", "Dying"]


class Death(BaseException):
    """What a process that dies does not catch."""


class Dying(MemoryStorage):
    """A storage in memory whose process dies before the n-th of its changes.

    Args:
        data: Where to keep the rows.
        after: How many changes it survives; None for all.

    Attributes:
        left: How many changes are left; below 0 it has died.
    """

    def __init__(self, data: MemoryData, after: int | None = None) -> None:
        super().__init__(data)
        self.left: float = float("inf") if after is None else after

    async def apply_schema(self, step: SchemaStep) -> None:
        self._count_down()
        await super().apply_schema(step)

    async def commit(self, batch: Sequence[Write]) -> None:
        self._count_down()
        await super().commit(batch)

    def _count_down(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Death
