"""ONNX Runtime and OpenVINO instead of PyTorch, other number types than float32, several devices."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from pattern_core.errors import ConfigError, EmbeddingError, ValidationError
from pattern_core.testing import EmbedderContract
from pattern_torch.embedder import TorchEmbedder
from pattern_torch.options import Backend, Dtype, TorchOptions
from pattern_torch.plugin import pattern_embeddings

NEEDS: Final = {"onnx": ("onnxscript", "onnxruntime"), "openvino": ("onnxscript", "openvino")}
ENGINES: Final = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            any(importlib.util.find_spec(part) is None for part in parts),
            reason=f'the backend is not installed: pip install "pattern-core-torch[{name}]"',
        ),
    )
    for name, parts in NEEDS.items()
]
EXAMPLES: Final = Path(__file__).parents[3] / "docs" / "examples"
QUESTIONS: Final = (
    "How do I write a file so that a crash never leaves half of it?",
    "send an e-mail with an attachment",
    "run a function in another thread and wait for its result",
    "parse a date with a time zone",
    "the median of some numbers",
)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for ONNX files, which all tests share."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("backend", ENGINES, scope="class")
class TestKit(EmbedderContract):
    """The contract, with each engine."""

    spec = pattern_embeddings()

    @pytest.fixture
    def options(self, minilm: str, cache_dir: Path, backend: Backend) -> TorchOptions:
        """The real model, with an engine."""
        return TorchOptions(model=minilm, backend=backend, cache_dir=cache_dir)


class TestTwoDevices(EmbedderContract):
    """The contract, with two copies of the model."""

    spec = pattern_embeddings()

    @pytest.fixture
    def options(self, minilm: str) -> TorchOptions:
        """The real model, twice on the CPU."""
        return TorchOptions(model=minilm, device=["cpu", "cpu"])


@pytest.mark.anyio
@pytest.mark.parametrize("backend", ENGINES)
class TestEngines:
    """Each engine makes the same vectors from the same weights."""

    async def test_the_same_vectors_and_the_same_answers(
        self, minilm: str, cache_dir: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On 300 paragraphs all numbers agree to 1e-5, questions find the same ten answers, and signatures are equal."""
        monkeypatch.syspath_prepend(str(EXAMPLES))
        paragraphs = pytest.importorskip("stdlib_docs", reason="the examples are not here").paragraphs
        texts = [text for _, text in paragraphs()]
        texts = texts[:: len(texts) // 300][:300]
        found, top, signatures = [], [], []
        backends: tuple[Backend, ...] = ("torch", backend)
        for each in backends:
            options = TorchOptions(model=minilm, device="cpu", backend=each, cache_dir=cache_dir)
            async with await TorchEmbedder.open(options) as embedder:
                vectors = np.concatenate([await embedder.embed_documents(texts[n : n + 50]) for n in range(0, 300, 50)])
                queries = np.array([await embedder.embed_query(question) for question in QUESTIONS])
                signatures.append(embedder.signature)
            found.append(vectors)
            top.append(np.argsort(-(queries @ vectors.T), axis=1)[:, :10])
        assert np.abs(found[0] - found[1]).max() < 1e-5
        assert np.array_equal(top[0], top[1])
        assert signatures[0] == signatures[1]

    @pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta"])
    async def test_architectures_of_bert(self, tiny_model: Callable[[str], Path], kind: str, backend: Backend) -> None:
        """Texts of any length and number, also over the token limit, get PyTorch's vectors."""
        folder = tiny_model(kind)
        texts = ["tea", "coffee in the morning train", "tea " * 30, "search " * 100]
        options = TorchOptions(model=str(folder), device="cpu")
        async with await TorchEmbedder.open(options) as tiny:
            expected = await tiny.embed_documents(texts)
        options = TorchOptions(model=str(folder), backend=backend, cache_dir=folder.parent, threads=1)
        async with await TorchEmbedder.open(options) as tiny:
            assert np.abs(await tiny.embed_documents(texts) - expected).max() < 1e-5
            assert np.abs(await tiny.embed_query(texts[0]) - expected[0]).max() < 1e-5
            assert tiny.signature.max_tokens == (39 if kind == "roberta" else 40)

    async def test_a_file_is_exported_once_and_replaced_if_it_is_broken(
        self, tiny_model: Callable[[str], Path], tmp_path: Path, backend: Backend
    ) -> None:
        """The ONNX file is in cache_dir, outside the model's folder; an incomplete file is replaced."""
        folder = tiny_model("bert")
        before = set(folder.rglob("*"))
        options = TorchOptions(model=str(folder), backend=backend, cache_dir=tmp_path / "cache")
        async with await TorchEmbedder.open(options) as tiny:
            expected = await tiny.embed_query("tea")
        (file,) = (tmp_path / "cache").rglob("model.onnx")
        assert [each.name for each in file.parent.parent.iterdir()] == [file.parent.name], "no temporary files are left"
        made = file.stat().st_mtime_ns
        await (await TorchEmbedder.open(options)).aclose()
        assert file.stat().st_mtime_ns == made
        file.write_bytes(file.read_bytes()[:100])
        async with await TorchEmbedder.open(options) as tiny:
            assert np.allclose(await tiny.embed_query("tea"), expected, atol=1e-6)
        assert file.stat().st_size > 100
        assert set(folder.rglob("*")) == before

    async def test_other_weights_get_another_file(
        self, tiny_model: Callable[[str], Path], tmp_path: Path, backend: Backend
    ) -> None:
        """After a change of the weights under one name, the file of the old weights is not used."""
        import torch
        from safetensors.torch import load_file, save_file

        folder = tiny_model("bert")
        options = TorchOptions(model=str(folder), backend=backend, cache_dir=tmp_path / "cache")
        async with await TorchEmbedder.open(options) as tiny:
            first, old = await tiny.embed_query("tea"), tiny.signature
        weights = load_file(folder / "model.safetensors")
        weights["embeddings.word_embeddings.weight"] += torch.linspace(0, 1, 32)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        async with await TorchEmbedder.open(options) as tiny:
            assert np.abs(await tiny.embed_query("tea") - first).max() > 1e-3
            assert tiny.signature != old

    async def test_a_file_that_cannot_be_written_is_a_clear_error(
        self, tiny_model: Callable[[str], Path], tmp_path: Path, backend: Backend
    ) -> None:
        """If the file cannot be written, the error names the ways out."""
        (tmp_path / "cache").write_text("a file, no folder")
        options = TorchOptions(model=str(tiny_model("bert")), backend=backend, cache_dir=tmp_path / "cache")
        with pytest.raises(EmbeddingError, match=r'backend = "torch".*cache_dir'):
            await TorchEmbedder.open(options)


@pytest.mark.anyio
class TestMissingEngines:
    """The error for a missing engine names it."""

    @pytest.mark.parametrize("backend", ["onnx", "openvino"])
    async def test_the_extra_is_named(
        self, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, backend: Backend
    ) -> None:
        """The error for a missing engine names the extra that installs it."""
        for part in NEEDS[backend]:
            monkeypatch.setitem(sys.modules, part, None)  # an import fails then, as if it were not installed
        with pytest.raises(ConfigError, match=rf"pattern-core-torch\[{backend}\]") as caught:
            await TorchEmbedder.open(TorchOptions(model=str(tiny_model("bert")), backend=backend))
        assert caught.value.key == "embeddings.backend"


class TestOptions:
    """Options that conflict are rejected before anything is loaded."""

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"backend": "onnx", "device": "cuda"}, "device"),
            ({"backend": "openvino", "device": ["cpu", "cuda"]}, "device"),
            ({"backend": "onnx", "dtype": "bfloat16"}, "dtype"),
            ({"device": []}, "device"),
            ({"device": ["cpu", " "]}, "device"),
        ],
    )
    def test_conflicting_options_are_named(self, given: dict[str, Any], field: str) -> None:
        """The error names the option that does not fit."""
        with pytest.raises(ValidationError) as caught:
            TorchOptions(**given)
        assert caught.value.field is not None
        assert caught.value.field.startswith(field)

    @pytest.mark.parametrize("given", [{"backend": "candle"}, {"dtype": "int8"}])
    def test_unknown_choices_are_rejected(self, given: dict[str, Any]) -> None:
        """An unknown backend or number type is an error."""
        with pytest.raises(ValueError, match="must be in"):
            TorchOptions(**given)


