"""Failures of an embedding service as errors of pattern-core, and its vectors."""

from __future__ import annotations

import asyncio
import math
import traceback
from typing import Any

import numpy as np
import pytest

from pattern_core.errors import ClosedError, ConfigError, EmbeddingError, InvalidVectorError, ModelUnavailableError
from pattern_core.toolkit import ApiKey, EmbeddingService, ServiceHints

pytestmark = pytest.mark.anyio

HINTS = ServiceHints(timeout="Wait.", unreachable="Connect.", unreadable="Look.", too_long="Shorten.")


class TooLongError(EmbeddingError):
    """An error class of a plugin."""


SERVICE = EmbeddingService(
    provider="acme",
    model="small",
    name="Acme (api.acme.com)",
    timeout=0.05,
    key=ApiKey("sk-secret", "the environment variable ACME_API_KEY"),
    hints=HINTS,
    too_long_error=TooLongError,
)


class TransportError(Exception):
    """Named like the class of httpx."""


class ConnectError(TransportError):
    """Named like the class of httpx."""


class TimeoutException(TransportError):  # noqa: N818 - as httpx names it
    """Named like the class of httpx."""


class ReadTimeout(TimeoutException):
    """Named like the class of httpx."""


class LocalProtocolError(TransportError):
    """Named like the class of httpx."""


async def raised(error: Exception, **given: Any) -> EmbeddingError:
    """Return the error for an exception of a client."""
    with pytest.raises(EmbeddingError) as caught:
        async with SERVICE.translated_errors(**given):
            raise error
    return caught.value


