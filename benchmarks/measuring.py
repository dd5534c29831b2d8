"""What several benchmarks need: vectors as a model makes them, and how long a call takes."""
# ruff: noqa: INP001 - beside programs, which import it by its name

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["embeddings", "median"]


def embeddings(dice: np.random.Generator, count: int, dimensions: int) -> NDArray[np.float32]:
    """Return vectors as a model makes them: topics, and a spectrum that falls; float32 ``[count, dimensions]``."""
    scale = (np.arange(dimensions) + 1) ** -0.5
    topics = 0.7 * dice.standard_normal((200, dimensions)) * scale
    points = topics[dice.integers(0, len(topics), count)] + dice.standard_normal((count, dimensions)) * scale
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points.astype(np.float32)


async def median(work: Callable[[int], Awaitable[object]], times: int) -> float:
    """Return the median time of a call, in milliseconds."""
    taken = []
    for number in range(times):
        began = time.perf_counter()
        await work(number)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000