@pytest.mark.anyio
class TestDtype:
    """Another number type makes other vectors, under another signature, or is rejected."""

    async def test_float16_is_rejected_on_a_cpu(self, tiny_model: Callable[[str], Path]) -> None:
        """A CPU is several times slower in float16 than in float32, so the error names an alternative."""
        with pytest.raises(ConfigError, match="bfloat16") as caught:
            await TorchEmbedder.open(TorchOptions(model=str(tiny_model("bert")), device="cpu", dtype="float16"))
        assert caught.value.key == "embeddings.dtype"

    async def test_bfloat16_is_another_signature(self, minilm: str) -> None:
        """Vectors differ from those of float32 by more than rounding, have length 1, and another signature."""
        texts = ["tea after lunch", "the night train to Oslo"]
        found, signatures = [], []
        dtypes: tuple[Dtype, ...] = ("float32", "bfloat16")
        for dtype in dtypes:
            async with await TorchEmbedder.open(TorchOptions(model=minilm, device="cpu", dtype=dtype)) as embedder:
                found.append(await embedder.embed_documents(texts))
                signatures.append(embedder.signature)
        assert 1e-5 < np.abs(found[0] - found[1]).max() < 0.05
        assert np.allclose(np.linalg.norm(found[1], axis=1), 1, atol=1e-6)
        assert signatures[0] != signatures[1]
        assert signatures[1].revision.endswith("-bfloat16")

    async def test_a_model_stored_in_half_precision_computes_in_the_chosen_type(
        self, tiny_model: Callable[[str], Path]
    ) -> None:
        """The option dtype decides, and not the number type of the file."""
        import torch
        from sentence_transformers import SentenceTransformer

        folder = tiny_model("bert")
        half = SentenceTransformer(str(folder), device="cpu").half()
        half.save(str(folder.parent / "half"))
        async with await TorchEmbedder.open(TorchOptions(model=str(folder.parent / "half"), device="cpu")) as tiny:
            assert {each.dtype for each in tiny._models[0]._transformer.parameters()} == {torch.float32}


