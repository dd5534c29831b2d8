"""The embedder: vectors, prompts and token counts, off the event loop."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from pattern_core.errors import ClosedError, ConfigError
from pattern_torch.embedder import TorchEmbedder
from pattern_torch.options import TorchOptions
from pattern_torch.weights import find_model

pytestmark = pytest.mark.anyio

FACTS = (
    "Ada drinks one espresso before ten and tea after lunch.",
    "The night train to Oslo leaves at a quarter past six.",
    "Invoices have to be paid within thirty days.",
    "Write to a temporary file, sync it, then rename it over the old one.",
)


@pytest.fixture(scope="module")
async def embedder(minilm: str) -> AsyncIterator[TorchEmbedder]:
    """The real model."""
    async with await TorchEmbedder.open(TorchOptions(model=minilm)) as opened:
        yield opened


class TestVectors:
    """The vectors are the model's."""

    @pytest.mark.parametrize(
        ("question", "answer"),
        [
            ("What does she have in the morning?", 0),
            ("When can I travel to Norway?", 1),
            ("How long may a customer take to settle a bill?", 2),
            ("How do I replace a document without losing data in a crash?", 3),
        ],
    )
    async def test_meaning_beats_words(self, embedder: TorchEmbedder, question: str, answer: int) -> None:
        """A question is closest to the text that answers it, even if they share hardly a word."""
        scores = await embedder.embed_documents(FACTS) @ await embedder.embed_query(question)
        assert int(scores.argmax()) == answer

    async def test_vectors_are_those_of_sentence_transformers(self, embedder: TorchEmbedder, minilm: str) -> None:
        """Vectors equal those of the library to 1e-5, in the same order, for texts of mixed lengths."""
        from sentence_transformers import SentenceTransformer

        texts = [fact * repeats for repeats in (1, 4, 2) for fact in FACTS]
        bare = SentenceTransformer(str(find_model(TorchOptions(model=minilm))), device="cpu")
        expected = bare.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        found = await embedder.embed_documents(texts)
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() < 1e-5

    async def test_without_normalization(self, tiny_model: Callable[[str], Path]) -> None:
        """With normalize = false, vectors keep their length, and the signature says so."""
        options = TorchOptions(model=str(tiny_model("bert")), normalize=False)
        async with await TorchEmbedder.open(options) as plain:
            lengths = np.linalg.norm(await plain.embed_documents(["coffee", "tea in the morning"]), axis=1)
            assert not plain.signature.normalized
        assert (np.abs(lengths - 1) > 0.1).all()


class TestPrompts:
    """Queries and documents get the prompts that the signature names."""

    async def test_given_prompts_are_put_before_the_text(self, minilm: str, embedder: TorchEmbedder) -> None:
        """A query or document has the vector of its prompt and itself as one text."""
        options = TorchOptions(model=minilm, query_prompt="query: ", document_prompt="note: ")
        async with await TorchEmbedder.open(options) as prompted:
            query = await prompted.embed_query("tea")
            document = (await prompted.embed_documents(["tea"]))[0]
            counted = await prompted.count_tokens(["tea"])
            signature = prompted.signature
        assert np.allclose(query, await embedder.embed_query("query: tea"), atol=1e-5)
        assert np.allclose(document, (await embedder.embed_documents(["note: tea"]))[0], atol=1e-5)
        assert not np.allclose(query, document, atol=1e-2)
        assert counted == await embedder.count_tokens(["note: tea"])
        assert (signature.query_prompt, signature.document_prompt) == ("query: ", "note: ")

    @pytest.mark.parametrize("name", ["bge-small-en-v1.5", "bge-large-en", "BGE-base-EN-v1.5"])
    async def test_bge_gets_its_instruction(self, tiny_model: Callable[[str], Path], name: str) -> None:
        """A model with a name of BAAI's gets its model card's instruction for queries, and none for documents."""
        folder = tiny_model("bert").rename(Path(tiny_model("bert")).with_name(name))
        async with await TorchEmbedder.open(TorchOptions(model=str(folder))) as bge:
            assert bge.signature.query_prompt == "Represent this sentence for searching relevant passages: "
            assert not bge.signature.document_prompt
        async with await TorchEmbedder.open(TorchOptions(model=str(folder), query_prompt="")) as bge:
            assert not bge.signature.query_prompt, "the empty prompt is a choice"

    async def test_the_models_own_prompts_are_used(self, tiny_model: Callable[[str], Path]) -> None:
        """The prompts named query and passage in a model's configuration are used."""
        folder = tiny_model("bert")
        config = '{"prompts": {"query": "query: ", "passage": "tea: "}, "default_prompt_name": null}'
        (folder / "config_sentence_transformers.json").write_text(config)
        (folder / "modules.json").write_text(
            '[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},'
            ' {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]'
        )
        (folder / "1_Pooling").mkdir()
        pooling = '{"word_embedding_dimension": 32, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
        (folder / "1_Pooling" / "config.json").write_text(pooling)
        async with await TorchEmbedder.open(TorchOptions(model=str(folder))) as own:
            assert (own.signature.query_prompt, own.signature.document_prompt) == ("query: ", "tea: ")
            assert own.signature.revision.endswith("-cls"), "another pooling, another revision"


