"""Failures and keys, the same for both providers."""

from __future__ import annotations

import asyncio
import logging
import socket
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import pytest

from pattern_cloud.cohere_embedder import CohereEmbedder
from pattern_cloud.cohere_options import CohereOptions
from pattern_cloud.openai_embedder import OpenAIEmbedder
from pattern_cloud.openai_options import OpenAIOptions
from pattern_core.abc import Embedder
from pattern_core.errors import ClosedError, ConfigError, EmbeddingError, InvalidVectorError, ModelUnavailableError
from pattern_core.toolkit import Secret

pytestmark = pytest.mark.anyio


@attrs.frozen
class Provider:
    """A provider, and how to test it.

    Attributes:
        options: The class of its options.
        open_it: Opens it.
        model: A model.
        path: The path of requests for vectors.
        prefix: The path of its base URL.
        variable: The variable for its key.
        address: The variable for its base URL.
        dimensions: The length of the model's vectors.
    """

    options: type[Any]
    open_it: Callable[[Any], Awaitable[Embedder]]
    model: str
    path: str
    prefix: str
    variable: str
    address: str
    dimensions: int

    def chosen(self, cloud: Any, **given: Any) -> Any:
        """Return options for the local server."""
        usual = {"model": self.model, "base_url": cloud.url + self.prefix, "api_key": Secret(cloud.key)}
        return self.options(**{**usual, **given})

    async def open(self, cloud: Any, **given: Any) -> Embedder:
        """Open it with the local server."""
        return await self.open_it(self.chosen(cloud, **given))

    def body(self, vectors: list[Any]) -> dict[str, Any]:
        """Return an answer with vectors."""
        if self.path == "/v2/embed":
            return {"id": "1", "embeddings": {"float": vectors}}
        return {"data": [{"index": index, "embedding": each} for index, each in enumerate(vectors)]}


OPENAI: Final = Provider(
    options=OpenAIOptions,
    open_it=OpenAIEmbedder.open,
    model="text-embedding-3-small",
    path="/v1/embeddings",
    prefix="/v1",
    variable="OPENAI_API_KEY",
    address="OPENAI_BASE_URL",
    dimensions=1536,
)
COHERE: Final = Provider(
    options=CohereOptions,
    open_it=CohereEmbedder.open,
    model="embed-english-v3.0",
    path="/v2/embed",
    prefix="",
    variable="CO_API_KEY",
    address="CO_API_URL",
    dimensions=1024,
)


@pytest.fixture(params=[OPENAI, COHERE], ids=["openai", "cohere"])
def provider(request: pytest.FixtureRequest) -> Provider:
    """Each provider."""
    found: Provider = request.param
    return found


