"""A storage whose process dies at a chosen change."""

from __future__ import annotations

from collections.abc import Sequence

from pattern_core.abc import Write
from pattern_core.schema import SchemaStep
from pattern_core.testing import MemoryData, MemoryStorage

__all__ = ["Death", "Dying"]


class Death(BaseException):
    """Raised where the process dies; no `except Exception` catches it."""


class Dying(MemoryStorage):
    """An in-memory storage whose process dies before a change of its schema or rows.

    Args:
        data: The rows; other storages may share them.
        after: How many changes succeed before the death; None for all.

    Attributes:
        left: How many more changes succeed; negative after the death.
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
