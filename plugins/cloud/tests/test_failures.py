"""What becomes of failures and keys, the same for both providers."""

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
from pattern_cloud.cohere_plugin import CohereOptions
from pattern_cloud.openai_embedder import OpenAIEmbedder
from pattern_cloud.openai_plugin import OpenAIOptions
from pattern_core.abc import Embedder
from pattern_core.errors import ClosedError, ConfigError, EmbeddingError, InvalidVectorError, ModelUnavailableError
from pattern_core.toolkit import Secret

pytestmark = pytest.mark.anyio


@attrs.frozen
class Provider:
    """One of the two.

    Attributes:
        options: The class of its options.
        open_it: Opens it.
        model: A model whose vectors have `dimensions` numbers.
        path: Where it asks for vectors.
        prefix: What its base URL ends in.
        variable: The variable for its key.
        address: The variable for its address.
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
        """Open it over the local server."""
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
    """Each provider in turn."""
    found: Provider = request.param
    return found


class TestStatuses:
    """An answer that says no becomes an error that tells whether to try again."""

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
    async def test_they_are_translated(
        self,
        cloud: Any,
        provider: Provider,
        reply: Callable[..., Any],
        status: int,
        headers: dict[str, str],
        transient: bool,
        retry_after: float | None,
    ) -> None:
        """429 and 5xx may pass and say how long to wait; what was said is shown, and the call is not repeated here."""
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

    async def test_an_answer_of_a_gateway_is_read(
        self, cloud: Any, provider: Provider, reply: Callable[..., Any]
    ) -> None:
        """A page of HTML with status 502 is a passing failure as well."""
        async with await provider.open(cloud) as embedder:
            cloud.replies[provider.path] = [reply(502, "<html>Bad Gateway</html>")]
            with pytest.raises(EmbeddingError, match="Bad Gateway") as caught:
                await embedder.embed_documents(["tea"])
            assert caught.value.transient

    async def test_a_missing_model_is_named(self, cloud: Any, provider: Provider, reply: Callable[..., Any]) -> None:
        """Where the service does not know the model, the error says so and is not to be repeated."""
        async with await provider.open(cloud) as embedder:
            said = {"message": "no such model"}
            cloud.replies[provider.path] = [reply(404, {"error": said, **said})]
            with pytest.raises(ModelUnavailableError, match=provider.model) as caught:
                await embedder.embed_documents(["tea"])
            assert not caught.value.transient

    async def test_a_refused_text_is_no_passing_failure(self, cloud: Any, provider: Provider) -> None:
        """The service cuts nothing: it refuses a text that is too long, and the error says what to set."""
        async with await provider.open(cloud) as embedder:
            with pytest.raises(EmbeddingError, match="max_tokens") as caught:
                await embedder.embed_documents(["tea", "tea " * 9000])
            assert not caught.value.transient


class TestConnections:
    """A connection that fails is a passing failure."""

    async def test_a_cut_connection_may_pass(self, cloud: Any, provider: Provider, reply: Callable[..., Any]) -> None:
        """One that breaks in the midst of an answer is said to be broken."""
        async with await provider.open(cloud) as embedder:
            cloud.replies[provider.path] = [reply(body=provider.body([[1.0] * provider.dimensions]), cut=True)]
            with pytest.raises(EmbeddingError, match="broke the connection off") as caught:
                await embedder.embed_documents(["tea"])
            assert caught.value.transient
            assert len(cloud.requests) == 1

    @pytest.mark.parametrize("slow", [{"wait": True}, {"body": "x" * 1000, "drips": True}])
    async def test_a_slow_answer_is_not_waited_for(
        self, cloud: Any, provider: Provider, reply: Callable[..., Any], slow: dict[str, Any]
    ) -> None:
        """After `timeout` seconds the call ends, also where something comes all the time; the next one works."""
        async with await provider.open(cloud, timeout=0.5) as embedder:
            cloud.replies[provider.path] = [reply(**slow)]
            with pytest.raises(EmbeddingError, match=r"0\.5 seconds") as caught:
                await embedder.embed_documents(["tea"])
            assert caught.value.transient
            assert (await embedder.embed_documents(["tea"])).shape == (1, provider.dimensions)

    async def test_a_cancelled_call_leaves_the_client_usable(
        self, cloud: Any, provider: Provider, reply: Callable[..., Any]
    ) -> None:
        """A call that is cancelled while the service works does not disturb the next one."""
        async with await provider.open(cloud) as embedder:
            cloud.replies[provider.path] = [reply(wait=True)]
            call = asyncio.create_task(embedder.embed_documents(["tea"]))
            await asyncio.to_thread(cloud.waiting.wait)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (await embedder.embed_documents(["tea"])).shape == (1, provider.dimensions)

    async def test_a_service_that_is_not_there_may_come(self, cloud: Any, provider: Provider) -> None:
        """Where nobody listens the error names the address."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            place = f"127.0.0.1:{taken.getsockname()[1]}"
            async with await provider.open(cloud, base_url=f"http://{place}") as embedder:
                with pytest.raises(ModelUnavailableError, match=place) as caught:
                    await embedder.embed_query("tea")
        assert caught.value.transient

    async def test_closing_refuses_what_comes_later(self, cloud: Any, provider: Provider) -> None:
        """After closing, a call is an error that says so."""
        embedder = await provider.open(cloud)
        await embedder.aclose()
        with pytest.raises(ClosedError, match="used after it was closed"):
            await embedder.embed_query("tea")


