"""Helpers of several benchmarks: random vectors like those of a model, and the median time of a call."""
# ruff: noqa: INP001 - programs in the same folder import it by its name

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["embeddings", "median"]


def embeddings(generator: np.random.Generator, count: int, dimensions: int) -> NDArray[np.float32]:
    """Return random unit vectors like those of a model, clustered by topic; float32 ``[count, dimensions]``."""
    scale = (np.arange(dimensions) + 1) ** -0.5
    topics = 0.7 * generator.standard_normal((200, dimensions)) * scale
    points = topics[generator.integers(0, len(topics), count)] + generator.standard_normal((count, dimensions)) * scale
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points.astype(np.float32)


async def median(work: Callable[[int], Awaitable[object]], times: int) -> float:
    """Return the median time of a call, in ms."""
    durations = []
    for number in range(times):
        began = time.perf_counter()
        await work(number)
        durations.append(time.perf_counter() - began)
    return statistics.median(durations) * 1000
