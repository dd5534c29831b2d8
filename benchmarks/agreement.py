"""Compare the search results of one model across providers: the ten closest paragraphs to each question of the demo.

``python benchmarks/agreement.py [TEXTS]`` compares all-MiniLM-L6-v2 on PyTorch and on ONNX Runtime. If the environment
variable ``PATTERN_INFINITY`` names the program infinity_emb, it also compares the provider ``openai`` with that server.
At the end it embeds the texts twice with a cache, and prints how many texts the model embedded each time.
"""
# ruff: noqa: INP001, T201, S603 - a program that prints and starts another one

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
    """Run an infinity server, and yield its address."""
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


async def closest_texts(embeddings: EmbeddingModel, texts: list[str]) -> list[list[int]]:
    """Return, for each question, the positions of the closest texts, closest first."""
    embedded = await embeddings.embed_documents(texts)
    rows = prepare(np.stack([each.vectors[0] for each in embedded]), "cosine")
    answers = []
    for question in QUESTIONS:
        query = prepare(await embeddings.embed_query(question), "cosine")
        positions, scores = closest(query, rows, "cosine", NEAREST)
        answers.append([int(positions[n]) for n in np.lexsort((positions, -scores))[:NEAREST]])
    return answers


async def main() -> None:
    """Compare the providers and print the results."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else sys.maxsize
    texts = [text for _, text in paragraphs()][:count]
    models = {
        backend: EmbeddingModel(
            functools.partial(pattern_embeddings().open, TorchOptions(model=MODEL, device="cpu", backend=backend))
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
            models["openai"] = EmbeddingModel(functools.partial(openai_plugin.pattern_embeddings().open, options))
        answers = {}
        for name, embeddings in models.items():
            answers[name] = await closest_texts(embeddings, texts)
            await embeddings.aclose()
    print(f"{len(texts):,} texts, {len(QUESTIONS)} questions, the {NEAREST} closest texts of each")
    for name, found in answers.items():
        same = sum(mine == torch for mine, torch in zip(found, answers["torch"], strict=True))
        sets = sum({*mine} == {*torch} for mine, torch in zip(found, answers["torch"], strict=True))
        print(f"{name:8} same texts as torch: {sets} questions; in the same order: {same}")
    with tempfile.TemporaryDirectory() as folder:
        embedded = []
        for _ in range(2):
            cache = VectorCache(Path(folder) / "vectors.sqlite", 1 << 30)
            load = functools.partial(pattern_embeddings().open, TorchOptions(model=MODEL, device="cpu"))
            embeddings = EmbeddingModel(load, cache=cache)
            await embeddings.embed_documents(texts)
            embedded.append(embeddings.embedded)
            await embeddings.aclose()
    print(f"texts embedded in the first run: {embedded[0]:,}; in the second run, with the cache: {embedded[1]:,}")


if __name__ == "__main__":
    asyncio.run(main())