class TestStatuses:
    """An error status becomes an error, which is transient or not."""

    @pytest.mark.parametrize(
        ("status", "headers", "transient", "retry_after"),
        [
            (429, {"Retry-After": "7"}, True, 7.0),
            (429, {"retry-after-ms": "250", "Retry-After": "7"}, True, 0.25),
            (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, True, 0.0),
            (503, {"Retry-After": "soon"}, True, None),
            (500, {}, True, None),
            (504, {}, True, None),
            (408, {}, True, None),
            (400, {}, False, None),
            (422, {}, False, None),
        ],
    )
    async def test_statuses_are_translated(
        self,
        cloud: Any,
        provider: Provider,
        reply: Callable[..., Any],
        status: int,
        headers: dict[str, str],
        transient: bool,
        retry_after: float | None,
    ) -> None:
        """429 and 5xx are transient, with the time to wait; the message is shown, and the embedder does not retry."""
        async with await provider.open(cloud) as embedder:
            said = {"message": "gone wrong " + "x" * 10_000}
            cloud.replies[provider.path] = [reply(status, {"error": said, **said}, headers)]
            with pytest.raises(EmbeddingError, match="gone wrong") as caught:
                await embedder.embed_documents(["tea"])
            assert (caught.value.transient, caught.value.retry_after) == (transient, retry_after)
            assert (caught.value.provider, caught.value.model) == (embedder.signature.provider, provider.model)
            assert len(str(caught.value)) < 1000
            assert len(cloud.requests) == 1
            assert (await embedder.embed_documents(["tea"])).shape == (1, provider.dimensions)

    async def test_an_answer_of_a_gateway(self, cloud: Any, provider: Provider, reply: Callable[..., Any]) -> None:
        """A page of HTML with status 502 is a transient failure."""
        async with await provider.open(cloud) as embedder:
            cloud.replies[provider.path] = [reply(502, "<html>Bad Gateway</html>")]
            with pytest.raises(EmbeddingError, match="Bad Gateway") as caught:
                await embedder.embed_documents(["tea"])
            assert caught.value.transient

    async def test_a_missing_model_is_named(self, cloud: Any, provider: Provider, reply: Callable[..., Any]) -> None:
        """If the service lacks the model, the error names it and is not transient."""
        async with await provider.open(cloud) as embedder:
            said = {"message": "no such model"}
            cloud.replies[provider.path] = [reply(404, {"error": said, **said})]
            with pytest.raises(ModelUnavailableError, match=provider.model) as caught:
                await embedder.embed_documents(["tea"])
            assert not caught.value.transient

    async def test_a_rejected_text_is_not_transient(self, cloud: Any, provider: Provider) -> None:
        """The service rejects a text over the limit, and the error names the option to set."""
        async with await provider.open(cloud) as embedder:
            with pytest.raises(EmbeddingError, match="max_tokens") as caught:
                await embedder.embed_documents(["tea", "tea " * 9000])
            assert not caught.value.transient


