"""The way from texts to vectors: batches, repeats, limits, and the signature that vectors are tied to."""

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
    embeddings: EmbeddingModel
    model: WordCounter
    loads: list[None]


def wire(overflow: Overflow = "error") -> Loaded:
    model, loads = WordCounter(), list[None]()

    async def load() -> Embedder:
        await asyncio.sleep(0)
        loads.append(None)
        return model

    return Loaded(EmbeddingModel(load, EmbeddingPolicy(overflow=overflow)), model, loads)


async def test_batches_and_repeats() -> None:
    """Texts go to the model in batches that it takes, each text once, and come back in the order given."""
    wired = wire()
    texts = ["a", "b b", "a", "c c c", "d", "b b", "e e"]
    found = await wired.embeddings.embed_documents(texts)
    vectors = [vector for each in found for vector in each.vectors]

    assert wired.model.calls == [["a", "b b", "c c c"], ["d", "e e"]]
    assert all(each.spans == (None,) for each in found)
    assert [vector[0] for vector in vectors] == [1, 2, 1, 3, 1, 2, 2]
    assert all(vector.dtype == np.float32 and not vector.flags.writeable for vector in vectors)
    assert await wired.embeddings.embed_documents([]) == []


async def test_loaded_once() -> None:
    """However many ask at once, the model is loaded once; closing lets it go, and twice is no harm."""
    wired = wire()
    assert wired.embeddings.loaded is None
    await asyncio.gather(*(wired.embeddings.embed_query("x") for _ in range(5)))
    assert wired.embeddings.loaded is wired.model
    await wired.embeddings.aclose()
    await wired.embeddings.aclose()

    assert (len(wired.loads), wired.model.closed) == (1, 1)


async def test_too_long() -> None:
    """A text that is longer than the model reads is refused before anything is embedded, and says which it is."""
    wired = wire()
    with pytest.raises(TextTooLongError, match="7 tokens, and the embedding model's limit is 5") as caught:
        await wired.embeddings.embed_documents(["a", "a", "one two three four five six seven"])

    assert (caught.value.tokens, caught.value.limit, caught.value.position) == (7, 5, 2)
    assert wired.model.calls == []
    assert len(await wired.embeddings.embed_documents(["one two three four five"])) == 1


async def test_chunks_have_to_be_asked_for() -> None:
    """With ``overflow = "chunk"`` the model reads a longer text in parts, which cover all that is not white space."""
    wired = wire("chunk")
    long = "One two three.\n\nFour five six seven eight nine. " + "word " * 40 + "\n\nThe end of it."
    found = await wired.embeddings.embed_documents(["short", long, "short", "four words are enough"])

    assert [each.spans for each in (found[0], found[2], found[3])] == [(None,)] * 3
    spans = [span for span in found[1].spans if span is not None]
    chunks = [long[begin:end] for begin, end in spans]
    assert all(1 <= len(chunk.split()) <= 5 for chunk in chunks)
    assert " ".join(chunks).split() == long.split()
    assert chunks[0] == "One two three."
    assert chunks[-1] == "The end of it."
    assert [int(vector[0]) for vector in found[1].vectors] == [len(chunk.split()) for chunk in chunks]


async def test_chunks_of_repeated_parts() -> None:
    """Parts that are equal, in one text or in several, are embedded once, and progress still counts every text."""
    wired = wire("chunk")
    long = "\n\n".join(["a b c d"] * 20)
    done: list[int] = []
    found = await wired.embeddings.embed_documents([long, f"{long}\n\nx", long, "x"], progress=done.append)

    assert sum(done) == 4
    assert [len(each.vectors) for each in found] == [20, 21, 20, 1]
    assert sorted(text for call in wired.model.calls for text in call) == ["a b c d", "x"]


