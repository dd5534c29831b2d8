"""Types that all contracts share: rows, vectors, health, closable resources."""

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
"""The columns of a record by name; `pattern_core.schema.Kind` defines their Python values. Null is None."""

Vector = NDArray[np.float32]
"""A float32 array, shape ``[dimensions]``, finite, not all zeros."""


class AsyncResource(ABC):
    """A resource that has to be closed. ``async with`` closes it."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release everything that is held. A second call does nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


Detail = str | int | float | bool
"""A value to show to people."""


@attrs.frozen
class Health:
    """The health of a storage, a vector search or an embedder.

    Attributes:
        ok: Whether it works.
        engine: The engine's name and version.
        details: Further facts to show, without secrets.
    """

    ok: bool
    engine: str
    details: Mapping[str, Detail] = attrs.field(factory=dict)
