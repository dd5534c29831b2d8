"""The way from texts to vectors: batches, repeats, limits, and the signature that vectors are tied to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray

from pattern_core.abc import Embedder, Signature, Vector
from pattern_core.config import Overflow
from pattern_core.embedding import Embeddings
from pattern_core.errors import ClosedError, EmbeddingError, SignatureMismatchError, TextTooLongError, ValidationError

pytestmark = pytest.mark.anyio


class WordCounter(Embedder):
    """A model of three numbers: words, characters, and one. It reads five words and takes three texts at once."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.closed = 0

    @property
    def signature(self) -> Signature:
        return Signature(provider="test", model="words", revision="1", dimensions=3, normalized=False, max_tokens=5)

    @property
    def max_batch(self) -> int:
        return 3

    async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.calls.append(list(texts))
        return np.array([[len(text.split()), len(text), 1] for text in texts], dtype=np.float32)

    async def embed_query(self, text: str) -> Vector:
        vector: Vector = (await self.embed_documents([text]))[0]
        return vector

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    async def aclose(self) -> None:
        self.closed += 1


@attrs.frozen
class Loaded:
    embeddings: Embeddings
    model: WordCounter
    loads: list[None]


def wire(overflow: Overflow = "error") -> Loaded:
    model, loads = WordCounter(), list[None]()

    async def load() -> Embedder:
        await asyncio.sleep(0)
        loads.append(None)
        return model

    return Loaded(Embeddings(load, overflow), model, loads)


async def test_batches_and_repeats() -> None:
    """Texts go to the model in batches that it takes, each text once, and come back in the order given."""
    wired = wire()
    texts = ["a", "b b", "a", "c c c", "d", "b b", "e e"]
    vectors = await wired.embeddings.documents(texts)

    assert wired.model.calls == [["a", "b b", "c c c"], ["d", "e e"]]
    assert [vector[0] for vector in vectors] == [1, 2, 1, 3, 1, 2, 2]
    assert all(vector.dtype == np.float32 and not vector.flags.writeable for vector in vectors)
    assert await wired.embeddings.documents([]) == []


async def test_loaded_once() -> None:
    """However many ask at once, the model is loaded once; closing lets it go, and twice is no harm."""
    wired = wire()
    assert wired.embeddings.loaded is None
    await asyncio.gather(*(wired.embeddings.query("x") for _ in range(5)))
    assert wired.embeddings.loaded is wired.model
    await wired.embeddings.aclose()
    await wired.embeddings.aclose()

    assert (len(wired.loads), wired.model.closed) == (1, 1)


async def test_too_long() -> None:
    """A text that is longer than the model reads is refused before anything is embedded, and says which it is."""
    wired = wire()
    with pytest.raises(TextTooLongError, match="7 tokens and the embedding model reads 5") as caught:
        await wired.embeddings.documents(["a", "a", "one two three four five six seven"])

    assert (caught.value.tokens, caught.value.limit, caught.value.position) == (7, 5, 2)
    assert wired.model.calls == []
    assert len(await wired.embeddings.documents(["one two three four five"])) == 1


async def test_truncation_has_to_be_asked_for() -> None:
    """With ``overflow = "truncate"`` the model gets the text as it is, and cuts it off itself."""
    assert len(await wire("truncate").embeddings.documents(["one two three four five six"])) == 1


async def test_another_signature() -> None:
    """A model of another signature is refused, when it is loaded or where it was; a refused one is let go."""
    stored = attrs.evolve(WordCounter().signature, revision="2")
    early, late = wire(), wire()
    await early.embeddings.signature()
    with pytest.raises(SignatureMismatchError) as caught:
        early.embeddings.expect(stored)
    late.embeddings.expect(stored)
    with pytest.raises(SignatureMismatchError):
        await late.embeddings.query("x")

    assert (caught.value.stored, caught.value.configured) == (str(stored), str(WordCounter().signature))
    assert late.model.closed == 1
    assert late.embeddings.loaded is None


async def test_the_same_signature() -> None:
    """A model of the stored signature is used."""
    wired = wire()
    wired.embeddings.expect(Signature.from_json(WordCounter().signature.to_json()))

    assert len(await wired.embeddings.query("x")) == 3
    assert (await wired.embeddings.health()).details == {"loaded": True, "dimensions": 3}


async def test_health_loads_nothing() -> None:
    """Asking for health loads no model, and says what is expected as far as that is known."""
    wired = wire()
    assert (await wired.embeddings.health()).engine == "not known yet"
    wired.embeddings.expect(WordCounter().signature)

    assert "words" in (await wired.embeddings.health()).engine
    assert wired.loads == []


@pytest.mark.parametrize("text", ["", " \t\n", None, 5, "\ud800"])
async def test_queries_that_are_none(text: str) -> None:
    """A blank query, and one that is no text, is refused without asking the model."""
    wired = wire()
    with pytest.raises(ValidationError):
        await wired.embeddings.query(text)

    assert wired.loads == []


@pytest.mark.parametrize("answer", [ConnectionError("refused"), None, [[1.0, 2.0]], "text"])
async def test_a_model_that_fails(answer: object) -> None:
    """Whatever a model raises or returns that cannot be used is an error of ours."""

    class Broken(WordCounter):
        async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
            if isinstance(answer, Exception):
                raise answer
            return answer  # type: ignore[return-value]  # the mistake under test

    async def load() -> Embedder:
        return Broken()

    embeddings = Embeddings(load, "error")
    with pytest.raises(EmbeddingError):
        await embeddings.documents(["x"])
    with pytest.raises(EmbeddingError):
        await embeddings.query("x")


async def test_closed() -> None:
    """A closed model is not loaded again, and one that is being loaded is let go."""
    wired = wire()
    loading = asyncio.create_task(wired.embeddings.query("x"))
    await asyncio.sleep(0)
    await wired.embeddings.aclose()
    await asyncio.gather(loading, return_exceptions=True)
    with pytest.raises(ClosedError):
        await wired.embeddings.documents(["x"])

    assert wired.embeddings.loaded is None
    assert wired.model.closed == len(wired.loads) == 1


async def test_a_model_with_a_limit_counts() -> None:
    """An embedder that has a limit and cannot count tokens says so to its author."""

    class Forgetful(WordCounter):
        count_tokens = Embedder.count_tokens

    async def load() -> Embedder:
        return Forgetful()

    with pytest.raises(NotImplementedError, match="Forgetful"):
        await Embeddings(load, "error").documents(["x"])
