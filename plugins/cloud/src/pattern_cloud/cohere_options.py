"""The options of the provider ``cohere``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs
from attrs.validators import gt, le, optional

from pattern_core.toolkit import Secret, integer, service_url, title_text

__all__ = ["CohereOptions"]

MAX_BATCH: Final = 96
"""The most texts that Cohere takes in a request."""


@attrs.frozen
class CohereOptions:
    """The options under ``[embeddings]``.

    Attributes:
        model: The model's name: ``embed-v4.0``, or one of version 3.
        base_url: The URL of a server with Cohere's API. None takes ``CO_API_URL``, and without it Cohere.
        api_key: The API key. None takes ``CO_API_KEY``, which is never sent to a ``base_url`` from the configuration.
        dimensions: The length of the vectors, from version 4 on: 256, 512, 1024 or 1536; None for the model's own.
        max_tokens: The token limit. None takes the model's.
        tokenizer: The model's ``tokenizer.json``, to count tokens with. None fetches the file that Cohere names.
        revision: A name for the model's version, part of the signature. None takes the server's address.
        batch_size: The most texts in a request.
        concurrency: The most requests at the same time.
        timeout: How long a request may take, in seconds.
    """

    model: str = attrs.field(default="embed-v4.0", validator=title_text)
    base_url: str | None = attrs.field(default=None, validator=optional(service_url))
    api_key: Secret | None = None
    dimensions: int | None = attrs.field(default=None, validator=optional(integer(minimum=1)))
    max_tokens: int | None = attrs.field(default=None, validator=optional(integer(minimum=1)))
    tokenizer: Path | None = None
    revision: str | None = attrs.field(default=None, validator=optional(title_text))
    batch_size: int = attrs.field(default=MAX_BATCH, validator=[integer(minimum=1), le(MAX_BATCH)])
    concurrency: int = attrs.field(default=4, validator=integer(minimum=1))
    timeout: float = attrs.field(default=60.0, validator=gt(0))
