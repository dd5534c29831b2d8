"""What the embedder asks of the server, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import logging
import socket
import traceback
from collections.abc import Callable
from typing import Any, ClassVar, Final

import numpy as np
import pytest

from pattern_core.errors import ClosedError, ConfigError, EmbeddingError, InvalidVectorError, ModelUnavailableError
from pattern_ollama.embedder import OllamaEmbedder
from pattern_ollama.plugin import OllamaOptions

pytestmark = pytest.mark.anyio

EMBED: Final = "/api/embed"
SHOWN: Final = {"model_info": {"general.architecture": "bert", "bert.context_length": 512}}


def options(ollama: Any, **given: Any) -> OllamaOptions:
    """Return options for the local server."""
    return OllamaOptions(**{"model": "all-minilm", "host": ollama.host, **given})


class TestRequests:
    """The server is asked for what the options say."""

    async def test_a_batch_is_one_request_that_forbids_cutting(self, ollama: Any) -> None:
        """All texts of a call go in one request, with truncate = false, the window and what else was set."""
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

    async def test_what_is_not_set_is_left_to_the_server(self, ollama: Any) -> None:
        """Without options, neither keep_alive nor dimensions are sent; a number of seconds is sent as one."""
        async with (
            await OllamaEmbedder.open(options(ollama)),
            await OllamaEmbedder.open(options(ollama, keep_alive=-1)),
        ):
            plain, kept = ollama.asked(EMBED)
        assert {"keep_alive", "dimensions"}.isdisjoint(plain)
        assert kept["keep_alive"] == -1

    async def test_prompts_are_put_before_the_texts(self, ollama: Any) -> None:
        """A model gets its makers' prompts, or those that are set; the empty one is a choice."""
        ollama.model = "nomic-embed-text:latest"
        async with await OllamaEmbedder.open(options(ollama, model="nomic-embed-text", document_prompt="")) as embedder:
            await embedder.embed_documents(["tea"])
            await embedder.embed_query("tea")
            assert (embedder.signature.query_prompt, embedder.signature.document_prompt) == ("search_query: ", "")
        assert [body["input"] for body in ollama.asked(EMBED)[1:]] == [["tea"], ["search_query: tea"]]

    async def test_the_host_comes_from_the_environment(self, ollama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the option, OLLAMA_HOST names the server; the option beats it."""
        monkeypatch.setenv("OLLAMA_HOST", ollama.host)
        async with await OllamaEmbedder.open(OllamaOptions(model="all-minilm")):
            assert ollama.asked(EMBED)
        monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:1")
        async with await OllamaEmbedder.open(options(ollama)):
            assert len(ollama.asked(EMBED)) == 2

    async def test_the_options_say_how_much_at_once(self, ollama: Any) -> None:
        """Core is told the size of a batch and how many to send at a time."""
        async with await OllamaEmbedder.open(options(ollama, batch_size=7, concurrency=3)) as embedder:
            assert (embedder.max_batch, embedder.concurrency, embedder.max_batch_tokens) == (7, 3, None)


class TestSignature:
    """What changes vectors changes the signature."""

    async def test_it_is_complete(self, ollama: Any) -> None:
        """It names the model, its digest, the length of the vectors, prompts and limit."""
        async with await OllamaEmbedder.open(options(ollama, dimensions=64, query_prompt="q: ")) as embedder:
            signature = embedder.signature
        assert (signature.provider, signature.model, signature.revision) == ("ollama", "all-minilm", ollama.digest)
        assert (signature.dimensions, signature.normalized, signature.max_tokens) == (64, True, 256)
        assert (signature.query_prompt, signature.document_prompt) == ("q: ", "")

    async def test_another_content_of_the_name_is_another_signature(self, ollama: Any) -> None:
        """After a pull that brought other weights, the signature differs; a tag that is left out does not matter."""
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
        """The digest is found whether tag, namespace and registry are written out or not."""
        ollama.replies["/api/show"] = [reply(body=SHOWN)]
        ollama.replies[EMBED] = [reply(body={"embeddings": [[1.0] * 384]})]
        async with await OllamaEmbedder.open(options(ollama, model=name)) as embedder:
            assert embedder.signature.revision == ollama.digest

    async def test_a_model_that_is_not_listed_has_no_identity(self, ollama: Any, reply: Callable[..., Any]) -> None:
        """Where the list lacks the model, nothing tells its versions apart, and it is not used."""
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
    async def test_the_limit_is_what_the_model_reads(
        self, ollama: Any, context: int, parameters: str, chosen: int | None, limit: int
    ) -> None:
        """It is the option, else the Modelfile's window, else the model's context up to 8,192; and it is asked for."""
        ollama.context, ollama.parameters = context, parameters
        async with await OllamaEmbedder.open(options(ollama, max_tokens=chosen)) as embedder:
            assert embedder.signature.max_tokens == limit
        assert ollama.asked(EMBED)[0]["options"] == {"num_ctx": limit}

    async def test_more_than_the_model_reads_is_refused(self, ollama: Any) -> None:
        """A limit above the model's context is an error of the configuration that says what the model reads."""
        with pytest.raises(ConfigError, match="512") as caught:
            await OllamaEmbedder.open(options(ollama, max_tokens=513))
        assert caught.value.key == "embeddings.max_tokens"


class TestLength:
    """No document is cut in silence."""

    async def test_short_texts_are_counted_without_asking(self, ollama: Any) -> None:
        """A text of fewer bytes than the model reads tokens is surely short enough: no request is made for it."""
        async with await OllamaEmbedder.open(options(ollama)) as embedder:
            before = len(ollama.requests)
            assert await embedder.count_tokens(["tea", "é" * 100]) == [5, 202]
            assert len(ollama.requests) == before

    async def test_longer_texts_are_counted_by_the_model(self, ollama: Any) -> None:
        """A text of many bytes and few tokens has its true count; one that is refused has more than the limit."""
        async with await OllamaEmbedder.open(options(ollama, document_prompt="note: ")) as embedder:
            fits, too_long = await embedder.count_tokens(["embarrassment " * 100, "a " * 300])
        assert fits == 103
        assert too_long > 256
        assert not any(body["truncate"] for body in ollama.asked(EMBED))

    async def test_a_server_that_cuts_in_silence_is_seen_through(self, ollama: Any) -> None:
        """An old server that ignores truncate = false reads up to its limit: such a text counts as too long."""
        ollama.cuts = True
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
    async def test_a_refused_text_is_no_passing_failure(
        self, ollama: Any, reply: Callable[..., Any], reply_: tuple[int, Any]
    ) -> None:
        """However a version says that a text is too long, the error says what to set, and is not to be repeated."""
        async with await OllamaEmbedder.open(options(ollama)) as embedder:
            ollama.replies[EMBED] = [reply(*reply_)]
            with pytest.raises(EmbeddingError, match="max_tokens") as caught:
                await embedder.embed_documents(["tea"])
            assert not caught.value.transient

    @pytest.mark.parametrize("stubborn", [False, True])
    async def test_a_long_query_is_cut(self, ollama: Any, stubborn: bool) -> None:
        """A query that is too long finds by its beginning, also where the server refuses to cut."""
        async with await OllamaEmbedder.open(options(ollama)) as embedder:
            ollama.refuses_always = stubborn
            vector = await embedder.embed_query("espresso tea " * 1000)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)