class TestConnections:
    """A failed connection is transient."""

    async def test_a_broken_connection_is_transient(
        self, cloud: Any, provider: Provider, reply: Callable[..., Any]
    ) -> None:
        """A connection that breaks in the middle of an answer is reported as broken."""
        async with await provider.open(cloud) as embedder:
            cloud.replies[provider.path] = [reply(body=provider.body([[1.0] * provider.dimensions]), cut=True)]
            with pytest.raises(EmbeddingError, match="the connection to .* broke") as caught:
                await embedder.embed_documents(["tea"])
            assert caught.value.transient
            assert len(cloud.requests) == 1

    @pytest.mark.parametrize("slow", [{"wait": True}, {"body": "x" * 1000, "drips": True}])
    async def test_a_slow_answer_times_out(
        self, cloud: Any, provider: Provider, reply: Callable[..., Any], slow: dict[str, Any]
    ) -> None:
        """A call ends after `timeout` seconds, even if bytes keep coming; the next one works."""
        async with await provider.open(cloud, timeout=0.5) as embedder:
            cloud.replies[provider.path] = [reply(**slow)]
            with pytest.raises(EmbeddingError, match=r"0\.5 seconds") as caught:
                await embedder.embed_documents(["tea"])
            assert caught.value.transient
            assert (await embedder.embed_documents(["tea"])).shape == (1, provider.dimensions)

    async def test_a_cancelled_call_leaves_the_client_usable(
        self, cloud: Any, provider: Provider, reply: Callable[..., Any]
    ) -> None:
        """A cancelled call does not disturb the next one."""
        async with await provider.open(cloud) as embedder:
            cloud.replies[provider.path] = [reply(wait=True)]
            call = asyncio.create_task(embedder.embed_documents(["tea"]))
            await asyncio.to_thread(cloud.waiting.wait)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (await embedder.embed_documents(["tea"])).shape == (1, provider.dimensions)

    async def test_an_unreachable_service_is_transient(self, cloud: Any, provider: Provider) -> None:
        """If nothing listens, the error names the address."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            async with await provider.open(cloud, base_url=f"http://{address}") as embedder:
                with pytest.raises(ModelUnavailableError, match=address) as caught:
                    await embedder.embed_query("tea")
        assert caught.value.transient

    async def test_a_closed_embedder_rejects_calls(self, cloud: Any, provider: Provider) -> None:
        """A call after closing raises `ClosedError`."""
        embedder = await provider.open(cloud)
        await embedder.aclose()
        with pytest.raises(ClosedError, match="used after it was closed"):
            await embedder.embed_query("tea")


class TestAnswers:
    """A wrong answer is an error."""

    @pytest.mark.parametrize(("full", "short", "zero"), [(1, 0, 0), (3, 0, 0), (1, 1, 0), (1, 0, 1), (0, 0, 0)])
    async def test_wrong_vectors_are_rejected(
        self, cloud: Any, provider: Provider, reply: Callable[..., Any], full: int, short: int, zero: int
    ) -> None:
        """Too few or too many vectors, a wrong length, and all zeros are errors."""
        size = provider.dimensions
        vectors = [[1.0] * size] * full + [[1.0] * (size - 1)] * short + [[0.0] * size] * zero
        async with await provider.open(cloud) as embedder:
            cloud.replies[provider.path] = [reply(body=provider.body(vectors))]
            with pytest.raises(InvalidVectorError) as caught:
                await embedder.embed_documents(["tea", "coffee"])
            assert caught.value.provider == embedder.signature.provider

    @pytest.mark.parametrize("body", ["no JSON", {"vectors": [[1.0]]}, [1], {"data": "x", "embeddings": "x"}])
    async def test_an_answer_of_another_api(
        self, cloud: Any, provider: Provider, reply: Callable[..., Any], body: object
    ) -> None:
        """An answer of another API is reported as unreadable or unusable."""
        async with await provider.open(cloud) as embedder:
            cloud.replies[provider.path] = [reply(body=body)]
            with pytest.raises(EmbeddingError, match="cannot be read|unusable"):
                await embedder.embed_documents(["tea"])


class TestKeys:
    """Keys come from options or variables, are sent to the intended server only, and are never shown."""

    async def test_the_usual_variables_are_read(
        self, cloud: Any, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without options, key and address come from the environment; white space around the key is ignored."""
        monkeypatch.setenv(provider.variable, f" {cloud.key}\n")
        monkeypatch.setenv(provider.address, cloud.url + provider.prefix)
        async with await provider.open(cloud, base_url=None, api_key=None) as embedder:
            await embedder.embed_query("tea")
        assert cloud.headers[-1]["authorization"] == f"Bearer {cloud.key}"

    async def test_a_variables_key_is_not_sent_to_a_configured_address(
        self, cloud: Any, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The variable's key is not sent to a `base_url` of the configuration; the error says how to send it."""
        monkeypatch.setenv(provider.variable, cloud.key)
        async with await provider.open(cloud, api_key=None) as embedder:
            with pytest.raises(ModelUnavailableError, match=r"\$\{" + provider.variable):
                await embedder.embed_query("tea")
        assert cloud.key not in cloud.headers[-1]["authorization"]

    async def test_a_server_without_keys_needs_none(self, cloud: Any, provider: Provider) -> None:
        """A server that requires no key works without one."""
        cloud.key = None
        async with await provider.open_it(provider.chosen(cloud, api_key=None)) as embedder:
            assert (await embedder.embed_query("tea")).shape == (provider.dimensions,)

    async def test_a_missing_key_is_reported_on_opening(self, cloud: Any, provider: Provider) -> None:
        """Without a key for the service itself, opening names the variable to set and sends nothing."""
        with pytest.raises(ModelUnavailableError, match=provider.variable):
            await provider.open(cloud, base_url=None, api_key=None)

    @pytest.mark.parametrize("status", [401, 403])
    @pytest.mark.parametrize("by_option", [True, False])
    async def test_a_rejected_key_is_named_and_never_shown(
        self,
        cloud: Any,
        provider: Provider,
        reply: Callable[..., Any],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        status: int,
        by_option: bool,
    ) -> None:
        """The error names the option or variable, is not transient and hides the key, even if the answer quotes it."""
        caplog.set_level(logging.DEBUG)
        if by_option:
            given: dict[str, Any] = {}
        else:
            given = {"api_key": None, "base_url": None}
            monkeypatch.setenv(provider.variable, cloud.key)
            monkeypatch.setenv(provider.address, cloud.url + provider.prefix)
        async with await provider.open(cloud, **given) as embedder:
            said = {"message": f"bad key {cloud.key}"}
            cloud.replies[provider.path] = [reply(status, {"error": said, **said}), reply(500, {"error": said, **said})]
            with pytest.raises(ModelUnavailableError, match="api_key" if by_option else provider.variable) as caught:
                await embedder.embed_documents(["tea"])
            assert not caught.value.transient
            with pytest.raises(EmbeddingError, match=r"bad key \*\*\*") as other:
                await embedder.embed_documents(["tea"])
            shown = [*traceback.format_exception(caught.value), *traceback.format_exception(other.value)]
            assert cloud.key not in "".join([*shown, caplog.text, repr(embedder), repr(vars(embedder))])

    @pytest.mark.parametrize("key", ["", "  ", "sk-secret\nsk-other", "sk-sécret", "sk secret"])
    async def test_an_invalid_key_is_rejected_and_not_shown(self, cloud: Any, provider: Provider, key: str) -> None:
        """A key that no header can hold is a `ConfigError`, which does not show it."""
        with pytest.raises(ConfigError, match="api_key") as caught:
            await provider.open(cloud, api_key=Secret(key))
        assert "secret" not in "".join(traceback.format_exception(caught.value))
        assert caught.value.key == "embeddings.api_key"

    async def test_a_variables_address_is_checked(
        self, cloud: Any, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A variable without a valid URL is named; its value is not shown."""
        monkeypatch.setenv(provider.address, "https://ada:hunter2@example.com")
        with pytest.raises(ConfigError, match=provider.address) as caught:
            await provider.open(cloud, base_url=None)
        assert "hunter2" not in str(caught.value)


class TestSignature:
    """The signature changes with the vectors."""

    async def test_another_server_is_another_revision(self, cloud: Any, provider: Provider) -> None:
        """The revision is the server's address, unless it is set."""
        there = f"http://localhost:1{provider.prefix}"
        revisions = [
            (await _closed(await provider.open(cloud, **given))).signature.revision
            for given in ({}, {"base_url": there}, {"revision": "mine"}, {"base_url": there, "revision": "mine"})
        ]
        assert revisions[0] == cloud.url.removeprefix("http://") + provider.prefix
        assert revisions[1] == f"localhost:1{provider.prefix}"
        assert revisions[2:] == ["mine", "mine"]

    async def test_the_service_itself(self, cloud: Any, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
        """Opening a known model of the service itself makes no request; the revision is the provider's name."""
        monkeypatch.setenv(provider.variable, "sk-unused")
        embedder = await _closed(await provider.open(cloud, base_url=None, api_key=None))
        signature = embedder.signature
        assert (signature.revision, signature.provider) == (signature.provider, signature.provider)
        assert (signature.model, signature.dimensions, signature.normalized) == (
            provider.model,
            provider.dimensions,
            True,
        )
        assert (await _closed(await provider.open(cloud, max_tokens=99))).signature.max_tokens == 99

    async def test_a_limit_above_the_models_is_rejected(self, cloud: Any, provider: Provider) -> None:
        """A token limit above the model's is a `ConfigError`."""
        with pytest.raises(ConfigError, match="max_tokens"):
            await provider.open(cloud, max_tokens=8193)


async def _closed(embedder: Embedder) -> Embedder:
    await embedder.aclose()
    return embedder
