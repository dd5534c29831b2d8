"""The embedder: its requests to the server, and its use of the answers."""

from __future__ import annotations

import asyncio
import logging
import socket
import traceback
from collections.abc import Callable
from typing import Any, ClassVar, Final

import numpy as np
import pytest

from pattern_core.embedding.model import EmbeddingModel
from pattern_core.errors import ClosedError, ConfigError, EmbeddingError, InvalidVectorError, ModelUnavailableError
from pattern_ollama.embedder import OllamaEmbedder
from pattern_ollama.options import OllamaOptions

pytestmark = pytest.mark.anyio

EMBED: Final = "/api/embed"
SHOWN: Final = {"model_info": {"general.architecture": "bert", "bert.context_length": 512}}


def options(ollama: Any, **given: Any) -> OllamaOptions:
    """Return options for the local server."""
    return OllamaOptions(**{"model": "all-minilm", "host": ollama.url, **given})


class TestRequests:
    """Requests follow the options."""

    async def test_a_batch_is_one_request_without_truncation(self, ollama: Any) -> None:
        """One request holds all texts of a call, with truncate = false, the token limit and the options."""
        chosen = options(ollama, keep_alive="10m", dimensions=64)
        async with await OllamaEmbedder.open(chosen) as embedder:
            before = len(ollama.asked(EMBED))
            await embedder.embed_documents(["tea", "coffee"])
        (body,) = ollama.asked(EMBED)[before:]
        assert body == {
            "model": "all-minilm",
            "input": ["tea", "coffee"],
            "truncate": False,
            "options": {"num_ctx": 256},
            "keep_alive": "10m",
            "dimensions": 64,
        }

    async def test_unset_options_are_not_sent(self, ollama: Any) -> None:
        """Without options, neither keep_alive nor dimensions are sent; seconds are sent as a number."""
        async with (
            await OllamaEmbedder.open(options(ollama)),
            await OllamaEmbedder.open(options(ollama, keep_alive=-1)),
        ):
            plain, kept = ollama.asked(EMBED)
        assert {"keep_alive", "dimensions"}.isdisjoint(plain)
        assert kept["keep_alive"] == -1

    async def test_prompts_are_put_before_the_texts(self, ollama: Any) -> None:
        """Texts get the recommended prompts, or those of the options; the empty prompt is a choice."""
        ollama.model = "nomic-embed-text:latest"
        async with await OllamaEmbedder.open(options(ollama, model="nomic-embed-text", document_prompt="")) as embedder:
            await embedder.embed_documents(["tea"])
            await embedder.embed_query("tea")
            assert (embedder.signature.query_prompt, embedder.signature.document_prompt) == ("search_query: ", "")
        assert [body["input"] for body in ollama.asked(EMBED)[1:]] == [["tea"], ["search_query: tea"]]

    async def test_the_host_comes_from_the_environment(self, ollama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """OLLAMA_HOST names the server, unless the option does."""
        monkeypatch.setenv("OLLAMA_HOST", ollama.url)
        async with await OllamaEmbedder.open(OllamaOptions(model="all-minilm")):
            assert ollama.asked(EMBED)
        monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:1")
        async with await OllamaEmbedder.open(options(ollama)):
            assert len(ollama.asked(EMBED)) == 2

    async def test_limits(self, ollama: Any) -> None:
        """Batch size and concurrency come from the options."""
        async with await OllamaEmbedder.open(options(ollama, batch_size=7, concurrency=3)) as embedder:
            assert (embedder.max_batch, embedder.concurrency, embedder.max_batch_tokens) == (7, 3, None)


class TestSignature:
    """The signature changes with the vectors."""

    async def test_it_is_complete(self, ollama: Any) -> None:
        """It names the model, its digest, the dimensions, the prompts and the token limit."""
        async with await OllamaEmbedder.open(options(ollama, dimensions=64, query_prompt="q: ")) as embedder:
            signature = embedder.signature
        assert (signature.provider, signature.model, signature.revision) == ("ollama", "all-minilm", ollama.digest)
        assert (signature.dimensions, signature.normalized, signature.max_tokens) == (64, True, 256)
        assert (signature.query_prompt, signature.document_prompt) == ("q: ", "")

    async def test_other_weights_under_one_name_are_another_signature(self, ollama: Any) -> None:
        """After a pull of other weights the signature differs."""
        async with await OllamaEmbedder.open(options(ollama)) as embedder:
            before = embedder.signature
        ollama.digest = "f" * 64
        async with await OllamaEmbedder.open(options(ollama)) as embedder:
            assert embedder.signature != before
            assert embedder.signature.revision == "f" * 64

    @pytest.mark.parametrize(
        "name", ["all-minilm:latest", "library/all-minilm", "registry.ollama.ai/library/All-MiniLM"]
    )
    async def test_a_model_is_found_under_any_of_its_names(
        self, ollama: Any, reply: Callable[..., Any], name: str
    ) -> None:
        """The digest is found with and without tag, namespace and registry."""
        ollama.replies["/api/show"] = [reply(body=SHOWN)]
        ollama.replies[EMBED] = [reply(body={"embeddings": [[1.0] * 384]})]
        async with await OllamaEmbedder.open(options(ollama, model=name)) as embedder:
            assert embedder.signature.revision == ollama.digest

    async def test_an_unlisted_model_is_rejected(self, ollama: Any, reply: Callable[..., Any]) -> None:
        """A model that the server does not list has no known version, so it is not used."""
        ollama.replies["/api/show"] = [reply(body=SHOWN)]
        with pytest.raises(ModelUnavailableError, match="all-minilm:latest"):
            await OllamaEmbedder.open(options(ollama, model="other"))

    @pytest.mark.parametrize(
        ("context", "parameters", "chosen", "limit"),
        [
            (512, "num_ctx    256", None, 256),
            (512, "num_ctx    8192", None, 512),
            (2048, 'stop    "x"', None, 2048),
            (40960, "", None, 8192),
            (40960, "", 32768, 32768),
            (512, "num_ctx    256", 512, 512),
        ],
    )
    async def test_the_token_limit(
        self, ollama: Any, context: int, parameters: str, chosen: int | None, limit: int
    ) -> None:
        """It is the option, else the Modelfile's num_ctx, else the model's context up to 8,192; requests set it."""
        ollama.context, ollama.parameters = context, parameters
        async with await OllamaEmbedder.open(options(ollama, max_tokens=chosen)) as embedder:
            assert embedder.signature.max_tokens == limit
        assert ollama.asked(EMBED)[0]["options"] == {"num_ctx": limit}

    async def test_a_limit_above_the_models_is_rejected(self, ollama: Any) -> None:
        """A token limit above the model's context is a `ConfigError` that names the context."""
        with pytest.raises(ConfigError, match="512") as caught:
            await OllamaEmbedder.open(options(ollama, max_tokens=513))
        assert caught.value.key == "embeddings.max_tokens"


class TestLength:
    """Documents are never truncated silently."""

    async def test_short_texts_are_counted_without_a_request(self, ollama: Any) -> None:
        """A text with fewer bytes than the token limit needs no request."""
        async with await OllamaEmbedder.open(options(ollama)) as embedder:
            before = len(ollama.requests)
            assert await embedder.count_tokens(["tea", "é" * 100]) == [5, 202]
            assert len(ollama.requests) == before

    async def test_longer_texts_are_counted_by_the_model(self, ollama: Any) -> None:
        """A text with many bytes and few tokens gets its exact count; a rejected one gets more than the limit."""
        async with await OllamaEmbedder.open(options(ollama, document_prompt="note: ")) as embedder:
            fits, too_long = await embedder.count_tokens(["embarrassment " * 100, "a " * 300])
        assert fits == 103
        assert too_long > 256
        assert not any(body["truncate"] for body in ollama.asked(EMBED))

    async def test_a_server_that_truncates_silently(self, ollama: Any) -> None:
        """If an old server ignores truncate = false and reports its limit, the text counts as too long."""
        ollama.truncates_silently = True
        async with await OllamaEmbedder.open(options(ollama)) as embedder:
            (count,) = await embedder.count_tokens(["embarrassment " * 300])
        assert count > 256

    @pytest.mark.parametrize(
        "reply_",
        [
            (400, {"error": "the input length exceeds the context length"}),
            (400, {"error": "input exceeds maximum context length"}),
            (
                400,
                {
                    "error": '{"error":{"code":400,"message":"request (2622 tokens) exceeds the available context size"}}'
                },
            ),
            (500, {"error": "input is too large to process. increase the physical batch size"}),
        ],
    )
    async def test_a_rejected_text_is_not_transient(
        self, ollama: Any, reply: Callable[..., Any], reply_: tuple[int, Any]
    ) -> None:
        """For the messages of all versions, the error names the option to set and is not transient."""
        async with await OllamaEmbedder.open(options(ollama)) as embedder:
            ollama.replies[EMBED] = [reply(*reply_)]
            with pytest.raises(EmbeddingError, match="max_tokens") as caught:
                await embedder.embed_documents(["tea"])
            assert not caught.value.transient

    @pytest.mark.parametrize("never_truncates", [False, True])
    async def test_a_long_query_is_truncated(self, ollama: Any, never_truncates: bool) -> None:
        """Core truncates a query over the token limit, so that the server does not have to."""
        ollama.never_truncates = never_truncates
        model = EmbeddingModel(lambda: OllamaEmbedder.open(options(ollama)))
        vector = await model.embed_query("espresso tea " * 1000)
        await model.aclose()
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)
        assert not any(body["truncate"] for body in ollama.asked(EMBED))

    async def test_a_query_for_a_model_with_unknown_limit(self, ollama: Any, reply: Callable[..., Any]) -> None:
        """If the token limit is unknown, the server truncates queries, but no documents."""
        ollama.replies["/api/show"] = [reply(body={"model_info": {}})]
        async with await OllamaEmbedder.open(options(ollama)) as embedder:
            assert embedder.signature.max_tokens is None
            await embedder.embed_query("espresso tea " * 1000)
            with pytest.raises(EmbeddingError, match="max_tokens"):
                await embedder.embed_documents(["espresso tea " * 1000])