class TestFailures:
    """Each failure becomes an error that says what happened, where, and what to do."""

    async def test_a_missing_model_is_named_with_the_way_to_get_it(self, ollama: Any) -> None:
        """The error says `ollama pull NAME`, and that nothing is gained by repeating."""
        with pytest.raises(ModelUnavailableError, match="ollama pull nomic-embed-text ") as caught:
            await OllamaEmbedder.open(options(ollama, model="nomic-embed-text"))
        assert (caught.value.provider, caught.value.model) == ("ollama", "nomic-embed-text")
        assert not caught.value.transient
        assert not ollama.asked("/api/pull")

    async def test_a_server_that_is_not_there_is_named(self) -> None:
        """Where nobody listens the error names host and variable; the server may come."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            host = f"127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(ModelUnavailableError, match="OLLAMA_HOST") as caught:
                await OllamaEmbedder.open(OllamaOptions(host=host))
        assert host in str(caught.value)
        assert caught.value.transient

    @pytest.mark.parametrize("host", ["http://[::1", "localhost:port"])
    async def test_a_host_that_is_none_is_an_error_of_the_configuration(
        self, monkeypatch: pytest.MonkeyPatch, host: str
    ) -> None:
        """A host that cannot be read is named, with where it was written."""
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
        """429 and 5xx may pass and say how long to wait; other refusals stay. What the server said is shown, shortened."""
        async with await OllamaEmbedder.open(options(ollama)) as embedder:
            ollama.replies[EMBED] = [reply(status, "<html>gone wrong" + "x" * 10_000, headers)]
            with pytest.raises(EmbeddingError, match="gone wrong") as caught:
                await embedder.embed_documents(["tea"])
            assert (caught.value.transient, caught.value.retry_after) == (transient, retry_after)
            assert len(str(caught.value)) < 1000
            assert len(ollama.asked(EMBED)) == 2, "the provider does not repeat"
            assert (await embedder.embed_documents(["tea"])).shape == (1, 384)

    async def test_a_cut_connection_may_pass(self, ollama: Any, reply: Callable[..., Any]) -> None:
        """A connection that breaks in the midst of an answer is a passing failure."""
        async with await OllamaEmbedder.open(options(ollama)) as embedder:
            ollama.replies[EMBED] = [reply(body={"embeddings": [[1.0] * 384]}, cut=True)]
            with pytest.raises(EmbeddingError, match="broke the connection off") as caught:
                await embedder.embed_documents(["tea"])
            assert caught.value.transient

    @pytest.mark.parametrize("slow", [{"wait": True}, {"body": "x" * 1000, "drips": True}])
    async def test_a_slow_answer_is_not_waited_for(
        self, ollama: Any, reply: Callable[..., Any], slow: dict[str, Any]
    ) -> None:
        """After `timeout` seconds the call ends, also where something comes all the time; the next one works."""
        async with await OllamaEmbedder.open(options(ollama, timeout=0.5)) as embedder:
            ollama.replies[EMBED] = [reply(**slow)]
            with pytest.raises(EmbeddingError, match=r"0\.5 seconds") as caught:
                await embedder.embed_documents(["tea"])
            assert caught.value.transient
            assert (await embedder.embed_documents(["tea"])).shape == (1, 384)

    async def test_a_cancelled_call_leaves_the_client_usable(self, ollama: Any, reply: Callable[..., Any]) -> None:
        """A call that is cancelled while the server works does not disturb the next one."""
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
    async def test_vectors_that_cannot_be_right_are_refused(
        self, ollama: Any, reply: Callable[..., Any], body: dict[str, Any]
    ) -> None:
        """Too few vectors, one of another length, or one of zeros is an error, not a result."""
        async with await OllamaEmbedder.open(options(ollama)) as embedder:
            ollama.replies[EMBED] = [reply(body=body)]
            with pytest.raises(InvalidVectorError):
                await embedder.embed_documents(["tea", "coffee"])

    @pytest.mark.parametrize("body", ["no JSON", {"vectors": [[1.0]]}, [1]])
    async def test_an_answer_of_another_kind_is_an_error(
        self, ollama: Any, reply: Callable[..., Any], body: object
    ) -> None:
        """What is no answer of Ollama's is said to be none."""
        async with await OllamaEmbedder.open(options(ollama)) as embedder:
            ollama.replies[EMBED] = [reply(body=body)]
            with pytest.raises(EmbeddingError, match="cannot be read"):
                await embedder.embed_documents(["tea"])

    @pytest.mark.parametrize("status", [401, 403])
    async def test_a_refused_key_is_named_and_not_shown(
        self,
        ollama: Any,
        reply: Callable[..., Any],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        status: int,
    ) -> None:
        """Where a gateway refuses the key, the error names the variable that holds it; it is not repeated nor shown."""
        monkeypatch.setenv("OLLAMA_API_KEY", "sk-very-secret")
        caplog.set_level(logging.DEBUG)
        ollama.replies["/api/show"] = [reply(status, {"error": "bad key sk-very-secret"})]
        with pytest.raises(ModelUnavailableError, match="OLLAMA_API_KEY") as caught:
            await OllamaEmbedder.open(options(ollama))
        assert not caught.value.transient
        assert ollama.headers[0]["authorization"] == "Bearer sk-very-secret"
        assert "very-secret" not in "".join([*traceback.format_exception(caught.value), caplog.text])

    async def test_a_key_that_cannot_be_sent_is_not_shown(self, ollama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A key of two lines is no header; the error names the variable and not the key."""
        monkeypatch.setenv("OLLAMA_API_KEY", "sk-very-secret\nx")
        with pytest.raises(EmbeddingError, match="OLLAMA_API_KEY") as caught:
            await OllamaEmbedder.open(options(ollama))
        assert "very-secret" not in "".join(traceback.format_exception(caught.value))

    async def test_closing_refuses_what_comes_later(self, ollama: Any) -> None:
        """After closing, a call is an error that says so."""
        embedder = await OllamaEmbedder.open(options(ollama))
        await embedder.aclose()
        with pytest.raises(ClosedError, match="used after it was closed"):
            await embedder.embed_query("tea")


class TestPulling:
    """With `auto_pull` a missing model is pulled, and one sees it coming."""

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
        """The model is pulled and used, and the log tells of it in a few lines with how far it has come."""
        caplog.set_level(logging.INFO, "pattern_ollama")
        ollama.pulled = list(self.LINES)
        async with await OllamaEmbedder.open(options(ollama, model="granite-embedding", auto_pull=True)) as embedder:
            assert embedder.signature.model == "granite-embedding"
        assert ollama.asked("/api/pull") == [{"model": "granite-embedding", "stream": True, "insecure": False}]
        said = [record.getMessage() for record in caplog.records if record.name.startswith("pattern_ollama")]
        assert "granite-embedding: pulling 0a109f422b47, 50 % of 1,000 MB" in said
        assert 5 < len(said) < 20

    async def test_a_terminal_shows_a_bar(
        self, ollama: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """On a terminal there is a progress bar, on the error stream."""
        monkeypatch.setenv("FORCE_COLOR", "1")
        ollama.pulled = list(self.LINES)
        async with await OllamaEmbedder.open(options(ollama, model="granite-embedding", auto_pull=True)):
            out, err = capsys.readouterr()
        assert not out
        assert "pulling 0a109f422b47" in err
        assert "━" in err

    async def test_nothing_is_pulled_where_the_model_is_there(self, ollama: Any) -> None:
        """A model that the server has is used as it is."""
        async with await OllamaEmbedder.open(options(ollama, auto_pull=True)):
            assert not ollama.asked("/api/pull")

    @pytest.mark.parametrize(
        ("lines", "said", "transient"),
        [
            ([{"error": "pull model manifest: file does not exist"}], "no model 'tea'", False),
            ([{"status": "pulling manifest"}, {"error": "max retries exceeded"}], "max retries exceeded", True),
            ([{"status": "pulling manifest"}], "stopped pulling", True),
        ],
    )
    async def test_a_pull_that_fails_says_why(
        self, ollama: Any, lines: list[dict[str, str]], said: str, transient: bool
    ) -> None:
        """A model that the library lacks, an error on the way and an early end are told apart."""
        ollama.pulled = lines
        with pytest.raises(EmbeddingError, match=said) as caught:
            await OllamaEmbedder.open(options(ollama, model="tea", auto_pull=True))
        assert caught.value.transient == transient