async def test_what_cannot_be_cut() -> None:
    """A text of which the model reads not even one character is refused, rather than cut for ever."""

    class Blind(WordCounter):
        async def count_tokens(self, texts: Sequence[str]) -> list[int]:
            return [9 for _ in texts]

    async def load() -> Embedder:
        return Blind()

    with pytest.raises(TextTooLongError):
        await EmbeddingModel(load, EmbeddingPolicy(overflow="chunk")).embed_documents(["any text"])


async def test_truncation_has_to_be_asked_for() -> None:
    """With ``overflow = "truncate"`` the model gets as much of the text as it reads."""
    wired = wire("truncate")
    texts = ["one two three four five six", "short", "a " * 400]
    assert len(await wired.embeddings.embed_documents(texts)) == 3

    ((first, second, third),) = wired.model.calls
    assert texts[0].startswith(first)
    assert len(first.split()) in {4, 5}
    assert second == "short"
    assert len(third.split()) in {4, 5}


async def test_another_signature() -> None:
    """A model of another signature is refused, when it is loaded or where it was; a refused one is let go."""
    stored = attrs.evolve(WordCounter().signature, revision="2")
    early, late = wire(), wire()
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
    """A model of the stored signature is used."""
    wired = wire()
    wired.embeddings.require(Signature.from_json(WordCounter().signature.to_json()))

    assert len(await wired.embeddings.embed_query("x")) == 3
    assert (await wired.embeddings.health()).details == {
        "loaded": True,
        "dimensions": 3,
        "embedded": 1,
        "from_cache": 0,
    }


async def test_health_loads_nothing() -> None:
    """Asking for health loads no model, and says what is expected as far as that is known."""
    wired = wire()
    assert (await wired.embeddings.health()).engine == "not known yet"
    wired.embeddings.require(WordCounter().signature)

    assert "words" in (await wired.embeddings.health()).engine
    assert wired.loads == []


@pytest.mark.parametrize("text", ["", " \t\n", None, 5, "\ud800"])
async def test_queries_that_are_none(text: str) -> None:
    """A blank query, and one that is no text, is refused without asking the model."""
    wired = wire()
    with pytest.raises(ValidationError):
        await wired.embeddings.embed_query(text)

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

    embeddings = EmbeddingModel(load)
    with pytest.raises(EmbeddingError):
        await embeddings.embed_documents(["x"])
    with pytest.raises(EmbeddingError):
        await embeddings.embed_query("x")


async def test_closed() -> None:
    """A closed model is not loaded again, and one that is being loaded is let go."""
    wired = wire()
    loading = asyncio.create_task(wired.embeddings.embed_query("x"))
    await asyncio.sleep(0)
    await wired.embeddings.aclose()
    await asyncio.gather(loading, return_exceptions=True)
    with pytest.raises(ClosedError):
        await wired.embeddings.embed_documents(["x"])

    assert wired.embeddings.loaded is None
    assert wired.model.closed == len(wired.loads) == 1


async def test_a_model_with_a_limit_counts() -> None:
    """An embedder that has a limit and cannot count tokens says so to its author."""

    class Forgetful(WordCounter):
        count_tokens = Embedder.count_tokens

    async def load() -> Embedder:
        return Forgetful()

    with pytest.raises(NotImplementedError, match="Forgetful"):
        await EmbeddingModel(load).embed_documents(["x"])


class Moody(WordCounter):
    """A model behind a service that fails now and then: what it raises is said in advance, call by call."""

    def __init__(self, *moods: EmbeddingError | None, at_once: int = 1, tokens: int | None = None) -> None:
        super().__init__()
        self.moods = list(moods)
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
            if self.moods and (mood := self.moods.pop(0)) is not None:
                raise mood
            return await super().embed_documents(texts)
        finally:
            self.busy -= 1


