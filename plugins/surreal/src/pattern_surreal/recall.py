"""How good the answers of an approximate index are: some are compared with the exact ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from .knn import Near, agree

__all__ = ["Recall"]

_WINDOW: Final = 20
_FEWEST: Final = 3
_SLACK: Final = 1e-5
"""By how much, in relation to the distance, the engine's index may differ: it calculates in float32."""


class Recall:
    """The recall of the last answers that were looked at.

    Args:
        least: The share of the true neighbours that the answers have to hold on average.
    """

    def __init__(self, least: float) -> None:
        self._least = least
        self._shares: deque[float] = deque(maxlen=_WINDOW)

    def add(self, found: Sequence[Near], truth: Sequence[Near]) -> None:
        """Compare an answer with the exact one. What is as close as the exact answer's last one counts as found.

        An answer with wrong distances counts as none.
        """
        if truth:
            edge = truth[-1].distance + _SLACK * max(1.0, abs(truth[-1].distance))
            true = {each.id: each.distance for each in truth}
            wrong = any(not agree(each.distance, true[each.id]) for each in found if each.id in true)
            hits = 0 if wrong else sum(each.distance <= edge for each in found)
            self._shares.append(min(1.0, hits / len(truth)))

    @property
    def share(self) -> float | None:
        """The share of true neighbours, on average; None before anything was looked at."""
        return sum(self._shares) / len(self._shares) if self._shares else None

    @property
    def is_low(self) -> bool:
        """Whether it is too low to go on with."""
        return len(self._shares) >= _FEWEST and (self.share or 0.0) < self._least
