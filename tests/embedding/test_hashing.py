"""The built-in lexical embedder: deterministic, fast, with a vector for every text."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattern_core.embedding import hashing
from pattern_core.embedding.hashing import HashingEmbedder, HashingOptions
from pattern_core.errors import ClosedError, ConfigError
from pattern_core.hookspecs import EmbeddingSpec
from pattern_core.plugins.discovery import load_plugin
from pattern_core.support.options import structure_options
from pattern_core.testing import EmbedderContract

pytestmark = pytest.mark.anyio

FACTS: Final = (
    "Ada drinks one espresso before ten and tea after lunch.",
    "The night train to Oslo leaves at a quarter past six.",
    "Invoices have to be paid within thirty days.",
    "她早上喝一杯咖啡, 然后去工作。",
)

EXPECTED: Final = {
    "Ada drinks one espresso before ten.": [
        0.2179,
        0.0032,
        0.3044,
        0.4726,
        0.08,
        -0.1402,
        0.3053,
        0.0,
        0.1624,
        -0.0759,
        -0.2506,
        0.0032,
        0.1527,
        -0.5404,
        -0.316,
        -0.0842,
    ],
    "咖啡": [0.0, 0.0, 0.628, 0.0, 0.0, 0.0, 0.0, -0.4597, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.628],
    "😀": [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -0.7071, 0.7071, 0.0, 0.0],
}
"""Some vectors of 16 dimensions."""


class TestHashing(EmbedderContract):
    """The contract of every embedder."""

    spec = hashing.pattern_embeddings()


class TestRetrieval:
    """Questions find texts with the same words, in any form and script."""

    @pytest.mark.parametrize(
        ("question", "answer"),
        [
            ("who drinks tea?", 0),
            ("ESPRESSOS", 0),
            ("the trains to oslo", 1),
            ("\uff49\uff4e\uff56\uff4f\uff49\uff43\uff45", 2),
            ("咖啡", 3),
        ],
    )
    async def test_a_question_finds_the_text_with_its_words(self, question: str, answer: int) -> None:
        """Case, width and endings do not matter; in a script without spaces, a part of a word matches."""
        async with HashingEmbedder(HashingOptions()) as embedder:
            scores = await embedder.embed_documents(FACTS) @ await embedder.embed_query(question)
        assert int(scores.argmax()) == answer
        second, first = sorted(scores)[-2:]
        assert first > 2 * abs(second)

    async def test_it_is_not_semantic(self) -> None:
        """The spec of the provider declares that it is lexical, and its signature has no token limit."""
        spec = load_plugin("hashing", EmbeddingSpec)
        assert not spec.semantic
        async with await spec.open(spec.options()) as embedder:
            assert embedder.signature.max_tokens is None


class TestDeterminism:
    """A text always gets the same vector."""

    def test_the_vectors_of_revision_1(self) -> None:
        """Stored vectors stay comparable. If this fails, change `REVISION` along with the expected values."""
        assert hashing.REVISION == "1"
        for text, expected in EXPECTED.items():
            assert hashing._embed(text, 16) == pytest.approx(expected, abs=1e-4)

    def test_processes_agree(self) -> None:
        """A vector does not depend on Python's hash seed."""
        program = (
            "import sys; from pattern_core.embedding import hashing; "
            "sys.stdout.buffer.write(hashing._embed('Ada drinks espresso', 1024).tobytes())"
        )
        command = [sys.executable, "-c", program]
        outputs = {
            subprocess.run(command, capture_output=True, check=True, env={"PYTHONHASHSEED": seed}).stdout
            for seed in ("1", "2")
        }
        assert outputs == {hashing._embed("Ada drinks espresso", 1024).tobytes()}


class TestAnyText:
    """Every text has a vector."""

    @given(st.text(min_size=1), st.sampled_from([16, 64, 1024]))
    def test_every_text_has_a_vector_of_length_one(self, text: str, dimensions: int) -> None:
        """Every text, even one with lone surrogates, has a finite vector of length 1."""
        vector = hashing._embed(text, dimensions)
        assert vector.dtype == np.float32
        assert vector.shape == (dimensions,)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)

    @pytest.mark.parametrize("text", ["\x00", "😀", "?!", "\u200b", "_", "\ud800"])
    def test_texts_without_words_differ(self, text: str) -> None:
        """Different texts without words have different vectors."""
        others = [other for other in ("\x00", "😀", "?!", "\u200b", "_", "\ud800", "word") if other != text]
        vector = hashing._embed(text, 1024)
        assert max(abs(vector @ hashing._embed(other, 1024)) for other in others) < 0.5

    def test_features_that_cancel_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """If two features cancel out, the vector is made from a hash of the whole text."""
        hashes = {"a": 5, "b": 5 | 1 << 63}
        features = {word: (np.array([value], np.uint64), np.array([1.0])) for word, value in hashes.items()}
        monkeypatch.setattr(hashing, "_features", features.__getitem__)
        vector = hashing._embed("a b", 16)
        assert sorted(vector) == [0.0] * 15 + [1.0]


class TestUse:
    """Options, speed and closing."""

    @pytest.mark.parametrize("dimensions", [0, 15, 65_537, "1024", True])
    def test_dimensions_out_of_range(self, dimensions: object) -> None:
        """Dimensions are an integer from 16 to 65,536; any other value is a configuration error."""
        with pytest.raises(ConfigError, match="dimensions"):
            structure_options(HashingOptions, {"dimensions": dimensions}, section="embeddings", base=Path())

    async def test_dimensions_are_used(self) -> None:
        """The option is the length of the vectors, and part of the signature."""
        async with HashingEmbedder(HashingOptions(dimensions=100)) as embedder:
            assert (await embedder.embed_query("tea")).shape == (100,)
            assert embedder.signature.dimensions == 100

    async def test_large_texts_do_not_block_the_event_loop(self) -> None:
        """Large texts are embedded in a thread: the event loop never blocks for 200 ms."""
        text = " ".join(f"word{n}" for n in range(20_000))
        async with HashingEmbedder(HashingOptions()) as embedder:
            working = asyncio.create_task(embedder.embed_documents([text] * 4))
            longest, iterations = 0.0, 0
            while not working.done():
                before = time.perf_counter()
                await asyncio.sleep(0)
                longest = max(longest, time.perf_counter() - before)
                iterations += 1
            assert (await working).shape == (4, 1024)
        assert iterations > 10
        assert longest < 0.2

    async def test_a_closed_embedder(self) -> None:
        """A closed embedder raises `ClosedError`."""
        embedder = HashingEmbedder(HashingOptions())
        await embedder.aclose()
        with pytest.raises(ClosedError, match="is closed"):
            await embedder.embed_query("tea")
