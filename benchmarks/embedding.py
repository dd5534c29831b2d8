"""Compare the speed of embedding with pattern-core and with ``SentenceTransformer.encode``, for the same texts.

``python benchmarks/embedding.py [TEXTS [ROUNDS [BACKEND …]]]``. Compare ratios, not absolute numbers; above 1 is faster
than the library alone.
"""
# ruff: noqa: INP001, T201 - a program that prints

from __future__ import annotations

import asyncio
import functools
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "examples"))

from sentence_transformers import SentenceTransformer
from stdlib_docs import paragraphs

from pattern_core.embedding.model import EmbeddingModel
from pattern_torch.plugin import TorchOptions, pattern_embeddings
from pattern_torch.weights import find_model

MODEL = "sentence-transformers/all-MiniLM-L6-v2"


async def main() -> None:
    """Measure alternately, so that other load on the machine affects all variants, and print medians."""
    count, rounds = (int(each) for each in (*sys.argv[1:3], *("256", "5")[len(sys.argv[1:3]) :]))
    texts = [text for _, text in paragraphs()]
    texts = texts[:: max(1, len(texts) // count)][:count]
    library = SentenceTransformer(str(find_model(TorchOptions(model=MODEL))), device="cpu", local_files_only=True)

    async def encode() -> None:
        library.encode(texts, normalize_embeddings=True, show_progress_bar=False)

    variants: dict[str, Callable[[], Awaitable[Any]]] = {"library": encode}
    opened = []
    for backend in sys.argv[3:] or ["torch"]:
        options = TorchOptions(model=MODEL, device="cpu", backend=backend)  # type: ignore[arg-type]  # a valid backend
        embeddings = EmbeddingModel(functools.partial(pattern_embeddings().open, options))
        opened.append(embeddings)
        variants[backend] = functools.partial(embeddings.embed_documents, texts)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, embed in variants.items():
            began = time.perf_counter()
            await embed()
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - began)
    for embeddings in opened:
        await embeddings.aclose()
    print(f"{len(texts):,} texts, median of {rounds} rounds")
    for name, each in times.items():
        ratio = statistics.median(a / b for a, b in zip(times["library"], each, strict=True))
        print(f"{name:10}{len(texts) / statistics.median(each):10,.1f} texts/s{ratio:8.2f}x")


if __name__ == "__main__":
    asyncio.run(main())
