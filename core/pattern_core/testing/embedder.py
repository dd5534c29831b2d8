"""The contract of `pattern_core.abc.Embedder`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from pattern_core.abc import Embedder, Signature
from pattern_core.hookspecs import EmbeddingSpec

from .contract import Contract

__all__ = ["EmbedderContract"]

TEXTS: Final = (
    "Ada drinks one espresso before ten and tea after lunch.",
    "The train to Oslo leaves at a quarter past six.",
    "Write a file atomically: write a temporary one, sync it, rename it.",
    "She keeps bees behind the old mill.",
    "Invoices are due within thirty days.",
    "The cat sleeps on the warm router.",
)
ODD_TEXTS: Final = (
    "é",
    "e\u0301",
    "日本語のテキスト",
    "😀😀😀",
    "مرحبا بالعالم",
    "a\x00b",
    "\u202eright to left",
    "?!…",
    "x",
    "def f(x):\n\treturn {'a': [x]}",
    "   spaces   ",
    "a" * 200,
)


def _cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine similarities of the rows of two arrays, shape ``[n, dimensions]``: float64, shape ``[n]``."""
    first, second = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    cosines: NDArray[np.float64] = (first * second).sum(axis=-1) / lengths
    return cosines


class EmbedderContract(Contract):
    """The rules of `Embedder`. A subclass sets `spec`, and overrides `options` if its options have no defaults.

    Attributes:
        spec: The spec that the plugin's hook returns.
        rounding: How far the cosine similarity of two vectors of one text may be from 1.
    """

    spec: EmbeddingSpec
    rounding: float = 1e-4

    @pytest.fixture
    def options(self) -> Any:
        """Override this to set options: return an instance of ``spec.options``."""
        return self.spec.options()

    @pytest.fixture
    def open_embedder(self, options: Any) -> Callable[[], Awaitable[Embedder]]:
        """Return a function that opens the embedder, with the same options in each call."""
        return functools.partial(self.spec.open, options)

    @pytest.fixture
    async def embedder(self, open_embedder: Callable[[], Awaitable[Embedder]]) -> AsyncIterator[Embedder]:
        """An open embedder."""
        async with await open_embedder() as embedder:
            yield embedder

    def _check(self, vectors: NDArray[np.float32], shape: tuple[int, ...], signature: Signature) -> None:
        assert isinstance(vectors, np.ndarray)
        assert vectors.dtype == np.float32
        assert vectors.shape == shape
        assert np.isfinite(vectors).all()
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1)
        assert (lengths > 0).all()
        if signature.normalized:
            assert np.allclose(lengths, 1, atol=1e-3)

    async def test_vectors_have_the_declared_form(self, embedder: Embedder) -> None:
        """Documents give float32 ``[n, dimensions]``, a query ``[dimensions]``: finite, not all zeros.

        Vectors have length 1 if the signature is ``normalized``.

        If it fails: convert the result of the model with ``numpy.asarray(…, dtype=numpy.float32)``.
        """
        signature = embedder.signature
        self._check(await embedder.embed_documents(TEXTS), (len(TEXTS), signature.dimensions), signature)
        self._check(await embedder.embed_documents(TEXTS[:1]), (1, signature.dimensions), signature)
        self._check(await embedder.embed_query(TEXTS[0]), (signature.dimensions,), signature)

    async def test_vectors_are_in_the_order_of_the_texts(self, embedder: Embedder) -> None:
        """Vectors are in the order of the texts, whatever the lengths of the texts.

        If it fails: restore the order after sorting a batch by length. Sort the answer of a service by its index.
        """
        texts = [*TEXTS, "short", TEXTS[0] + " " + TEXTS[1]]
        forward = await embedder.embed_documents(texts)
        backward = await embedder.embed_documents(texts[::-1])
        assert np.allclose(_cosines(forward, backward[::-1]), 1, atol=self.rounding)
        assert (_cosines(forward[:-1], forward[1:]) < 1 - self.rounding).all(), "different texts have different vectors"

    async def test_vectors_do_not_depend_on_the_batch(self, embedder: Embedder) -> None:
        """The vector of a text does not depend on the other texts in the batch, to within float rounding.

        If it fails: pass the attention mask, so that padding does not change the result.
        """
        together = await embedder.embed_documents([*TEXTS, "tiny", "long " * 50])
        for position, text in enumerate(TEXTS):
            alone = await embedder.embed_documents([text])
            assert np.allclose(_cosines(together[position : position + 1], alone), 1, atol=self.rounding), text

    async def test_embedding_is_deterministic(
        self, embedder: Embedder, open_embedder: Callable[[], Awaitable[Embedder]]
    ) -> None:
        """A text gets the same vector twice in one batch, and after opening the embedder again.

        If it fails: turn off dropout and sampling. Fix every seed. Do not use Python's ``hash`` of a text.
        """
        first = await embedder.embed_documents([*TEXTS, *TEXTS])
        assert np.allclose(_cosines(first[: len(TEXTS)], first[len(TEXTS) :]), 1, atol=self.rounding)
        async with await open_embedder() as another:
            assert another.signature == embedder.signature
            again = await another.embed_documents(TEXTS)
        assert np.allclose(_cosines(first[: len(TEXTS)], again), 1, atol=self.rounding)

    async def test_a_query_finds_its_document(self, embedder: Embedder) -> None:
        """A query finds the document with the same text; if both have the same prompt, their vectors are equal.

        If it fails: embed queries with the model's query prompt and documents with its document prompt, and name both
        in the signature.
        """
        documents = await embedder.embed_documents(TEXTS)
        same_prompt = embedder.signature.query_prompt == embedder.signature.document_prompt
        for position, text in enumerate(TEXTS):
            cosines = _cosines(documents, (await embedder.embed_query(text))[np.newaxis])
            assert int(cosines.argmax()) == position, text
            if same_prompt:
                assert cosines[position] == pytest.approx(1, abs=self.rounding)

    async def test_a_full_batch_is_accepted(self, embedder: Embedder) -> None:
        """`embed_documents` accepts `max_batch` texts.

        If it fails: return the real limit of the model or service from `max_batch`.
        """
        assert embedder.max_batch >= 1
        size = min(embedder.max_batch, 512)
        vectors = await embedder.embed_documents([f"note {n}" for n in range(size)])
        self._check(vectors, (size, embedder.signature.dimensions), embedder.signature)

    async def test_any_text_can_be_embedded(self, embedder: Embedder) -> None:
        """Every text that is not blank gets a valid vector: other scripts, emoji, NUL, punctuation, code.

        If it fails: unknown words must not give a vector of zeros, and unusual characters must not raise an error.
        """
        for start in range(0, len(ODD_TEXTS), embedder.max_batch):
            texts = ODD_TEXTS[start : start + embedder.max_batch]
            vectors = await embedder.embed_documents(texts)
            self._check(vectors, (len(texts), embedder.signature.dimensions), embedder.signature)
        for text in ODD_TEXTS:
            self._check(await embedder.embed_query(text), (embedder.signature.dimensions,), embedder.signature)

    async def test_concurrent_calls_do_not_mix(self, embedder: Embedder) -> None:
        """Concurrent calls get their own results.

        If it fails: many models and tokenizers are not thread-safe. Use one thread, or a lock.
        """
        expected = await embedder.embed_documents(TEXTS)
        batches = await asyncio.gather(*(embedder.embed_documents([text]) for text in TEXTS * 2))
        for position, vectors in enumerate(batches):
            correct = expected[position % len(TEXTS)][np.newaxis]
            assert np.allclose(_cosines(vectors, correct), 1, atol=self.rounding)

    async def test_tokens_are_counted_beyond_the_limit(self, embedder: Embedder) -> None:
        """An embedder with a token limit counts all tokens of each text, also beyond the limit.

        If it fails: count with the model's own tokenizer, without truncation, including special tokens and the prompt.
        """
        limit = embedder.signature.max_tokens
        if limit is None:
            pytest.skip("this embedder has no token limit")
        assert limit > 0
        counts = await embedder.count_tokens(["word", *TEXTS, "word " * (2 * limit)])
        assert len(counts) == len(TEXTS) + 2
        assert all(type(count) is int for count in counts)
        assert 0 < counts[0] < min(counts[1:-1])
        assert counts[-1] > limit
        assert await embedder.count_tokens([*TEXTS]) == counts[1:-1]

    async def test_the_signature_is_complete(self, embedder: Embedder) -> None:
        """The signature has a provider, a model, a revision and dimensions, and survives a round trip through JSON.

        If it fails: use a revision that differs if the model changes under the same name: a hash of the weights.
        """
        signature = embedder.signature
        assert signature.provider.strip()
        assert signature.model.strip()
        assert signature.revision.strip()
        assert signature.dimensions >= 1
        assert Signature.from_json(signature.to_json()) == signature

    async def test_closing_twice_does_nothing(self, open_embedder: Callable[[], Awaitable[Embedder]]) -> None:
        """`aclose` releases the model. A second call does nothing, and another embedder can be opened.

        If it fails: keep a flag that the embedder is closed.
        """
        embedder = await open_embedder()
        await embedder.embed_query(TEXTS[0])
        await embedder.aclose()
        await embedder.aclose()
        async with await open_embedder() as another:
            await another.embed_query(TEXTS[0])