def over(model: Embedder, *, deadline: float = 60, cache: VectorCache | None = None) -> EmbeddingModel:
    async def load() -> Embedder:
        return model

    return EmbeddingModel(load, EmbeddingPolicy(deadline=deadline), cache=cache)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited, in seconds, without waiting: the loop's clock is moved on instead."""
    waited: list[float] = []
    loop_time = asyncio.BaseEventLoop.time
    real_sleep = asyncio.sleep

    async def sleep(delay: float, result: object = None) -> None:
        if delay > 0:
            waited.append(delay)
        await real_sleep(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(asyncio.BaseEventLoop, "time", lambda loop: loop_time(loop) + sum(waited))
    return waited


def busy(retry_after: float | None = None) -> EmbeddingError:
    return EmbeddingError("the service is busy", transient=True, retry_after=retry_after)


class TestFailuresForAWhile:
    async def test_only_what_failed_is_sent_again(self, pauses: list[float]) -> None:
        """A batch that fails for a while is repeated, alone, after a pause; the others are sent once."""
        model = Moody(None, busy(), busy(), None)
        vectors = await over(model).embed_documents(["a", "b", "c", "d d", "e"])

        assert model.calls == [["a", "b", "c"], ["d d", "e"]]
        assert model.attempts == 4
        assert len(vectors) == 5
        assert len(pauses) == 2
        assert pauses[0] <= 0.5
        assert pauses[1] <= 1.0

    async def test_the_service_says_when(self, pauses: list[float]) -> None:
        """Nobody calls again before the time that the service asks for, not even for another batch."""
        model = Moody(busy(retry_after=7), at_once=2)
        await over(model).embed_documents(["a", "b", "c", "d"])

        assert max(pauses) == pytest.approx(7, abs=0.1)
        assert model.attempts == 3

    async def test_not_for_ever(self, pauses: list[float]) -> None:
        """When the deadline has passed, or would pass before the service may be called, the failure is told."""
        model = Moody(*[busy() for _ in range(99)])
        with pytest.raises(EmbeddingError, match="busy"):
            await over(model, deadline=10).embed_documents(["a"])
        assert sum(pauses) <= 10
        assert model.attempts == len(pauses) + 1 > 3
        pauses.clear()
        with pytest.raises(EmbeddingError, match="busy"):
            await over(Moody(busy(retry_after=11)), deadline=10).embed_documents(["a"])
        assert pauses == []

    async def test_what_will_fail_again_is_not_repeated(self, pauses: list[float]) -> None:
        """An error that is not for a while (a wrong key) is told at once."""
        model = Moody(EmbeddingError("401"))
        with pytest.raises(EmbeddingError, match="401"):
            await over(model).embed_documents(["a"])
        assert (model.attempts, pauses) == (1, [])

    async def test_counting_is_repeated_as_well(self, pauses: list[float]) -> None:
        """A service that counts tokens may fail for a while, too."""

        class Counting(Moody):
            async def count_tokens(self, texts: Sequence[str]) -> list[int]:
                if self.moods and (mood := self.moods.pop(0)) is not None:
                    raise mood
                return await super().count_tokens(texts)

        assert len(await over(Counting(busy())).embed_documents(["a"])) == 1
        assert len(pauses) == 1

    async def test_queries_are_repeated_as_well(self, pauses: list[float]) -> None:
        """A query is as patient as a document."""
        assert len(await over(Moody(busy(), None)).embed_query("a")) == 3
        assert len(pauses) == 1


class TestPacking:
    async def test_tokens_of_a_batch(self) -> None:
        """A batch has no more texts, and no more tokens in all, than one call takes."""
        model = Moody(tokens=4)
        await over(model).embed_documents(["a a a", "b", "c c", "d d", "e", "f", "g", "h h h h h"])

        assert model.calls == [["a a a", "b"], ["c c", "d d"], ["e", "f", "g"], ["h h h h h"]]

    async def test_some_at_once(self) -> None:
        """As many calls are under way as the model takes, and no more."""
        model = Moody(at_once=3)
        await over(model).embed_documents([f"{n}" for n in range(40)])

        assert model.busiest == 3

    async def test_a_failure_ends_the_others(self) -> None:
        """When one batch fails for good, the calls beside it have ended before that is told."""
        model = Moody(EmbeddingError("no"), at_once=4)
        with pytest.raises(EmbeddingError, match="no"):
            await over(model).embed_documents([f"{n}" for n in range(40)])

        assert model.busy == 0

    async def test_cancelled(self) -> None:
        """A call that is cancelled leaves nothing running."""
        model = Moody(at_once=2)
        call = asyncio.create_task(over(model).embed_documents([f"{n}" for n in range(40)]))
        await model.begun.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

        assert call.cancelled()
        assert model.busy == 0

    async def test_repeats_cost_nothing(self) -> None:
        """Of 10,000 texts of which 9,000 are repeats, 1,000 are embedded, and all are told as done."""
        model, done = Moody(), list[int]()
        texts = [f"text {n % 1000}" for n in range(10_000)]
        vectors = await over(model).embed_documents(texts, progress=done.append)

        assert sum(map(len, model.calls)) == 1000
        assert sum(done) == len(vectors) == 10_000


class TestCached:
    @pytest.fixture
    def cache(self, tmp_path: Path) -> VectorCache:
        """A cache in a file."""
        return VectorCache(tmp_path / "cache" / "vectors.sqlite", 1_000_000)

    async def test_nothing_is_embedded_twice(self, cache: VectorCache, tmp_path: Path) -> None:
        """Another run, over the same file, asks the model for nothing that was embedded before."""
        texts = ["a", "b b", "a", "é\x00"]
        first = await over(Moody(), cache=cache).embed_documents(texts)
        await over(Moody(), cache=cache).embed_query("a")
        await cache.aclose()
        again = Moody()
        embeddings = over(again, cache=VectorCache(tmp_path / "cache" / "vectors.sqlite", 1_000_000))
        done: list[int] = []

        second = await embeddings.embed_documents(texts, progress=done.append)
        assert all(np.array_equal(one.vectors, other.vectors) for one, other in zip(first, second, strict=True))
        assert np.array_equal(await embeddings.embed_query("a"), [1, 1, 1])
        assert again.calls == []
        assert sum(done) == 4
        assert (await embeddings.health()).details["from_cache"] == 4
        await embeddings.aclose()

    async def test_what_was_done_before_a_failure_is_kept(self, cache: VectorCache) -> None:
        """After a failure, another call embeds only what is missing."""
        with pytest.raises(EmbeddingError):
            await over(Moody(None, EmbeddingError("no")), cache=cache).embed_documents(["a", "b", "c", "d", "e"])
        again = Moody()
        await over(again, cache=cache).embed_documents(["a", "b", "c", "d", "e"])

        assert again.calls == [["d", "e"]]

    async def test_a_query_is_no_document(self, cache: VectorCache) -> None:
        """A text that was embedded to be found is embedded anew to find others by."""
        model = Moody()
        embeddings = over(model, cache=cache)
        await embeddings.embed_documents(["a"])
        await embeddings.embed_query("a")

        assert model.calls == [["a"], ["a"]]

    async def test_a_text_that_was_cut_off_does_not_pass_for_one_that_fits(self, cache: VectorCache) -> None:
        """What was embedded with ``overflow = "truncate"`` does not hide that the text is too long."""
        long = "one two three four five six"

        async def load() -> Embedder:
            return Moody()

        cut = EmbeddingModel(load, EmbeddingPolicy(overflow="truncate"), cache=cache)
        (first,) = await cut.embed_documents([long])
        (second,) = await cut.embed_documents([long])
        assert np.array_equal(first.vectors, second.vectors)
        assert first == second
        assert first.spans == ((0, len("one two three four fiv")),)
        with pytest.raises(TextTooLongError):
            await EmbeddingModel(load, EmbeddingPolicy(), cache=cache).embed_documents([long])