class TestTranslation:
    """Every exception becomes an `EmbeddingError` that names provider, model and service."""

    @pytest.mark.parametrize(
        ("error", "kind", "transient", "message"),
        [
            (TimeoutError(), EmbeddingError, True, "did not answer within 0.05 seconds. Wait."),
            (ReadTimeout(), EmbeddingError, True, "did not answer within 0.05 seconds. Wait."),
            (ConnectionRefusedError(), ModelUnavailableError, True, "cannot be reached. Connect."),
            (ConnectError(), ModelUnavailableError, True, "cannot be reached. Connect."),
            (ConnectionResetError("gone"), EmbeddingError, True, "broke (ConnectionResetError: gone)."),
            (TransportError("gone"), EmbeddingError, True, "broke (TransportError: gone)."),
            (KeyError("data"), EmbeddingError, False, "an answer that cannot be read (KeyError). Look."),
        ],
    )
    async def test_exceptions(self, error: Exception, kind: type, transient: bool, message: str) -> None:
        """Time-outs and failed connections are transient; the hint is the end of the message."""
        found = await raised(error)
        assert type(found) is kind
        assert (found.provider, found.model, found.transient) == ("acme", "small", transient)
        assert message in str(found)
        assert "Acme (api.acme.com)" in str(found)

    async def test_the_key_is_not_shown(self) -> None:
        """Neither a message, nor a cause, nor the repr shows the key, even if a client's exception does."""
        for error in (
            TransportError("header sk-secret"),
            LocalProtocolError("b'sk-secret\\nx'"),
            ValueError("sk-secret"),
        ):
            found = await raised(error)
            assert found.__cause__ is None
            assert "secret" not in "".join(traceback.format_exception(found))
        assert "secret" not in repr(SERVICE)
        assert "ACME_API_KEY" in str(await raised(LocalProtocolError()))

    async def test_a_plugin_translates_first(self) -> None:
        """The plugin's translation precedes the usual one, which handles the rest."""
        found = await raised(KeyError(), translate=lambda _: SERVICE.status_error(503, "busy"))
        assert found.transient
        assert "HTTP 503: busy" in str(found)
        assert "cannot be read" in str(await raised(KeyError(), translate=lambda _: None))

    async def test_errors_of_pattern_core_are_kept(self) -> None:
        """An error of pattern-core is not translated."""
        with pytest.raises(ConfigError, match="mine"):
            async with SERVICE.translated_errors():
                raise ConfigError("mine")

    async def test_the_time_of_a_call_is_limited(self) -> None:
        """A call ends after the time-out, unless the plugin limits it itself."""
        with pytest.raises(EmbeddingError, match="did not answer"):
            async with SERVICE.translated_errors():
                await asyncio.Event().wait()
        async with SERVICE.translated_errors(timed=False):
            await asyncio.sleep(2 * SERVICE.timeout)

    async def test_a_cancellation_is_kept(self) -> None:
        """A cancelled call raises `CancelledError`."""

        async def call() -> None:
            async with SERVICE.translated_errors(timed=False):
                await asyncio.Event().wait()

        task = asyncio.create_task(call())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class TestStatuses:
    """An HTTP status becomes an error, which is transient or not."""

    @pytest.mark.parametrize(("status", "transient"), [(400, False), (408, True), (422, False), (425, True)])
    @pytest.mark.parametrize("permanent", [False, True])
    async def test_transient_statuses(self, status: int, transient: bool, permanent: bool) -> None:
        """The plugin can declare an error permanent, whatever the status."""
        found = SERVICE.status_error(status, "no", permanent=permanent)
        assert found.transient == (transient and not permanent)
        assert f"failed with 'small' (HTTP {status}: no)" in str(found)

    async def test_a_wait_is_passed_on(self) -> None:
        """Statuses from 500 on and an interrupted stream are transient; ``Retry-After`` is kept."""
        found = SERVICE.status_error(503, "busy", {"retry-after": "7"})
        assert (found.transient, found.retry_after) == (True, 7.0)
        stream = SERVICE.status_error(None, "gone")
        assert stream.transient
        assert "(gone)" in str(stream)

    @pytest.mark.parametrize("status", [401, 403])
    async def test_a_rejected_key(self, status: int) -> None:
        """The error names the source of the key, and not the answer, which may quote it."""
        found = SERVICE.status_error(status, "bad key sk-secret")
        assert isinstance(found, ModelUnavailableError)
        assert not found.transient
        assert "The key is in the environment variable ACME_API_KEY." in str(found)
        assert "secret" not in str(found)

    async def test_a_missing_model(self) -> None:
        """Status 404 is a missing model, or another service."""
        found = SERVICE.status_error(404, "nope")
        assert isinstance(found, ModelUnavailableError)
        assert "has no model 'small'" in str(found)

    @pytest.mark.parametrize(
        "message",
        [
            "This model's maximum context length is 8192 tokens, however you requested 9000.",
            "too many tokens: total number of tokens in the prompt cannot exceed 512",
            "the input length exceeds the context length",
            "request (2622 tokens) exceeds the available context size",
            "input is too large to process. increase the physical batch size",
            "inputs must have less than the maximum number of tokens",
        ],
    )
    async def test_a_text_over_the_limit(self, message: str) -> None:
        """A text over the token limit has the plugin's class of error, with its hint, and is not transient."""
        for status in (400, 500):
            found = SERVICE.status_error(status, message)
            assert type(found) is TooLongError
            assert str(found).endswith("Shorten.")
            assert not found.transient

    async def test_messages_are_redacted(self) -> None:
        """A message is shown on one line, without the key, with at most 300 characters."""
        assert SERVICE.redact("a\n  b sk-secret " + "x" * 1000) == ("a b *** " + "x" * 1000)[:300]


class TestVectors:
    """Vectors are checked, and scaled to length 1."""

    async def test_they_are_scaled(self) -> None:
        """The result is float32, in the same order."""
        vectors = SERVICE.check_vectors([[3, 4], [0, 2]], 2, 2)
        assert vectors.dtype == np.float32
        assert np.allclose(vectors, np.array([[0.6, 0.8], [0, 1]]))

    @pytest.mark.parametrize(
        "vectors", [[], [[1, 2]], [[1, 2], [1, 2, 3]], [[1, 2], [0, 0]], [[1, 2], [math.nan, 1]], [[1, 2], "x"]]
    )
    @pytest.mark.parametrize("dimensions", [None, 2])
    async def test_unusable_vectors(self, vectors: list[Any], dimensions: int | None) -> None:
        """Wrong counts, wrong lengths, zeros, NaN and other values are errors that name provider and model."""
        with pytest.raises(InvalidVectorError, match="Acme") as caught:
            SERVICE.check_vectors(vectors, 2, dimensions)
        assert (caught.value.provider, caught.value.model) == ("acme", "small")


async def test_a_closed_embedder() -> None:
    """The error for use after closing names the model."""
    assert isinstance(SERVICE.closed_error(), ClosedError)
    assert "'small'" in str(SERVICE.closed_error())