class TestFailures:
    """Each failure becomes an error with the reason, the server and the way out."""

    async def test_a_missing_model_is_named_with_the_command_to_get_it(self, ollama: Any) -> None:
        """The error says `ollama pull NAME` and is not transient."""
        with pytest.raises(ModelUnavailableError, match="ollama pull nomic-embed-text ") as caught:
            await OllamaEmbedder.open(options(ollama, model="nomic-embed-text"))
        assert (caught.value.provider, caught.value.model) == ("ollama", "nomic-embed-text")
        assert not caught.value.transient
        assert not ollama.asked("/api/pull")

    async def test_an_unreachable_server_is_transient(self) -> None:
        """If nothing listens, the error names the host and the variable."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            host = f"127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(ModelUnavailableError, match="OLLAMA_HOST") as caught:
                await OllamaEmbedder.open(OllamaOptions(host=host))
        assert host in str(caught.value)
        assert caught.value.transient

    @pytest.mark.parametrize("host", ["http://[::1", "localhost:port"])
    async def test_an_invalid_host_is_a_config_error(self, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
        """The error names an invalid host and its source."""
        with pytest.raises(ConfigError, match=r"embeddings\.host"):
            await OllamaEmbedder.open(OllamaOptions(host=host))
        monkeypatch.setenv("OLLAMA_HOST", host)
        with pytest.raises(ConfigError, match="OLLAMA_HOST"):
            await OllamaEmbedder.open(OllamaOptions())

    @pytest.mark.parametrize(
        ("status", "headers", "transient", "retry_after"),
        [
            (429, {"Retry-After": "7"}, True, 7.0),
            (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, True, 0.0),
            (503, {"Retry-After": "soon"}, True, None),
            (500, {}, True, None),
            (502, {}, True, None),
            (400, {}, False, None),
        ],
    )
    async def test_statuses_are_translated(
        self,
        ollama: Any,
        reply: Callable[..., Any],
        status: int,
        headers: dict[str, str],
        transient: bool,
        retry_after: float | None,
    ) -> None:
        """429 and 5xx are transient, with the time to wait; others are not. The message is shown, shortened."""
        async with await OllamaEmbedder.open(options(ollama)) as embedder:
            ollama.replies[EMBED] = [reply(status, "<html>gone wrong" + "x" * 10_000, headers)]
            with pytest.raises(EmbeddingError, match="gone wrong") as caught:
                await embedder.embed_documents(["tea"])
            assert (caught.value.transient, caught.value.retry_after) == (transient, retry_after)
            assert len(str(caught.value)) < 1000
            assert len(ollama.asked(EMBED)) == 2, "the embedder does not retry"
            assert (await embedder.embed_documents(["tea"])).shape == (1, 384)

    async def test_a_broken_connection_is_transient(self, ollama: Any, reply: Callable[..., Any]) -> None:
        """A connection that breaks in the middle of an answer is a transient failure."""
        async with await OllamaEmbedder.open(options(ollama)) as embedder:
            ollama.replies[EMBED] = [reply(body={"embeddings": [[1.0] * 384]}, cut=True)]
            with pytest.raises(EmbeddingError, match="the connection to .* broke") as caught:
                await embedder.embed_documents(["tea"])
            assert caught.value.transient

    @pytest.mark.parametrize("slow", [{"wait": True}, {"body": "x" * 1000, "drips": True}])
    async def test_a_slow_answer_times_out(self, ollama: Any, reply: Callable[..., Any], slow: dict[str, Any]) -> None:
        """A call ends after `timeout` seconds, even if bytes keep coming; the next one works."""
        async with await OllamaEmbedder.open(options(ollama, timeout=0.5)) as embedder:
            ollama.replies[EMBED] = [reply(**slow)]
            with pytest.raises(EmbeddingError, match=r"0\.5 seconds") as caught:
                await embedder.embed_documents(["tea"])
            assert caught.value.transient
            assert (await embedder.embed_documents(["tea"])).shape == (1, 384)

    async def test_a_cancelled_call_leaves_the_client_usable(self, ollama: Any, reply: Callable[..., Any]) -> None:
        """A cancelled call does not disturb the next one."""
        async with await OllamaEmbedder.open(options(ollama)) as embedder:
            ollama.replies[EMBED] = [reply(wait=True)]
            call = asyncio.create_task(embedder.embed_documents(["tea"]))
            await asyncio.to_thread(ollama.waiting.wait)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (await embedder.embed_documents(["tea"])).shape == (1, 384)

    @pytest.mark.parametrize(
        "body",
        [
            {"embeddings": [[1.0] * 384]},
            {"embeddings": [[1.0] * 384, [1.0] * 383]},
            {"embeddings": [[1.0] * 384, [0.0] * 384]},
            {"embeddings": []},
        ],
    )
    async def test_wrong_vectors_are_rejected(
        self, ollama: Any, reply: Callable[..., Any], body: dict[str, Any]
    ) -> None:
        """Too few vectors, a wrong length, and all zeros are errors."""
        async with await OllamaEmbedder.open(options(ollama)) as embedder:
            ollama.replies[EMBED] = [reply(body=body)]
            with pytest.raises(InvalidVectorError):
                await embedder.embed_documents(["tea", "coffee"])

    @pytest.mark.parametrize("body", ["no JSON", {"vectors": [[1.0]]}, [1]])
    async def test_an_answer_of_another_api(self, ollama: Any, reply: Callable[..., Any], body: object) -> None:
        """An answer of another API is reported as unreadable."""
        async with await OllamaEmbedder.open(options(ollama)) as embedder:
            ollama.replies[EMBED] = [reply(body=body)]
            with pytest.raises(EmbeddingError, match="cannot be read"):
                await embedder.embed_documents(["tea"])

    @pytest.mark.parametrize("status", [401, 403])
    async def test_a_rejected_key_is_named_and_not_shown(
        self,
        ollama: Any,
        reply: Callable[..., Any],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        status: int,
    ) -> None:
        """If a gateway rejects the key, the error names its variable, is not transient and hides the key."""
        monkeypatch.setenv("OLLAMA_API_KEY", "sk-very-secret")
        caplog.set_level(logging.DEBUG)
        ollama.replies["/api/show"] = [reply(status, {"error": "bad key sk-very-secret"})]
        with pytest.raises(ModelUnavailableError, match="OLLAMA_API_KEY") as caught:
            await OllamaEmbedder.open(options(ollama))
        assert not caught.value.transient
        assert ollama.headers[0]["authorization"] == "Bearer sk-very-secret"
        assert "very-secret" not in "".join([*traceback.format_exception(caught.value), caplog.text])

    async def test_a_key_that_cannot_be_sent_is_not_shown(self, ollama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A key with a line break cannot be a header; the error names the variable and hides the key."""
        monkeypatch.setenv("OLLAMA_API_KEY", "sk-very-secret\nx")
        with pytest.raises(EmbeddingError, match="OLLAMA_API_KEY") as caught:
            await OllamaEmbedder.open(options(ollama))
        assert "very-secret" not in "".join(traceback.format_exception(caught.value))

    async def test_a_closed_embedder_rejects_calls(self, ollama: Any) -> None:
        """A call after closing raises `ClosedError`."""
        embedder = await OllamaEmbedder.open(options(ollama))
        await embedder.aclose()
        with pytest.raises(ClosedError, match="used after it was closed"):
            await embedder.embed_query("tea")


