"""What pattern-core is told of the provider ``openai``. Importing it imports no client."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import attrs
from attrs.validators import gt, optional

from pattern_core.hookspecs import EmbeddingSpec, hookimpl
from pattern_core.toolkit import Secret, integer, text, title_text

from .checks import at_most, url

if TYPE_CHECKING:
    from .openai_embedder import OpenAIEmbedder

__all__ = ["OpenAIOptions", "pattern_embeddings"]

MOST_INPUTS = 2048
"""How many texts OpenAI takes in a request."""


@attrs.frozen
class OpenAIOptions:
    """The options under ``[embeddings]``.

    Attributes:
        model: The model's name.
        base_url: Where a server is that speaks OpenAI's API. None takes ``OPENAI_BASE_URL``, and without it OpenAI.
        api_key: The key. None takes ``OPENAI_API_KEY``, which is never sent to a ``base_url`` that stands here.
        dimensions: The length of the vectors, for models whose vectors may be shortened; None for the model's own.
        encoding_format: How vectors travel: ``base64`` is a quarter of the size of ``float``.
        max_tokens: How many tokens of a text the model reads. None where that is known: for OpenAI's models, and from
            servers that tell (vLLM, SGLang).
        tokenizer: The model's ``tokenizer.json``, to count tokens with. None takes tiktoken for OpenAI's models, and
            for others the number of bytes, which is never too small.
        revision: What tells two contents of the model's name apart. None takes the server's address.
        query_prompt: What is put before a query.
        document_prompt: What is put before a document.
        batch_size: How many texts are sent at once.
        concurrency: How many requests may be under way at once.
        timeout: How long a request may take, in seconds.
    """

    model: str = attrs.field(default="text-embedding-3-small", validator=title_text)
    base_url: str | None = attrs.field(default=None, validator=optional(url))
    api_key: Secret | None = None
    dimensions: int | None = attrs.field(default=None, validator=optional(integer(minimum=1)))
    encoding_format: Literal["base64", "float"] = "base64"
    max_tokens: int | None = attrs.field(default=None, validator=optional(integer(minimum=1)))
    tokenizer: Path | None = None
    revision: str | None = attrs.field(default=None, validator=optional(title_text))
    query_prompt: str = attrs.field(default="", validator=text)
    document_prompt: str = attrs.field(default="", validator=text)
    batch_size: int = attrs.field(default=256, validator=at_most(MOST_INPUTS))
    concurrency: int = attrs.field(default=4, validator=integer(minimum=1))
    timeout: float = attrs.field(default=60.0, validator=gt(0))


async def _open(options: OpenAIOptions) -> OpenAIEmbedder:
    from .openai_embedder import OpenAIEmbedder

    return await OpenAIEmbedder.open(options)


@hookimpl
def pattern_embeddings() -> EmbeddingSpec:
    """Describe the provider."""
    return EmbeddingSpec(options=OpenAIOptions, open=_open, summary="OpenAI, and servers that speak its API")
