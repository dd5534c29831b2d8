"""How far an index over a whole table has to look for enough records of one partition; learned from its answers."""

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
    """What is known of a partition, or of several that are searched together.

    Attributes:
        size: How many records it has; None where that has not been counted yet.
        factor: How many neighbours the index has to be asked for, to each that is wanted.
    """

    size: int | None = None
    factor: float = _FIRST
    _searches: int = 0

    def is_to_be_counted(self) -> bool:
        """Return whether it is time to count, at first and then every now and then; called in each search."""
        self._searches += 1
        return self._searches % _COUNT_AGAIN == 1

    def first(self, limit: int) -> int:
        """Return how many neighbours to ask for, so that some of the partition will probably be among them."""
        return max(_AT_LEAST, round(self.factor * limit))

    def learn(self, asked: int, found: int) -> None:
        """Take into account how many records of the partition there were among the neighbours asked for."""
        share = max(found, 1) / asked
        self.factor = max(1.0, (self.factor + _RESERVE / share) / 2 if found else 2 * self.factor)

    def more(self, asked: int, found: int, limit: int) -> int:
        """Return how many neighbours to ask for where there were too few records of the partition among them."""
        return max(2 * asked, round(_RESERVE * limit * asked / max(found, 1)))

    def forget(self) -> None:
        """Let it be tried again some time: what was too far once comes closer when the partition grows."""
        self.factor *= _FORGETTING