class TestAnswers:
    """An answer that cannot be right is an error, not a result."""

    @pytest.mark.parametrize(("full", "short", "zero"), [(1, 0, 0), (3, 0, 0), (1, 1, 0), (1, 0, 1), (0, 0, 0)])
    async def test_wrong_vectors_are_refused(
        self, cloud: Any, provider: Provider, reply: Callable[..., Any], full: int, short: int, zero: int
    ) -> None:
        """Too few or too many vectors, one of another length, or one of zeros."""
        size = provider.dimensions
        vectors = [[1.0] * size] * full + [[1.0] * (size - 1)] * short + [[0.0] * size] * zero
        async with await provider.open(cloud) as embedder:
            cloud.replies[provider.path] = [reply(body=provider.body(vectors))]
            with pytest.raises(InvalidVectorError) as caught:
                await embedder.embed_documents(["tea", "coffee"])
            assert caught.value.provider == embedder.signature.provider

    @pytest.mark.parametrize("body", ["no JSON", {"vectors": [[1.0]]}, [1], {"data": "x", "embeddings": "x"}])
    async def test_an_answer_of_another_kind_is_an_error(
        self, cloud: Any, provider: Provider, reply: Callable[..., Any], body: object
    ) -> None:
        """What is no answer of this API is said to be none."""
        async with await provider.open(cloud) as embedder:
            cloud.replies[provider.path] = [reply(body=body)]
            with pytest.raises(EmbeddingError, match="cannot be"):
                await embedder.embed_documents(["tea"])


class TestKeys:
    """A key is found where it usually is, goes nowhere else, and is never shown."""

    async def test_the_usual_variables_are_read(
        self, cloud: Any, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without options, key and address come from the environment; blanks round the key do no harm."""
        monkeypatch.setenv(provider.variable, f" {cloud.key}\n")
        monkeypatch.setenv(provider.address, cloud.url + provider.prefix)
        async with await provider.open(cloud, base_url=None, api_key=None) as embedder:
            await embedder.embed_query("tea")
        assert cloud.headers[-1]["authorization"] == f"Bearer {cloud.key}"

    async def test_a_key_is_not_sent_to_another_address_unasked(
        self, cloud: Any, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The variable's key does not go to a `base_url` of the configuration, and the refusal says how to send it."""
        monkeypatch.setenv(provider.variable, cloud.key)
        async with await provider.open(cloud, api_key=None) as embedder:
            with pytest.raises(ModelUnavailableError, match=r"\$\{" + provider.variable):
                await embedder.embed_query("tea")
        assert cloud.key not in cloud.headers[-1]["authorization"]

    async def test_a_server_without_keys_needs_none(self, cloud: Any, provider: Provider) -> None:
        """A server that wants no key works without one."""
        cloud.key = None
        async with await provider.open_it(provider.chosen(cloud, api_key=None)) as embedder:
            assert (await embedder.embed_query("tea")).shape == (provider.dimensions,)

    async def test_no_key_is_said_before_anything_is_sent(self, cloud: Any, provider: Provider) -> None:
        """Where the service itself is meant and there is no key, opening says which variable to set."""
        with pytest.raises(ModelUnavailableError, match=provider.variable):
            await provider.open(cloud, base_url=None, api_key=None)

    @pytest.mark.parametrize("status", [401, 403])
    @pytest.mark.parametrize("by_option", [True, False])
    async def test_a_refused_key_is_named_and_never_shown(
        self,
        cloud: Any,
        provider: Provider,
        reply: Callable[..., Any],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        status: int,
        by_option: bool,
    ) -> None:
        """The error names the variable or the option, is not repeated, and shows no key, though the service does."""
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
    async def test_what_cannot_be_a_key_is_refused_unshown(self, cloud: Any, provider: Provider, key: str) -> None:
        """A key that no header can hold is an error of the configuration that does not show it."""
        with pytest.raises(ConfigError, match="api_key") as caught:
            await provider.open(cloud, api_key=Secret(key))
        assert "secret" not in "".join(traceback.format_exception(caught.value))
        assert caught.value.key == "embeddings.api_key"

    async def test_an_address_of_the_environment_is_checked(
        self, cloud: Any, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A variable that holds no URL is named, and what it holds is not shown."""
        monkeypatch.setenv(provider.address, "https://ada:hunter2@example.com")
        with pytest.raises(ConfigError, match=provider.address) as caught:
            await provider.open(cloud, base_url=None)
        assert "hunter2" not in str(caught.value)


class TestSignature:
    """What changes vectors changes the signature."""

    async def test_another_server_is_another_content(self, cloud: Any, provider: Provider) -> None:
        """The server's address tells contents of one name apart, unless the user names the content."""
        there = f"http://localhost:1{provider.prefix}"
        revisions = [
            (await _closed(await provider.open(cloud, **given))).signature.revision
            for given in ({}, {"base_url": there}, {"revision": "mine"}, {"base_url": there, "revision": "mine"})
        ]
        assert revisions[0] == cloud.url.removeprefix("http://") + provider.prefix
        assert revisions[1] == f"localhost:1{provider.prefix}"
        assert revisions[2:] == ["mine", "mine"]

    async def test_the_service_itself_is_named_as_such(
        self, cloud: Any, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A known model of the service itself is opened without a request; its signature is complete."""
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

    async def test_more_than_the_model_reads_is_refused(self, cloud: Any, provider: Provider) -> None:
        """A limit above the model's is an error of the configuration."""
        with pytest.raises(ConfigError, match="max_tokens"):
            await provider.open(cloud, max_tokens=8193)


async def _closed(embedder: Embedder) -> Embedder:
    await embedder.aclose()
    return embedder