@pytest.mark.anyio
class TestDevices:
    """One copy of the model is loaded on each device."""

    async def test_both_copies_work_and_are_closed(self, tiny_model: Callable[[str], Path]) -> None:
        """Core may make as many calls at once as there are devices; all copies work, and closing ends both threads."""
        import torch

        threads = torch.get_num_threads() + 1
        options = TorchOptions(model=str(tiny_model("bert")), device=["cpu", "cpu"], threads=threads)
        tiny = await TorchEmbedder.open(options)
        assert tiny.concurrency == 2
        reads: list[int] = []
        used: list[int] = []
        for number, model in enumerate(tiny._models):
            model._transformer.register_forward_hook(lambda *_, number=number: used.append(number))
            model._transformer.register_forward_hook(lambda *_: reads.append(torch.get_num_threads()))
        calls = [tiny.embed_documents([f"{'tea ' * n} coffee"] * tiny.max_batch) for n in range(8)]
        expected = await asyncio.gather(*calls)
        assert set(used) == {0, 1}
        assert set(reads) == {threads}
        for n, vectors in enumerate(expected):
            assert np.allclose(vectors, (await tiny.embed_documents([f"{'tea ' * n} coffee"]))[0], atol=1e-5)
        workers = set(tiny._threads._threads)
        assert len(workers) == 2
        await tiny.aclose()
        assert not any(worker.is_alive() for worker in workers)
