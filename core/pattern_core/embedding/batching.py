"""Batches of texts: packed by number and tokens, embedded several at a time, counted as they are done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

from pattern_core.abc import Embedder

from .fitting import Piece

__all__ = ["TextCounter", "pack", "run_concurrently"]

T = TypeVar("T")


class TextCounter:
    """Counts finished texts, each as often as it was given, while their pieces are embedded.

    Args:
        pieces: For each text its pieces.
        counts: For each text how often it was given.
    """

    def __init__(self, pieces: Mapping[str, Collection[str]], counts: Mapping[str, int]) -> None:
        self._counts = counts
        self._missing = {text: len(parts) for text, parts in pieces.items()}
        self._owners: dict[str, list[str]] = {}
        for text, parts in pieces.items():
            for piece in parts:
                self._owners.setdefault(piece, []).append(text)

    def finish(self, pieces: Iterable[str]) -> int:
        """Mark pieces as embedded, each once, and return how many texts are finished by that."""
        done = 0
        for piece in pieces:
            for text in self._owners.get(piece, ()):
                self._missing[text] -= 1
                done += 0 if self._missing[text] else self._counts[text]
        return done


def pack(pieces: Sequence[Piece], embedder: Embedder) -> list[list[Piece]]:
    """Divide pieces into batches that an embedder takes, by number and by tokens. A piece over the limit gets its own.

    Args:
        pieces: The pieces, with their tokens counted if the embedder limits the tokens of a batch.
        embedder: The embedder.

    Returns:
        The batches, in order.
    """
    batches: list[list[Piece]] = []
    most = float("inf") if embedder.max_batch_tokens is None else embedder.max_batch_tokens
    room = 0.0
    for each in pieces:
        if not batches or len(batches[-1]) >= embedder.max_batch or each.tokens > room:
            batches.append([])
            room = most
        batches[-1].append(each)
        room -= each.tokens
    return batches


async def run_concurrently(items: Sequence[T], work: Callable[[T], Awaitable[None]], concurrency: int) -> None:
    """Do work on each item, some at a time. The first failure cancels the others, and is raised when they have ended.

    Args:
        items: The items.
        work: What to do with each.
        concurrency: How many to work on at a time.
    """
    waiting = iter(items)

    async def take() -> None:
        for item in waiting:
            await work(item)

    workers = [asyncio.create_task(take()) for _ in range(min(concurrency, len(items)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
