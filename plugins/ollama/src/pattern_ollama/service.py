"""The server: its client, and its errors as errors of pattern-core."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from pattern_core.errors import ConfigError, EmbeddingError, ModelUnavailableError
from pattern_core.toolkit import ApiKey, EmbeddingService, ServiceHints

from .options import OllamaOptions

if TYPE_CHECKING:
    from ollama import AsyncClient

__all__ = ["MissingModelError", "TextRejectedError", "describe_service", "make_client", "translated_errors"]

_HINTS: Final = ServiceHints(
    timeout="Loading a model and embedding a long batch take time: raise timeout or lower batch_size under [embeddings].",
    unreachable="Start it (ollama serve), or set host under [embeddings] or OLLAMA_HOST.",
    unreadable="Update Ollama, or check host under [embeddings].",
    too_long="If that limit is below the model's context, set max_tokens under [embeddings] to it.",
)


class TextRejectedError(EmbeddingError):
    """Raised when the server rejects a text over its token limit."""


class MissingModelError(ModelUnavailableError):
    """Raised when the server lacks the model."""


def describe_service(options: OllamaOptions) -> EmbeddingService:
    """Return the server for calls and errors.

    Args:
        options: The options.

    Returns:
        The server. Its key is that of the client, from the environment variable ``OLLAMA_API_KEY``.
    """
    key = os.environ.get("OLLAMA_API_KEY")
    return EmbeddingService(
        provider="ollama",
        model=options.model,
        name=f"Ollama at {_shown_host(options)}",
        timeout=options.timeout,
        key=ApiKey(key, "the environment variable OLLAMA_API_KEY") if key else ApiKey(None, "set OLLAMA_API_KEY"),
        hints=_HINTS,
        too_long_error=TextRejectedError,
    )


def make_client(options: OllamaOptions) -> AsyncClient:
    """Make the client. It reads certificates from the disk, so call this off the event loop.

    Args:
        options: The options.

    Returns:
        The client, not connected yet.

    Raises:
        ConfigError: The host is invalid.
    """
    import httpx
    from ollama import AsyncClient

    try:
        return AsyncClient(host=options.host, timeout=options.timeout)
    except (ValueError, httpx.InvalidURL) as error:
        source = "embeddings.host" if options.host is not None else "OLLAMA_HOST"
        message = f"{source}: {_shown_host(options)!r} is no host ({error}). Write host, host:port or a URL."
        raise ConfigError(message, key="embeddings.host") from None


def translated_errors(service: EmbeddingService, *, timed: bool = True) -> AbstractAsyncContextManager[None]:
    """Limit the time of calls, and turn every exception into an error of pattern-core.

    Args:
        service: The server.
        timed: Whether the time-out applies to all that happens in the context.

    Returns:
        The context, which raises `MissingModelError`, `TextRejectedError`, other `ModelUnavailableError` and
        `EmbeddingError`.
    """
    return service.translated_errors(partial(_translate, service), timed=timed)


def _translate(service: EmbeddingService, error: Exception) -> EmbeddingError | None:
    from ollama import ResponseError

    if not isinstance(error, ResponseError):
        return None
    status, message = error.status_code, service.redact(error.error)
    if "pull model manifest" in message:
        return service.unavailable_error(
            f"the Ollama library has no model {service.model!r} ({message}). See https://ollama.com/search for its models."
        )
    if status == HTTPStatus.NOT_FOUND and "not found" in message and "page" not in message:
        return MissingModelError(
            f"{service.name} has no model {service.model!r}. Get it there: ollama pull {service.model} (or set "
            f"auto_pull = true under [embeddings]).",
            provider=service.provider,
            model=service.model,
        )
    if status == HTTPStatus.NOT_FOUND:
        return service.unavailable_error(
            f"{service.name} does not support the request (HTTP {status}: {message}). {_HINTS.unreadable}"
        )
    return service.status_error(status if status > 0 else None, message, _headers(error))


def _headers(error: Exception) -> Mapping[str, str]:
    """Return the headers of an error's answer, which the client keeps only in the error's context."""
    import httpx

    context = error.__context__
    return context.response.headers if isinstance(context, httpx.HTTPStatusError) else {}


def _shown_host(options: OllamaOptions) -> str:
    host = options.host or os.environ.get("OLLAMA_HOST") or "127.0.0.1:11434"
    return re.sub(r"//.*@", "//", host)
