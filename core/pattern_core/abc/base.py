"""What all contracts share: rows, vectors, health, and resources that have to be closed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import attrs
import numpy as np
from numpy.typing import NDArray

__all__ = ["AsyncResource", "Detail", "Health", "Row", "Vector"]

Row = dict[str, Any]
"""A record's columns by name; the Python value for each is told by `pattern_core.schema.Kind`. Null is None."""

Vector = NDArray[np.float32]
"""A float32 array, shape ``[dimensions]``, finite, not all zeros."""


class AsyncResource(ABC):
    """Something that has to be closed. ``async with`` closes it."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of everything that is held. A second call does nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


Detail = str | int | float | bool
"""A figure or a word that is shown to people."""


@attrs.frozen
class Health:
    """What a part of the system says of itself.

    Attributes:
        ok: Whether it can do its work.
        engine: Its name and version.
        details: Anything worth showing, without secrets.
    """

    ok: bool
    engine: str
    details: Mapping[str, Detail] = attrs.field(factory=dict)
