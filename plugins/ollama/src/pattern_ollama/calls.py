"""Calls of the server: the client, how long they may take, and what becomes of their errors."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from pattern_core.errors import ConfigError, EmbeddingError, ModelUnavailableError
from pattern_core.toolkit import retry_after

from .plugin import OllamaOptions

if TYPE_CHECKING:
    from ollama import AsyncClient, ResponseError

__all__ = ["PROVIDER", "TextRefusedError", "answering", "make_client", "shown_host"]

PROVIDER: Final = "ollama"

_PASSING: Final = frozenset({-1, 408, 425, 429})
"""Answers after which another attempt may succeed, besides those from 500 on. -1: an error in the midst of an answer."""
_TOO_LONG: Final = re.compile(
    r"context (length|size)|exceed_context_size|input (length|is too large)|exceeds? the (maximum )?context",
    re.IGNORECASE,
)
"""How versions of the server say that a text is too long."""
_LONGEST: Final = 300
"""The most characters of an answer that an error shows."""


class TextRefusedError(EmbeddingError):
    """Raised when the server says that a text is longer than it reads."""


def make_client(options: OllamaOptions) -> AsyncClient:
    """Make the client. It reads certificates from the disk, so call it off the event loop.

    Args:
        options: The options.

    Returns:
        The client, not connected yet.

    Raises:
        ConfigError: The host is none.
    """
    import httpx
    from ollama import AsyncClient

    try:
        return AsyncClient(host=options.host, timeout=options.timeout)
    except (ValueError, httpx.InvalidURL) as error:
        source = "embeddings.host" if options.host is not None else "OLLAMA_HOST"
        message = f"{source}: {shown_host(options)!r} is no host ({error}). Write host, host:port or a URL."
        raise ConfigError(message, key="embeddings.host") from None


def shown_host(options: OllamaOptions) -> str:
    """Return where the server is looked for, for people to read."""
    host = options.host or os.environ.get("OLLAMA_HOST") or "127.0.0.1:11434"
    return re.sub(r"//.*@", "//", host)


@asynccontextmanager
async def answering(options: OllamaOptions, *, limited: bool = True) -> AsyncIterator[None]:
    """Turn what goes wrong within into errors of ours.

    Args:
        options: The options.
        limited: Whether all that is done within has to be done in ``timeout`` seconds.

    Raises:
        ModelUnavailableError: The server cannot be reached, lacks the model, or lets nobody in.
        TextRefusedError: A text is longer than the server reads.
        EmbeddingError: It failed otherwise.
    """
    try:
        async with asyncio.timeout(options.timeout if limited else None):
            yield
    except Exception as error:  # noqa: BLE001 - they are told apart below
        # Not as its cause: a client's errors hold the request, and with it the key.
        raise _translate(error, options) from None


def _translate(error: Exception, options: OllamaOptions) -> Exception:
    import httpx
    from ollama import ResponseError

    model, where = options.model, f"Ollama at {shown_host(options)}"
    if isinstance(error, EmbeddingError | ConfigError):
        return error
    if isinstance(error, ResponseError):
        return _refusal(error, options, where)
    if isinstance(error, httpx.LocalProtocolError):  # its message quotes the header
        message = f"the request to {where} could not be written. See that OLLAMA_API_KEY is a key on one line."
        return EmbeddingError(message, provider=PROVIDER, model=model)
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        message = (
            f"{where} did not answer within {options.timeout:g} seconds. A model that is being loaded takes a while, "
            f"as does a long batch: raise timeout or lower batch_size under [embeddings]."
        )
        return EmbeddingError(message, provider=PROVIDER, model=model, transient=True)
    if isinstance(error, ConnectionError | httpx.ConnectError):
        message = (
            f"{where} cannot be reached. Start it there (ollama serve), or say where it is: host under [embeddings], "
            f"or OLLAMA_HOST."
        )
        return ModelUnavailableError(message, provider=PROVIDER, model=model, transient=True)
    if isinstance(error, httpx.TransportError):
        message = f"{where} broke the connection off ({type(error).__name__}: {error})."
        return EmbeddingError(message, provider=PROVIDER, model=model, transient=True)
    message = f"{where} gave an answer that cannot be read ({type(error).__name__}). Update it, or see what host names."
    return EmbeddingError(message, provider=PROVIDER, model=model)


def _refusal(error: ResponseError, options: OllamaOptions, where: str) -> EmbeddingError:
    model, status = options.model, error.status_code
    said = " ".join(str(error.error).split())[:_LONGEST]
    if _TOO_LONG.search(said):
        message = (
            f"{where} refuses a text that is longer than it lets {model!r} read ({said}). If that is less than the "
            f"model's context, set max_tokens under [embeddings] to what it is."
        )
        return TextRefusedError(message, provider=PROVIDER, model=model)
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        message = (
            f"{where} lets nobody in without a valid key (HTTP {status}). The environment variable OLLAMA_API_KEY "
            f"holds the key that is sent."
        )
        return ModelUnavailableError(message, provider=PROVIDER, model=model)
    if "pull model manifest" in said:
        message = (
            f"the Ollama library has no model {model!r} ({said}). https://ollama.com/search shows those there are."
        )
        return ModelUnavailableError(message, provider=PROVIDER, model=model)
    if status == HTTPStatus.NOT_FOUND and "not found" in said and "page" not in said:
        message = (
            f"{where} has no model {model!r}. Get it there: ollama pull {model} (auto_pull = true under [embeddings] "
            f"does so by itself)."
        )
        return ModelUnavailableError(message, provider=PROVIDER, model=model)
    if status == HTTPStatus.NOT_FOUND:
        message = f"{where} does not know what it was asked for ({said}). Update it, or see what host names."
        return ModelUnavailableError(message, provider=PROVIDER, model=model)
    code = f"HTTP {status}: " if status > 0 else ""
    return EmbeddingError(
        f"{where} failed with {model!r} ({code}{said}).",
        provider=PROVIDER,
        model=model,
        transient=status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR,
        retry_after=_retry_after(error),
    )


def _retry_after(error: ResponseError) -> float | None:
    """Return how long an answer asks to wait, in seconds; the client keeps the answer behind its error only."""
    import httpx

    behind = error.__context__
    if not isinstance(behind, httpx.HTTPStatusError):
        return None
    return retry_after(behind.response.headers)
