"""Recall checks: a sample of an approximate index's answers is compared with the exact ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from .knn import Near, agree

__all__ = ["Recall"]

_WINDOW: Final = 20
_FEWEST: Final = 3
_SLACK: Final = 1e-5
"""The relative difference of distances that the engine's float32 arithmetic may cause."""


class Recall:
    """The average recall of the last checked answers.

    Args:
        least: The least acceptable recall.
    """

    def __init__(self, least: float) -> None:
        self._least = least
        self._shares: deque[float] = deque(maxlen=_WINDOW)

    def add(self, found: Sequence[Near], truth: Sequence[Near]) -> None:
        """Compare an answer with the exact one. A match as close as the last exact one counts as found.

        An answer with wrong distances counts as empty.
        """
        if truth:
            edge = truth[-1].distance + _SLACK * max(1.0, abs(truth[-1].distance))
            true = {each.id: each.distance for each in truth}
            wrong = any(not agree(each.distance, true[each.id]) for each in found if each.id in true)
            hits = 0 if wrong else sum(each.distance <= edge for each in found)
            self._shares.append(min(1.0, hits / len(truth)))

    @property
    def share(self) -> float | None:
        """The average recall; None before the first check."""
        return sum(self._shares) / len(self._shares) if self._shares else None

    @property
    def is_low(self) -> bool:
        """Whether the recall is too low."""
        return len(self._shares) >= _FEWEST and (self.share or 0.0) < self._least
