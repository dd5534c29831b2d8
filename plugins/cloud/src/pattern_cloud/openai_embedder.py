"""The embedder for OpenAI and for servers with its API."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from pattern_core.abc import Signature, Vector
from pattern_core.errors import ConfigError, EmbeddingError
from pattern_core.toolkit import max_token_count

from .embedder import CloudEmbedder
from .endpoint import Provider
from .openai_options import OpenAIOptions
from .tokens import CountTokens

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["OpenAIEmbedder"]

DIMENSIONS: Final = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
"""OpenAI's models, and the length of their vectors."""
MAX_TOKENS: Final = 8192
"""The token limit of OpenAI's models."""
MAX_REQUEST_TOKENS: Final = 300_000
"""The most tokens that OpenAI takes in a request."""
_NO_MODEL_LIST: Final = frozenset({404, 405, 501})
"""The statuses of servers that do not list their models."""
_TIKTOKEN_TIMEOUT: Final = 30.0
"""How long tiktoken may take to fetch an encoding, in seconds."""


class OpenAIEmbedder(CloudEmbedder[OpenAIOptions, "AsyncOpenAI"]):
    """An embedder for a service with OpenAI's API."""

    provider: ClassVar[Provider] = Provider(
        name="openai",
        service="OpenAI",
        other_server="the embedding server",
        address="https://api.openai.com/v1",
        address_variable="OPENAI_BASE_URL",
        key_variable="OPENAI_API_KEY",
    )

    @property
    def max_batch_tokens(self) -> int | None:
        return MAX_REQUEST_TOKENS if self._options.model in DIMENSIONS else None

    async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return await self._embed([self._options.document_prompt + text for text in texts], self._signature.dimensions)

    async def embed_query(self, text: str) -> Vector:
        vector: Vector = (await self._embed([self._options.query_prompt + text], self._signature.dimensions))[0]
        return vector

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return await super().count_tokens([self._options.document_prompt + text for text in texts])

    def _connect(self) -> AsyncOpenAI:
        from openai import AsyncOpenAI

        return AsyncOpenAI(
            api_key=self._service.key.text or "none",  # the client requires one
            base_url=self._endpoint.address,
            timeout=self._service.timeout,
            max_retries=0,  # core retries
        )

    async def _disconnect(self, client: AsyncOpenAI) -> None:
        await client.close()

    async def _describe(self) -> Signature:
        options = self._options
        max_tokens = await self._find_max_tokens()
        dimensions = options.dimensions or DIMENSIONS.get(options.model)
        if dimensions is None or options.model not in DIMENSIONS:
            dimensions = (await self._embed(["dimensions"], options.dimensions)).shape[1]
        return self._sign(dimensions, max_tokens, options.query_prompt, options.document_prompt)

    async def _find_max_tokens(self) -> int:
        """Return the token limit: the option, else the known one. A server may truncate silently, so it must be known."""
        model, chosen = self._options.model, self._options.max_tokens
        found = MAX_TOKENS if model in DIMENSIONS else await self._reported_max_tokens() if chosen is None else None
        if found is not None and chosen is not None and chosen > found:
            message = f"embeddings.max_tokens: the limit of {model!r} is {found:,} tokens, not {chosen:,}."
            raise ConfigError(message, key="embeddings.max_tokens")
        limit = chosen or found
        if limit is None:
            message = (
                f"embeddings.max_tokens is missing: {self._service.name} does not report the token limit of {model!r}, "
                f"and many servers truncate longer texts silently. Set it to the limit on the model's card."
            )
            raise ConfigError(message, key="embeddings.max_tokens")
        return limit

    async def _reported_max_tokens(self) -> int | None:
        async with self._service.translated_errors(self._translate):
            try:
                listed = await self._open_client().models.list()
            except Exception as error:
                if getattr(error, "status_code", None) in _NO_MODEL_LIST:
                    return None
                raise
            for each in listed.data:
                limit = (each.model_extra or {}).get("max_model_len")
                if each.id == self._options.model and isinstance(limit, int):
                    return limit
        return None

    async def _embed(self, texts: list[str], dimensions: int | None) -> NDArray[np.float32]:
        shortened: dict[str, Any] = {} if self._options.dimensions is None else {"dimensions": self._options.dimensions}
        async with self._service.translated_errors(self._translate):
            answer = await self._open_client().embeddings.create(
                model=self._options.model, input=texts, encoding_format=self._options.encoding_format, **shortened
            )
            items = sorted(answer.data, key=lambda item: item.index)
            indexes = [item.index for item in items]
            if indexes != list(range(len(texts))):
                raise self._service.invalid_vectors_error(f"indexes {indexes[:5]}… for {len(texts)} texts")
            vectors = [self._decode(item.embedding) for item in items]
            return self._service.check_vectors(vectors, len(texts), dimensions)

    def _decode(self, vector: object) -> object:
        """Return the numbers of a vector. Some servers ignore ``encoding_format``."""
        if not isinstance(vector, str):
            return vector
        try:
            return np.frombuffer(base64.b64decode(vector, validate=True), dtype="<f4")
        except ValueError as error:
            raise self._service.invalid_vectors_error(f"not base64 of float32 numbers ({error})") from None

    async def _load_own_tokenizer(self) -> CountTokens:
        if self._options.model not in DIMENSIONS:
            return max_token_count
        try:
            async with asyncio.timeout(_TIKTOKEN_TIMEOUT):
                return await asyncio.to_thread(_tiktoken, self._options.model)
        except Exception as error:  # noqa: BLE001 - a download may raise anything
            return self._estimate_tokens(self._service.redact(f"{type(error).__name__}: {error}"))

    def _translate(self, error: Exception) -> EmbeddingError | None:
        import openai

        if isinstance(error, openai.APITimeoutError):
            return self._service.timeout_error()
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__
            return self._service.transport_error(cause) or self._service.connection_error(cause)
        if isinstance(error, openai.APIStatusError):
            message = error.body.get("message", error.body) if isinstance(error.body, dict) else error.body
            return self._service.status_error(
                error.status_code,
                message or error.message,
                error.response.headers,
                permanent=error.code == "insufficient_quota",  # OpenAI sends 429 for it, too
            )
        return None


def _tiktoken(model: str) -> CountTokens:
    import tiktoken

    encoding = tiktoken.encoding_for_model(model)
    return lambda text: len(encoding.encode_ordinary(text))
