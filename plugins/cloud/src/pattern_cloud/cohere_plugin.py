"""What pattern-core is told of the provider ``cohere``. Importing it imports no client."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from attrs.validators import gt, optional

from pattern_core.hookspecs import EmbeddingSpec, hookimpl
from pattern_core.toolkit import Secret, integer, title_text

from .checks import at_most, url

if TYPE_CHECKING:
    from .cohere_embedder import CohereEmbedder

__all__ = ["CohereOptions", "pattern_embeddings"]

MOST_TEXTS = 96
"""How many texts Cohere takes in a request."""


@attrs.frozen
class CohereOptions:
    """The options under ``[embeddings]``.

    Attributes:
        model: The model's name: ``embed-v4.0``, or one of version 3.
        base_url: Where a server is that speaks Cohere's API. None takes ``CO_API_URL``, and without it Cohere.
        api_key: The key. None takes ``CO_API_KEY``, which is never sent to a ``base_url`` that stands here.
        dimensions: The length of the vectors, from version 4 on: 256, 512, 1024 or 1536; None for the model's own.
        max_tokens: How many tokens of a text the model reads. None takes what the model reads.
        tokenizer: The model's ``tokenizer.json``, to count tokens with. None lets Cohere say where to fetch it.
        revision: What tells two contents of the model's name apart. None takes the server's address.
        batch_size: How many texts are sent at once.
        concurrency: How many requests may be under way at once.
        timeout: How long a request may take, in seconds.
    """

    model: str = attrs.field(default="embed-v4.0", validator=title_text)
    base_url: str | None = attrs.field(default=None, validator=optional(url))
    api_key: Secret | None = None
    dimensions: int | None = attrs.field(default=None, validator=optional(integer(minimum=1)))
    max_tokens: int | None = attrs.field(default=None, validator=optional(integer(minimum=1)))
    tokenizer: Path | None = None
    revision: str | None = attrs.field(default=None, validator=optional(title_text))
    batch_size: int = attrs.field(default=MOST_TEXTS, validator=at_most(MOST_TEXTS))
    concurrency: int = attrs.field(default=4, validator=integer(minimum=1))
    timeout: float = attrs.field(default=60.0, validator=gt(0))


async def _open(options: CohereOptions) -> CohereEmbedder:
    from .cohere_embedder import CohereEmbedder

    return await CohereEmbedder.open(options)


@hookimpl
def pattern_embeddings() -> EmbeddingSpec:
    """Describe the provider."""
    return EmbeddingSpec(
        options=CohereOptions, open=_open, summary="Cohere, with input types for queries and documents"
    )
