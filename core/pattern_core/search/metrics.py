"""Metrics: exact scores of vectors, and the closest rows of a block, in NumPy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pattern_core.abc import Vector
from pattern_core.support.validators import as_unit

__all__ = ["METRICS", "Rows", "closest", "prepare", "score"]

METRICS: Final = frozenset({"cosine", "euclidean", "manhattan"})
_CHUNK_ELEMENTS: Final = 1 << 20
"""The most numbers in a temporary array."""
_ROUNDING: Final = float(np.finfo(np.float32).eps)

Rows = NDArray[np.float32]
"""A float32 array, shape ``[n, dimensions]``."""
_Scores = NDArray[np.float64]


def _chunks(rows: Rows) -> Iterable[Rows]:
    step = max(1, _CHUNK_ELEMENTS // max(1, rows.shape[1]))
    return (rows[start : start + step] for start in range(0, len(rows), step))


def _candidates(rows: Rows, query: Vector, metric: str, limit: int) -> NDArray[np.intp]:
    """Return which rows may be among the closest, computed in float32 with a bound on the rounding error."""
    dimensions = rows.shape[1]
    with np.errstate(over="ignore", invalid="ignore"):
        if metric == "manhattan":
            distances = np.concatenate([np.abs(part - query).sum(axis=1) for part in _chunks(rows)])
            slack = distances * (dimensions * _ROUNDING)
        else:
            products = rows @ query
            squares = np.einsum("ij,ij->i", rows, rows) if metric == "euclidean" else np.float32(1)
            square = query @ query
            distances = squares + square - 2 * products  # for unit vectors, this grows as the cosine falls
            slack = (squares + square) * np.float32((dimensions + 8) * _ROUNDING) + np.float32(1e-30)
            slack = np.broadcast_to(slack, distances.shape)
        usable = np.isfinite(distances)  # an overflow may hide a close row
        slack = np.where(usable, slack, np.inf)
        distances = np.where(usable, distances, 0)
        worst = np.partition(distances + slack, limit - 1)[limit - 1]
        return np.flatnonzero(distances - slack <= worst)


def _scores(rows: Rows, query: Vector, metric: str) -> _Scores:
    """Return the scores of rows, float64 ``[n]``; equal rows have equal scores."""
    wide = query.astype(np.float64)
    parts: list[_Scores] = []
    for part in _chunks(rows):
        if metric == "cosine":
            # Not `@`, since BLAS results for a row depend slightly on its neighbors.
            parts.append(np.clip((part * wide).sum(axis=1), -1, 1))
        elif metric == "euclidean":
            parts.append(0.0 - np.sqrt(np.square(part - wide).sum(axis=1)))
        else:
            parts.append(0.0 - np.abs(part - wide).sum(axis=1))
    return np.concatenate(parts)


def prepare(vectors: Rows, metric: str) -> Rows:
    """Return vectors prepared for `closest`: for the cosine similarity, scaled to length 1.

    Args:
        vectors: A float32 array, shape ``[..., dimensions]``, finite, no vector all zeros.
        metric: ``cosine``, ``euclidean`` or ``manhattan``.

    Returns:
        A float32 array of the same shape.
    """
    return as_unit(vectors) if metric == "cosine" else vectors


def closest(query: Vector, rows: Rows, metric: str, limit: int) -> tuple[NDArray[np.intp], _Scores]:
    """Return the rows closest to a query. Equal rows have equal scores.

    Args:
        query: A float32 array, shape ``[dimensions]``, prepared.
        rows: A float32 array, shape ``[n, dimensions]``, prepared.
        metric: ``cosine``, ``euclidean`` or ``manhattan``.
        limit: How many rows to find, at least 1.

    Returns:
        The positions of the rows, unordered, and their scores, float64. They include the closest rows up to the limit and all
        ties with the last of these.
    """
    if not len(rows):
        return np.empty(0, dtype=np.intp), np.empty(0)
    near = _candidates(rows, query, metric, min(limit, len(rows)))
    return near, _scores(rows[near], query, metric)


def score(query: Vector, vector: Vector, metric: str) -> float:
    """Return the score of two vectors, as a search computes it: the cosine similarity, or the distance times -1.

    Args:
        query: A float32 array, shape ``[dimensions]``.
        vector: A float32 array, shape ``[dimensions]``.
        metric: ``cosine``, ``euclidean`` or ``manhattan``.

    Returns:
        The score; more is closer.
    """
    first, second = prepare(np.stack([query, vector]), metric)
    return float(_scores(second[None], first, metric)[0])
