"""What pattern-core is told of this plugin. Importing it imports no client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import gt, optional

from pattern_core.errors import ValidationError
from pattern_core.hookspecs import EmbeddingSpec, hookimpl
from pattern_core.toolkit import check_text, integer, text, title_text

if TYPE_CHECKING:
    from .embedder import OllamaEmbedder

__all__ = ["OllamaOptions", "pattern_embeddings"]


def _host(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if "@" in check_text(value, type(instance).__name__, attribute.name):
        # The client would drop it in silence.
        message = "a host has no user name and password in it; a gateway's key is read from OLLAMA_API_KEY"
        raise ValidationError(message, where=type(instance).__name__, field=attribute.name)
    title_text(instance, attribute, value)


@attrs.frozen
class OllamaOptions:
    """The options under ``[embeddings]``.

    Attributes:
        model: The model's name, as ``ollama list`` shows it; ``:latest`` may be left out.
        host: Where the server is: ``host``, ``host:port`` or a URL. None takes ``OLLAMA_HOST``, and without it this
            machine, port 11434.
        dimensions: The length of the vectors, for models whose vectors may be shortened; None for the model's own.
        max_tokens: How many tokens of a text the model reads. None takes what the model's Modelfile says, and without
            that the model's context, 8,192 at the most.
        query_prompt: What is put before a query. None takes what the model's makers recommend.
        document_prompt: What is put before a document. None takes what the model's makers recommend.
        keep_alive: How long the server keeps the model in memory: ``10m``, seconds, 0, or -1 for ever. None leaves
            that to the server.
        batch_size: How many texts are sent at once.
        concurrency: How many requests may be under way at once.
        timeout: How long a request may take, in seconds; the first one waits for the model to be loaded.
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


async def _open(options: OllamaOptions) -> OllamaEmbedder:
    from .embedder import OllamaEmbedder

    return await OllamaEmbedder.open(options)


@hookimpl
def pattern_embeddings() -> EmbeddingSpec:
    """Describe the provider."""
    return EmbeddingSpec(options=OllamaOptions, open=_open, summary="an Ollama server, on this machine or another")
