"""See whether one model gives one answer by whichever provider: the ten closest paragraphs to each question of the demo.

``python benchmarks/agreement.py [TEXTS]`` compares all-MiniLM-L6-v2 on PyTorch with the same on ONNX Runtime, and, where
``PATTERN_INFINITY`` names the program infinity_emb, by the provider ``openai`` from that server. At the end it embeds the
texts again, and says how often the model was asked.
"""
# ruff: noqa: INP001, T201, S603 - a program that prints, and starts another

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "examples"))

from demo import QUESTIONS
from stdlib_docs import paragraphs

from pattern_core.embedding.cache import VectorCache
from pattern_core.embedding.model import EmbeddingModel
from pattern_core.toolkit import closest, prepare
from pattern_torch.plugin import TorchOptions, pattern_embeddings
from pattern_torch.weights import find_model

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
NEAREST = 10


@contextlib.contextmanager
def infinity(program: str) -> Iterator[str]:
    """Run the server, and yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = str(find_model(TorchOptions(model=MODEL)))
    command = [program, "v2", "--model-id", model, "--served-model-name", MODEL, "--host", "127.0.0.1"]
    command += [
        "--port",
        str(port),
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--no-bettertransformer",
        "--engine",
        "torch",
    ]
    quiet = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    with subprocess.Popen(command, env={**os.environ, **quiet}, stderr=subprocess.DEVNULL) as server:
        while server.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                break
        yield f"http://127.0.0.1:{port}"
        server.terminate()


async def nearest(embeddings: EmbeddingModel, texts: list[str]) -> list[list[int]]:
    """Return for each question the places of the closest texts, closest first."""
    found = await embeddings.embed_documents(texts)
    rows = prepare(np.stack([each.vectors[0] for each in found]), "cosine")
    answers = []
    for question in QUESTIONS:
        query = prepare(await embeddings.query(question), "cosine")
        places, scores = closest(query, rows, "cosine", NEAREST)
        answers.append([int(places[at]) for at in np.lexsort((places, -scores))[:NEAREST]])
    return answers


async def main() -> None:
    """Compare."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else sys.maxsize
    texts = [text for _, text in paragraphs()][:count]
    ways = {
        backend: EmbeddingModel(
            functools.partial(pattern_embeddings().open, TorchOptions(model=MODEL, device="cpu", backend=backend))  # type: ignore[arg-type]  # it is checked
        )
        for backend in ("torch", "onnx")
    }
    with contextlib.ExitStack() as stack:
        if program := os.environ.get("PATTERN_INFINITY"):
            from pattern_cloud import openai_plugin

            tokenizer = find_model(TorchOptions(model=MODEL)) / "tokenizer.json"
            options = openai_plugin.OpenAIOptions(
                model=MODEL, base_url=stack.enter_context(infinity(program)), max_tokens=256, tokenizer=tokenizer
            )
            ways["openai"] = EmbeddingModel(functools.partial(openai_plugin.pattern_embeddings().open, options))
        answers = {}
        for name, embeddings in ways.items():
            answers[name] = await nearest(embeddings, texts)
            await embeddings.aclose()
    print(f"{len(texts):,} texts, {len(QUESTIONS)} questions, the {NEAREST} closest")
    for name, found in answers.items():
        same = sum(mine == theirs for mine, theirs in zip(found, answers["torch"], strict=True))
        sets = sum({*mine} == {*theirs} for mine, theirs in zip(found, answers["torch"], strict=True))
        print(f"{name:8} the same texts as torch for {sets} questions, in the same order for {same}")
    with tempfile.TemporaryDirectory() as folder:
        asked = []
        for _ in range(2):
            cache = VectorCache(Path(folder) / "vectors.sqlite", 1 << 30)
            load = functools.partial(pattern_embeddings().open, TorchOptions(model=MODEL, device="cpu"))
            embeddings = EmbeddingModel(load, cache=cache)
            await embeddings.embed_documents(texts)
            asked.append(embeddings.embedded)
            await embeddings.aclose()
    print(f"embedded once: {asked[0]:,} texts; the same again: {asked[1]:,}")


if __name__ == "__main__":
    asyncio.run(main())