class TestPulling:
    """With `auto_pull` a missing model is pulled, with progress."""

    LINES: ClassVar = (
        {"status": "pulling manifest"},
        *(
            {"status": "pulling 0a109f422b47", "digest": "0a1", "total": 10**9, "completed": n * 10**7}
            for n in range(101)
        ),
        {"status": "verifying sha256 digest"},
        {"status": "success"},
    )

    async def test_a_missing_model_is_pulled(self, ollama: Any, caplog: pytest.LogCaptureFixture) -> None:
        """The model is pulled and used, and a few log lines show the progress."""
        caplog.set_level(logging.INFO, "pattern_ollama")
        ollama.pulled = list(self.LINES)
        async with await OllamaEmbedder.open(options(ollama, model="granite-embedding", auto_pull=True)) as embedder:
            assert embedder.signature.model == "granite-embedding"
        assert ollama.asked("/api/pull") == [{"model": "granite-embedding", "stream": True, "insecure": False}]
        logged = [record.getMessage() for record in caplog.records if record.name.startswith("pattern_ollama")]
        assert "granite-embedding: pulling 0a109f422b47, 50 % of 1,000 MB" in logged
        assert 5 < len(logged) < 20

    async def test_a_terminal_shows_a_bar(
        self, ollama: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A terminal gets a progress bar, on the error stream."""
        monkeypatch.setenv("FORCE_COLOR", "1")
        ollama.pulled = list(self.LINES)
        async with await OllamaEmbedder.open(options(ollama, model="granite-embedding", auto_pull=True)):
            out, err = capsys.readouterr()
        assert not out
        assert "pulling 0a109f422b47" in err
        assert "━" in err

    async def test_an_existing_model_is_not_pulled(self, ollama: Any) -> None:
        """A model that the server has is used as it is."""
        async with await OllamaEmbedder.open(options(ollama, auto_pull=True)):
            assert not ollama.asked("/api/pull")

    @pytest.mark.parametrize(
        ("lines", "message", "transient"),
        [
            ([{"error": "pull model manifest: file does not exist"}], "no model 'tea'", False),
            ([{"status": "pulling manifest"}, {"error": "max retries exceeded"}], "max retries exceeded", True),
            ([{"status": "pulling manifest"}], "stopped pulling", True),
        ],
    )
    async def test_a_failed_pull(self, ollama: Any, lines: list[dict[str, str]], message: str, transient: bool) -> None:
        """The error distinguishes a model that the library lacks, an error during the pull and an early end."""
        ollama.pulled = lines
        with pytest.raises(EmbeddingError, match=message) as caught:
            await OllamaEmbedder.open(options(ollama, model="tea", auto_pull=True))
        assert caught.value.transient == transient
