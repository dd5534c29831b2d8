"""The options of the provider ``openai``."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import attrs
from attrs.validators import gt, le, optional

from pattern_core.toolkit import Secret, integer, service_url, text, title_text

__all__ = ["OpenAIOptions"]

MAX_BATCH: Final = 2048
"""The most texts that OpenAI takes in a request."""


@attrs.frozen
class OpenAIOptions:
    """The options under ``[embeddings]``.

    Attributes:
        model: The model's name.
        base_url: The URL of a server with OpenAI's API. None takes ``OPENAI_BASE_URL``, and without it OpenAI.
        api_key: The API key. None takes ``OPENAI_API_KEY``, which is never sent to a ``base_url`` from the
            configuration.
        dimensions: The length of the vectors, for models whose vectors can be shortened; None for the model's own.
        encoding_format: The encoding of the vectors in an answer: ``base64`` is a quarter of the size of ``float``.
        max_tokens: The token limit. None takes the known limit: that of OpenAI's models, or the one that the server
            reports (vLLM, SGLang).
        tokenizer: The model's ``tokenizer.json``, to count tokens with. None takes tiktoken for OpenAI's models, and
            for others the number of bytes, which is never too small.
        revision: A name for the model's version, part of the signature. None takes the server's address.
        query_prompt: The text put before a query.
        document_prompt: The text put before a document.
        batch_size: The most texts in a request.
        concurrency: The most requests at the same time.
        timeout: How long a request may take, in seconds.
    """

    model: str = attrs.field(default="text-embedding-3-small", validator=title_text)
    base_url: str | None = attrs.field(default=None, validator=optional(service_url))
    api_key: Secret | None = None
    dimensions: int | None = attrs.field(default=None, validator=optional(integer(minimum=1)))
    encoding_format: Literal["base64", "float"] = "base64"
    max_tokens: int | None = attrs.field(default=None, validator=optional(integer(minimum=1)))
    tokenizer: Path | None = None
    revision: str | None = attrs.field(default=None, validator=optional(title_text))
    query_prompt: str = attrs.field(default="", validator=text)
    document_prompt: str = attrs.field(default="", validator=text)
    batch_size: int = attrs.field(default=256, validator=[integer(minimum=1), le(MAX_BATCH)])
    concurrency: int = attrs.field(default=4, validator=integer(minimum=1))
    timeout: float = attrs.field(default=60.0, validator=gt(0))
