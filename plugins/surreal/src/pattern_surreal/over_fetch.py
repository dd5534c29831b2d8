"""Over-fetch: how many neighbors an index over a whole table must return for enough of one partition; it adapts."""

from __future__ import annotations

import attrs

__all__ = ["Partition"]

_FIRST = 4.0
_AT_LEAST = 16
_RESERVE = 1.5
_FORGETTING = 0.97
_COUNT_AGAIN = 50


@attrs.define
class Partition:
    """The statistics of a partition, or of several that are searched together.

    Attributes:
        size: The number of its records; None before the first count.
        factor: The over-fetch: how many neighbors to request for each wanted one.
    """

    size: int | None = None
    factor: float = _FIRST
    _searches: int = 0

    def is_to_be_counted(self) -> bool:
        """Return whether to count the records: at first, and then from time to time. Called in each search."""
        self._searches += 1
        return self._searches % _COUNT_AGAIN == 1

    def first(self, limit: int) -> int:
        """Return how many neighbors to request first."""
        return max(_AT_LEAST, round(self.factor * limit))

    def adapt(self, asked: int, found: int) -> None:
        """Adapt the over-fetch to the share of the partition among the returned neighbors."""
        share = max(found, 1) / asked
        self.factor = max(1.0, (self.factor + _RESERVE / share) / 2 if found else 2 * self.factor)

    def more(self, asked: int, found: int, limit: int) -> int:
        """Return how many neighbors to request next, after too few of them were of the partition."""
        return max(2 * asked, round(_RESERVE * limit * asked / max(found, 1)))

    def forget(self) -> None:
        """Lower the over-fetch a little, so that a partition that was too sparse is tried again when it has grown."""
        self.factor *= _FORGETTING
