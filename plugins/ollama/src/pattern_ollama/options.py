"""The options of the plugin."""

from __future__ import annotations

from typing import Any

import attrs
from attrs.validators import gt, optional

from pattern_core.errors import ValidationError
from pattern_core.toolkit import check_text, integer, text, title_text

__all__ = ["OllamaOptions"]


def _host(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if "@" in check_text(value, type(instance).__name__, attribute.name):
        # Rejected, since the client would drop them silently.
        message = "expected a host without user name and password; the key for a gateway is read from OLLAMA_API_KEY"
        raise ValidationError(message, where=type(instance).__name__, field=attribute.name)
    title_text(instance, attribute, value)


@attrs.frozen
class OllamaOptions:
    """The options under ``[embeddings]``.

    Attributes:
        model: The model's name, as ``ollama list`` shows it; ``:latest`` may be left out.
        host: The server: ``host``, ``host:port`` or a URL. None takes ``OLLAMA_HOST``, and without it this machine,
            port 11434.
        dimensions: The length of the vectors, for models whose vectors can be shortened; None for the model's own.
        max_tokens: The token limit. None takes ``num_ctx`` of the model's Modelfile, and without it the model's
            context, at most 8,192.
        query_prompt: The text put before a query. None takes the model's recommended prompt.
        document_prompt: The text put before a document. None takes the model's recommended prompt.
        keep_alive: How long the server keeps the model in memory: ``10m``, seconds, 0, or -1 forever. None takes the
            server's setting.
        batch_size: The most texts in a request.
        concurrency: The most requests at the same time.
        timeout: How long a request may take, in seconds; the first one waits until the model is loaded.
        auto_pull: Whether a model that the server lacks is pulled.
    """

    model: str = attrs.field(default="nomic-embed-text", validator=title_text)
    host: str | None = attrs.field(default=None, validator=optional(_host))
    dimensions: int | None = attrs.field(default=None, validator=optional(integer(minimum=1)))
    max_tokens: int | None = attrs.field(default=None, validator=optional(integer(minimum=1)))
    query_prompt: str | None = attrs.field(default=None, validator=optional(text))
    document_prompt: str | None = attrs.field(default=None, validator=optional(text))
    keep_alive: str | int | None = None
    batch_size: int = attrs.field(default=64, validator=integer(minimum=1))
    concurrency: int = attrs.field(default=2, validator=integer(minimum=1))
    timeout: float = attrs.field(default=120.0, validator=gt(0))
    auto_pull: bool = False
