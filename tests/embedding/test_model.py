"""From texts to vectors: batches, repeats, limits, retries, and the signature of the vectors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray

from pattern_core.abc import Embedder, Signature, Vector
from pattern_core.config import EmbeddingPolicy, Overflow
from pattern_core.embedding.cache import VectorCache
from pattern_core.embedding.model import EmbeddingModel
from pattern_core.errors import ClosedError, EmbeddingError, SignatureMismatchError, TextTooLongError, ValidationError

pytestmark = pytest.mark.anyio


class WordCounter(Embedder):
    """An embedder with three dimensions: words, characters and 1. Its limits are five words and three texts a call."""

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
class Setup:
    embeddings: EmbeddingModel
    model: WordCounter
    loads: list[None]


def set_up(overflow: Overflow = "error") -> Setup:
    model, loads = WordCounter(), list[None]()

    async def load() -> Embedder:
        await asyncio.sleep(0)
        loads.append(None)
        return model

    return Setup(EmbeddingModel(load, EmbeddingPolicy(overflow=overflow)), model, loads)


async def test_batches_and_repeats() -> None:
    """Each text is embedded once, in batches within the limit, and vectors come in the order of the texts."""
    setup = set_up()
    texts = ["a", "b b", "a", "c c c", "d", "b b", "e e"]
    found = await setup.embeddings.embed_documents(texts)
    vectors = [vector for each in found for vector in each.vectors]

    assert setup.model.calls == [["a", "b b", "c c c"], ["d", "e e"]]
    assert all(each.spans == (None,) for each in found)
    assert [vector[0] for vector in vectors] == [1, 2, 1, 3, 1, 2, 2]
    assert all(vector.dtype == np.float32 and not vector.flags.writeable for vector in vectors)
    assert await setup.embeddings.embed_documents([]) == []


async def test_the_model_is_loaded_once() -> None:
    """Concurrent calls load the model once; closing it twice closes it once."""
    setup = set_up()
    assert setup.embeddings.loaded is None
    await asyncio.gather(*(setup.embeddings.embed_query("x") for _ in range(5)))
    assert setup.embeddings.loaded is setup.model
    await setup.embeddings.aclose()
    await setup.embeddings.aclose()

    assert (len(setup.loads), setup.model.closed) == (1, 1)


async def test_a_text_over_the_limit() -> None:
    """A text over the token limit is an error that names its position, before anything is embedded."""
    setup = set_up()
    with pytest.raises(TextTooLongError, match="7 tokens, and the embedding model's limit is 5") as caught:
        await setup.embeddings.embed_documents(["a", "a", "one two three four five six seven"])

    assert (caught.value.tokens, caught.value.limit, caught.value.position) == (7, 5, 2)
    assert setup.model.calls == []
    assert len(await setup.embeddings.embed_documents(["one two three four five"])) == 1


async def test_chunks() -> None:
    """With ``overflow = "chunk"`` a long text is embedded in chunks that cover all but its white space."""
    setup = set_up("chunk")
    long = "One two three.\n\nFour five six seven eight nine. " + "word " * 40 + "\n\nThe end of it."
    found = await setup.embeddings.embed_documents(["short", long, "short", "four words are enough"])

    assert [each.spans for each in (found[0], found[2], found[3])] == [(None,)] * 3
    spans = [span for span in found[1].spans if span is not None]
    chunks = [long[begin:end] for begin, end in spans]
    assert all(1 <= len(chunk.split()) <= 5 for chunk in chunks)
    assert " ".join(chunks).split() == long.split()
    assert chunks[0] == "One two three."
    assert chunks[-1] == "The end of it."
    assert [int(vector[0]) for vector in found[1].vectors] == [len(chunk.split()) for chunk in chunks]


async def test_repeated_chunks() -> None:
    """Equal chunks, of one text or several, are embedded once, and progress counts every text."""
    setup = set_up("chunk")
    long = "\n\n".join(["a b c d"] * 20)
    done: list[int] = []
    found = await setup.embeddings.embed_documents([long, f"{long}\n\nx", long, "x"], progress=done.append)

    assert sum(done) == 4
    assert [len(each.vectors) for each in found] == [20, 21, 20, 1]
    assert sorted(text for call in setup.model.calls for text in call) == ["a b c d", "x"]


async def test_a_text_that_cannot_be_chunked() -> None:
    """If not even one character is within the limit, the text is an error, and not chunked forever."""

    class NoText(WordCounter):
        async def count_tokens(self, texts: Sequence[str]) -> list[int]:
            return [9 for _ in texts]

    async def load() -> Embedder:
        return NoText()

    with pytest.raises(TextTooLongError):
        await EmbeddingModel(load, EmbeddingPolicy(overflow="chunk")).embed_documents(["any text"])


async def test_truncation() -> None:
    """With ``overflow = "truncate"`` the model gets as much of the text as it embeds."""
    setup = set_up("truncate")
    texts = ["one two three four five six", "short", "a " * 400]
    assert len(await setup.embeddings.embed_documents(texts)) == 3

    ((first, second, third),) = setup.model.calls
    assert texts[0].startswith(first)
    assert len(first.split()) in {4, 5}
    assert second == "short"
    assert len(third.split()) in {4, 5}


async def test_another_signature() -> None:
    """A model of another signature is rejected, before or after it is loaded, and then closed."""
    stored = attrs.evolve(WordCounter().signature, revision="2")
    early, late = set_up(), set_up()
    await early.embeddings.signature()
    with pytest.raises(SignatureMismatchError) as caught:
        early.embeddings.require(stored)
    late.embeddings.require(stored)
    with pytest.raises(SignatureMismatchError):
        await late.embeddings.embed_query("x")

    assert (caught.value.stored, caught.value.configured) == (str(stored), str(WordCounter().signature))
    assert late.model.closed == 1
    assert late.embeddings.loaded is None


async def test_the_same_signature() -> None:
    """A model of the stored signature is accepted."""
    setup = set_up()
    setup.embeddings.require(Signature.from_json(WordCounter().signature.to_json()))

    assert len(await setup.embeddings.embed_query("x")) == 3
    assert (await setup.embeddings.health()).details == {
        "loaded": True,
        "dimensions": 3,
        "embedded": 1,
        "from_cache": 0,
    }


async def test_health_does_not_load_the_model() -> None:
    """The health of a model that is not loaded names the required signature, if there is one."""
    setup = set_up()
    assert (await setup.embeddings.health()).engine == "not known yet"
    setup.embeddings.require(WordCounter().signature)

    assert "words" in (await setup.embeddings.health()).engine
    assert setup.loads == []


@pytest.mark.parametrize("text", ["", " \t\n", None, 5, "\ud800"])
async def test_invalid_queries(text: str) -> None:
    """A blank query, or one that is no text, is rejected before the model is loaded."""
    setup = set_up()
    with pytest.raises(ValidationError):
        await setup.embeddings.embed_query(text)

    assert setup.loads == []


@pytest.mark.parametrize("answer", [ConnectionError("refused"), None, [[1.0, 2.0]], "text"])
async def test_a_model_that_fails(answer: object) -> None:
    """Every exception and every unusable result of a model becomes an `EmbeddingError`."""

    class Broken(WordCounter):
        async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
            if isinstance(answer, Exception):
                raise answer
            return answer  # type: ignore[return-value]  # the mistake under test

    async def load() -> Embedder:
        return Broken()

    embeddings = EmbeddingModel(load)
    with pytest.raises(EmbeddingError):
        await embeddings.embed_documents(["x"])
    with pytest.raises(EmbeddingError):
        await embeddings.embed_query("x")


async def test_a_closed_model() -> None:
    """A closed model is not loaded again, and one that is being loaded is closed."""
    setup = set_up()
    loading = asyncio.create_task(setup.embeddings.embed_query("x"))
    await asyncio.sleep(0)
    await setup.embeddings.aclose()
    await asyncio.gather(loading, return_exceptions=True)
    with pytest.raises(ClosedError):
        await setup.embeddings.embed_documents(["x"])

    assert setup.embeddings.loaded is None
    assert setup.model.closed == len(setup.loads) == 1


async def test_a_model_with_a_limit_must_count_tokens() -> None:
    """An embedder with a limit that cannot count tokens raises an error that names its class."""

    class Forgetful(WordCounter):
        count_tokens = Embedder.count_tokens

    async def load() -> Embedder:
        return Forgetful()

    with pytest.raises(NotImplementedError, match="Forgetful"):
        await EmbeddingModel(load).embed_documents(["x"])


class FailingService(WordCounter):
    """An embedder for a service that raises given errors, call by call."""

    def __init__(self, *failures: EmbeddingError | None, at_once: int = 1, tokens: int | None = None) -> None:
        super().__init__()
        self.failures = list(failures)
        self.attempts = 0
        self.busy = 0
        self.busiest = 0
        self.begun = asyncio.Event()
        self._at_once = at_once
        self._tokens = tokens

    @property
    def concurrency(self) -> int:
        return self._at_once

    @property
    def max_batch_tokens(self) -> int | None:
        return self._tokens

    async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.attempts += 1
        self.busy += 1
        self.begun.set()
        self.busiest = max(self.busiest, self.busy)
        try:
            await asyncio.sleep(0)
            if self.failures and (failure := self.failures.pop(0)) is not None:
                raise failure
            return await super().embed_documents(texts)
        finally:
            self.busy -= 1


def embedding_model(model: Embedder, *, deadline: float = 60, cache: VectorCache | None = None) -> EmbeddingModel:
    async def load() -> Embedder:
        return model

    return EmbeddingModel(load, EmbeddingPolicy(deadline=deadline), cache=cache)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits, in seconds; the clock of the event loop moves instead of the test waiting."""
    delays: list[float] = []
    loop_time = asyncio.BaseEventLoop.time
    real_sleep = asyncio.sleep

    async def sleep(delay: float, result: object = None) -> None:
        if delay > 0:
            delays.append(delay)
        await real_sleep(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(asyncio.BaseEventLoop, "time", lambda loop: loop_time(loop) + sum(delays))
    return delays


def service_busy(retry_after: float | None = None) -> EmbeddingError:
    return EmbeddingError("the service is busy", transient=True, retry_after=retry_after)


class TestRetries:
    async def test_only_failed_batches_are_repeated(self, waits: list[float]) -> None:
        """A batch that fails transiently is repeated after a delay; the other batches are sent once."""
        model = FailingService(None, service_busy(), service_busy(), None)
        vectors = await embedding_model(model).embed_documents(["a", "b", "c", "d d", "e"])

        assert model.calls == [["a", "b", "c"], ["d d", "e"]]
        assert model.attempts == 4
        assert len(vectors) == 5
        assert len(waits) == 2
        assert waits[0] <= 0.5
        assert waits[1] <= 1.0

    async def test_retry_after(self, waits: list[float]) -> None:
        """No batch is sent before the time that the service asks for."""
        model = FailingService(service_busy(retry_after=7), at_once=2)
        await embedding_model(model).embed_documents(["a", "b", "c", "d"])

        assert max(waits) == pytest.approx(7, abs=0.1)
        assert model.attempts == 3

    async def test_the_deadline(self, waits: list[float]) -> None:
        """The error is raised once the deadline has passed, or if the next attempt would be after it."""
        model = FailingService(*[service_busy() for _ in range(99)])
        with pytest.raises(EmbeddingError, match="busy"):
            await embedding_model(model, deadline=10).embed_documents(["a"])
        assert sum(waits) <= 10
        assert model.attempts == len(waits) + 1 > 3
        waits.clear()
        with pytest.raises(EmbeddingError, match="busy"):
            await embedding_model(FailingService(service_busy(retry_after=11)), deadline=10).embed_documents(["a"])
        assert waits == []

    async def test_permanent_errors(self, waits: list[float]) -> None:
        """An error that is not transient, such as a wrong key, is raised at once."""
        model = FailingService(EmbeddingError("401"))
        with pytest.raises(EmbeddingError, match="401"):
            await embedding_model(model).embed_documents(["a"])
        assert (model.attempts, waits) == (1, [])

    async def test_token_counts_are_repeated(self, waits: list[float]) -> None:
        """A token count that fails transiently is repeated."""

        class Counting(FailingService):
            async def count_tokens(self, texts: Sequence[str]) -> list[int]:
                if self.failures and (failure := self.failures.pop(0)) is not None:
                    raise failure
                return await super().count_tokens(texts)

        assert len(await embedding_model(Counting(service_busy())).embed_documents(["a"])) == 1
        assert len(waits) == 1

    async def test_queries_are_repeated(self, waits: list[float]) -> None:
        """A query that fails transiently is repeated."""
        assert len(await embedding_model(FailingService(service_busy(), None)).embed_query("a")) == 3
        assert len(waits) == 1


class TestBatches:
    async def test_tokens_of_a_batch(self) -> None:
        """A batch stays within the limits of texts and of tokens for a call."""
        model = FailingService(tokens=4)
        await embedding_model(model).embed_documents(["a a a", "b", "c c", "d d", "e", "f", "g", "h h h h h"])

        assert model.calls == [["a a a", "b"], ["c c", "d d"], ["e", "f", "g"], ["h h h h h"]]

    async def test_concurrent_calls(self) -> None:
        """As many calls run at once as the model allows."""
        model = FailingService(at_once=3)
        await embedding_model(model).embed_documents([f"{n}" for n in range(40)])

        assert model.busiest == 3

    async def test_a_failure_cancels_other_batches(self) -> None:
        """If one batch fails permanently, the other calls have ended when the error is raised."""
        model = FailingService(EmbeddingError("no"), at_once=4)
        with pytest.raises(EmbeddingError, match="no"):
            await embedding_model(model).embed_documents([f"{n}" for n in range(40)])

        assert model.busy == 0

    async def test_cancellation(self) -> None:
        """A cancelled call leaves no other call running."""
        model = FailingService(at_once=2)
        call = asyncio.create_task(embedding_model(model).embed_documents([f"{n}" for n in range(40)]))
        await model.begun.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

        assert call.cancelled()
        assert model.busy == 0

    async def test_repeats_are_embedded_once(self) -> None:
        """Of 10,000 texts with 9,000 repeats, 1,000 are embedded, and progress counts all."""
        model, done = FailingService(), list[int]()
        texts = [f"text {n % 1000}" for n in range(10_000)]
        vectors = await embedding_model(model).embed_documents(texts, progress=done.append)

        assert sum(map(len, model.calls)) == 1000
        assert sum(done) == len(vectors) == 10_000


class TestCache:
    @pytest.fixture
    def cache(self, tmp_path: Path) -> VectorCache:
        """A cache in a file."""
        return VectorCache(tmp_path / "cache" / "vectors.sqlite", 1_000_000)

    async def test_nothing_is_embedded_twice(self, cache: VectorCache, tmp_path: Path) -> None:
        """A second run with the same file embeds nothing that is in the cache."""
        texts = ["a", "b b", "a", "é\x00"]
        first = await embedding_model(FailingService(), cache=cache).embed_documents(texts)
        await embedding_model(FailingService(), cache=cache).embed_query("a")
        await cache.aclose()
        again = FailingService()
        embeddings = embedding_model(again, cache=VectorCache(tmp_path / "cache" / "vectors.sqlite", 1_000_000))
        done: list[int] = []

        second = await embeddings.embed_documents(texts, progress=done.append)
        assert all(np.array_equal(one.vectors, other.vectors) for one, other in zip(first, second, strict=True))
        assert np.array_equal(await embeddings.embed_query("a"), [1, 1, 1])
        assert again.calls == []
        assert sum(done) == 4
        assert (await embeddings.health()).details["from_cache"] == 4
        await embeddings.aclose()

    async def test_vectors_made_before_a_failure_are_kept(self, cache: VectorCache) -> None:
        """After a failure, the next call embeds only the missing texts."""
        with pytest.raises(EmbeddingError):
            await embedding_model(FailingService(None, EmbeddingError("no")), cache=cache).embed_documents(
                ["a", "b", "c", "d", "e"]
            )
        again = FailingService()
        await embedding_model(again, cache=cache).embed_documents(["a", "b", "c", "d", "e"])

        assert again.calls == [["d", "e"]]

    async def test_a_query_is_not_a_document(self, cache: VectorCache) -> None:
        """The cached vector of a document is not used for a query with the same text."""
        model = FailingService()
        embeddings = embedding_model(model, cache=cache)
        await embeddings.embed_documents(["a"])
        await embeddings.embed_query("a")

        assert model.calls == [["a"], ["a"]]

    async def test_a_truncated_text_still_exceeds_the_limit(self, cache: VectorCache) -> None:
        """A vector of a truncated text is not used if the policy is an error."""
        long = "one two three four five six"

        async def load() -> Embedder:
            return FailingService()

        truncating = EmbeddingModel(load, EmbeddingPolicy(overflow="truncate"), cache=cache)
        (first,) = await truncating.embed_documents([long])
        (second,) = await truncating.embed_documents([long])
        assert np.array_equal(first.vectors, second.vectors)
        assert first == second
        assert first.spans == ((0, len("one two three four fiv")),)
        with pytest.raises(TextTooLongError):
            await EmbeddingModel(load, EmbeddingPolicy(), cache=cache).embed_documents([long])