class TestTokens:
    """Token counts are those of the model."""

    async def test_long_texts_are_counted_whole_and_quietly(
        self, embedder: TorchEmbedder, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """The count goes beyond the token limit and includes the two special tokens, without a warning."""
        assert embedder.signature.max_tokens == 256
        assert await embedder.count_tokens(["tea", "tea " * 5000]) == [3, 5002]
        assert not caplog.records
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta"])
    async def test_architectures_of_bert_truncate_at_their_limit(
        self, tiny_model: Callable[[str], Path], kind: str
    ) -> None:
        """A plain folder of transformers works, with mean pooling, also for texts over the token limit."""
        async with await TorchEmbedder.open(TorchOptions(model=str(tiny_model(kind)))) as tiny:
            limit = tiny.signature.max_tokens
            assert limit == (39 if kind == "roberta" else 40)
            short, full, more = await tiny.embed_documents(["tea", "tea " * (limit - 2), "tea " * 100])
            assert np.allclose(full, more, atol=1e-6), "text beyond the limit has no effect"
            assert not np.allclose(short, full, atol=1e-6)
            assert tiny.signature.dimensions == 32
            assert tiny.signature.revision.endswith("-mean")


class TestEventLoop:
    """The event loop stays free, and calls can be cancelled."""

    async def test_the_loop_stays_free_while_texts_are_embedded(self, embedder: TorchEmbedder) -> None:
        """While the model works, other tasks run, and never wait for 200 ms."""
        longest = 0.0
        working = asyncio.create_task(embedder.embed_documents([f"{fact} {n}" for n in range(50) for fact in FACTS]))
        turns = 0
        while not working.done():
            before = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - before)
            turns += 1
        assert len(await working) == 200
        assert turns > 100
        assert longest < 0.2

    async def test_a_cancelled_call_leaves_the_model_usable(self, embedder: TorchEmbedder) -> None:
        """Cancelled calls, waiting or running, do not disturb later ones."""
        expected = await embedder.embed_query(FACTS[0])
        calls = [asyncio.create_task(embedder.embed_documents(FACTS * 10)) for _ in range(3)]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert np.allclose(await embedder.embed_query(FACTS[0]), expected, atol=1e-6)

    async def test_closing(self, tiny_model: Callable[[str], Path]) -> None:
        """Closing waits for running calls, frees the model and its thread, and rejects later calls."""
        tiny = await TorchEmbedder.open(TorchOptions(model=str(tiny_model("bert"))))
        model = weakref.ref(tiny._models[0]._transformer)
        (worker,) = tiny._threads._threads
        working = asyncio.create_task(tiny.embed_documents(["tea", "coffee"]))
        await asyncio.sleep(0)
        await tiny.aclose()
        await tiny.aclose()
        assert (await working).shape == (2, 32)
        del working
        gc.collect()
        assert model() is None
        assert not worker.is_alive()
        with pytest.raises(ClosedError, match="used after it was closed"):
            await tiny.embed_query("tea")
        with pytest.raises(ClosedError):
            await tiny.count_tokens(["tea"])


class TestOptions:
    """Every option is used or rejected."""

    @pytest.mark.parametrize("device", ["cuda:99", "warp-drive"])
    async def test_a_missing_device_is_named(self, tiny_model: Callable[[str], Path], device: str) -> None:
        """An unusable device is a `ConfigError` that names it."""
        with pytest.raises(ConfigError, match=device) as caught:
            await TorchEmbedder.open(TorchOptions(model=str(tiny_model("bert")), device=device))
        assert caught.value.key == "embeddings.device"

    async def test_the_batch_size_sets_the_size_of_a_call(self, tiny_model: Callable[[str], Path]) -> None:
        """`max_batch` grows with the option, and each call of the model gets `batch_size` texts."""
        sizes = []
        options = TorchOptions(model=str(tiny_model("bert")), batch_size=4)
        async with await TorchEmbedder.open(options) as tiny:
            tiny._models[0]._transformer.register_forward_hook(
                lambda _, given, __: sizes.append(len(given[0]["input_ids"]))
            )
            await tiny.embed_documents(["tea"] * tiny.max_batch)
        assert max(sizes) == 4
        assert sum(sizes) == tiny.max_batch

    async def test_the_number_of_threads_is_set(self, tiny_model: Callable[[str], Path]) -> None:
        """The option `threads` sets PyTorch's threads in the thread of the model."""
        import torch

        threads = torch.get_num_threads() + 1
        async with await TorchEmbedder.open(TorchOptions(model=str(tiny_model("bert")), threads=threads)) as tiny:
            assert tiny._threads.submit(torch.get_num_threads).result() == threads
