"""The embedder for OpenAI and its kin. The client is imported when it is opened, off the event loop."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from pattern_core.abc import Embedder, Signature, Vector
from pattern_core.errors import ClosedError, ConfigError, EmbeddingError, ModelUnavailableError

from .openai_plugin import OpenAIOptions
from .service import Service, find_address, find_key
from .tokens import Count, TokenCounter, bound, read_tokenizer

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["OpenAIEmbedder"]

PROVIDER: Final = "openai"
ADDRESS: Final = "https://api.openai.com/v1"
DIMENSIONS: Final = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
"""OpenAI's models, and the length of their vectors."""
MOST_TOKENS: Final = 8192
"""How many tokens of a text OpenAI's models read."""
MOST_REQUEST_TOKENS: Final = 300_000
"""How many tokens OpenAI takes in a request."""
_PATIENCE: Final = 30.0
"""How long tiktoken may take to fetch an encoding, in seconds."""

_logger: Final = logging.getLogger(__name__)


class OpenAIEmbedder(Embedder):
    """Turns texts into vectors by a service that speaks OpenAI's API. `open` makes one."""

    def __init__(self, client: AsyncOpenAI, options: OpenAIOptions, service: Service) -> None:
        self._client: AsyncOpenAI | None = client
        self._options = options
        self._service = service
        self._counter = TokenCounter(self._tokenizer)
        self._signature: Signature

    @classmethod
    async def open(cls, options: OpenAIOptions) -> Self:
        """Find out what the model gives and takes. OpenAI's own models are known; any other is tried.

        Args:
            options: The options.

        Returns:
            The embedder.

        Raises:
            ModelUnavailableError: The service cannot be reached, lacks the model, or there is no key for it.
            ConfigError: The key or the tokenizer cannot be used, or nobody knows how much the model reads.
            EmbeddingError: The service failed.
        """
        service = _service(options)
        client = await asyncio.to_thread(_client, service)
        embedder = cls(client, options, service)
        try:
            embedder._signature = await embedder._sign()
        except BaseException:
            await client.close()
            raise
        return embedder

    @property
    def signature(self) -> Signature:
        return self._signature

    @property
    def max_batch(self) -> int:
        return self._options.batch_size

    @property
    def max_batch_tokens(self) -> int | None:
        return MOST_REQUEST_TOKENS if self._options.model in DIMENSIONS else None

    @property
    def concurrency(self) -> int:
        return self._options.concurrency

    async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return await self._embed([self._options.document_prompt + text for text in texts], self._signature.dimensions)

    async def embed_query(self, text: str) -> Vector:
        prompted = self._options.query_prompt + text
        if self._signature.max_tokens is not None:
            prompted = await self._counter.cut(prompted, self._signature.max_tokens)
        vector: Vector = (await self._embed([prompted], self._signature.dimensions))[0]
        return vector

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return await self._counter.count([self._options.document_prompt + text for text in texts])

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _sign(self) -> Signature:
        options, service = self._options, self._service
        if options.tokenizer is not None:
            await self._counter.count([])  # a file that cannot be read is better known now
        dimensions = options.dimensions or DIMENSIONS.get(options.model)
        limit = await self._limit()
        if options.model not in DIMENSIONS:
            dimensions = (await self._embed(["dimensions"], options.dimensions)).shape[1]
        assert dimensions is not None  # noqa: S101 - known, or found out
        return Signature(
            provider=PROVIDER,
            model=options.model,
            revision=options.revision or (PROVIDER if service.address == ADDRESS else service.place),
            dimensions=dimensions,
            normalized=True,
            query_prompt=options.query_prompt,
            document_prompt=options.document_prompt,
            max_tokens=limit,
        )

    async def _limit(self) -> int:
        """Return how many tokens of a text the model reads. A server that cuts in silence must not be trusted to say so."""
        model, chosen = self._options.model, self._options.max_tokens
        known = MOST_TOKENS if model in DIMENSIONS else await self._told_limit() if chosen is None else None
        if known is not None and chosen is not None and chosen > known:
            message = f"embeddings.max_tokens: {model!r} reads {known:,} tokens, not {chosen:,}."
            raise ConfigError(message, key="embeddings.max_tokens")
        limit = chosen or known
        if limit is None:
            message = (
                f"embeddings.max_tokens is missing: {self._service.place} does not say how many tokens {model!r} reads, and "
                f"many servers cut what is longer without a word. Set it to what the model's card says."
            )
            raise ConfigError(message, key="embeddings.max_tokens")
        return limit

    async def _told_limit(self) -> int | None:
        async with self._service.answering(self._translate):
            try:
                listed = await self._open_client().models.list()
            except Exception as error:
                if getattr(error, "status_code", None) in {404, 405, 501}:  # not every server lists its models
                    return None
                raise
            for each in listed.data:
                told = (each.model_extra or {}).get("max_model_len")
                if each.id == self._options.model and isinstance(told, int):
                    return told
        return None

    async def _embed(self, texts: list[str], dimensions: int | None) -> NDArray[np.float32]:
        given: dict[str, Any] = {} if self._options.dimensions is None else {"dimensions": self._options.dimensions}
        async with self._service.answering(self._translate):
            answer = await self._open_client().embeddings.create(
                model=self._options.model, input=texts, encoding_format=self._options.encoding_format, **given
            )
            items = sorted(answer.data, key=lambda item: item.index)
            if [item.index for item in items] != list(range(len(texts))):
                raise self._service.invalid(f"indexes {[item.index for item in items][:5]}… for {len(texts)} texts")
            return self._service.vectors([self._decoded(item.embedding) for item in items], len(texts), dimensions)

    def _decoded(self, vector: object) -> object:
        """Return the numbers of a vector, whatever the server made of ``encoding_format``."""
        if not isinstance(vector, str):
            return vector
        try:
            return np.frombuffer(base64.b64decode(vector, validate=True), dtype="<f4")
        except ValueError as error:
            raise self._service.invalid(f"a vector that is not base64 of float32 ({error})") from None

    async def _tokenizer(self) -> Count:
        if self._options.tokenizer is not None:
            return await asyncio.to_thread(read_tokenizer, self._options.tokenizer)
        if self._options.model not in DIMENSIONS:
            return bound
        try:
            async with asyncio.timeout(_PATIENCE):
                return await asyncio.to_thread(_tiktoken, self._options.model)
        except Exception as error:  # noqa: BLE001 - whatever a download may raise
            _logger.warning(
                "tiktoken cannot fetch the encoding of %s (%s: %s), so tokens are estimated by bytes, and texts from "
                "%d bytes on count as too long. The option tokenizer names a file to count with.",
                *(self._options.model, type(error).__name__, str(error)[:200], MOST_TOKENS),
            )
            return bound

    def _translate(self, error: Exception) -> EmbeddingError:
        import openai

        service = self._service
        if isinstance(error, openai.APITimeoutError):
            return service.timed_out()
        if isinstance(error, openai.APIConnectionError):
            kind = type(error.__cause__).__name__
            return service.unreachable() if kind == "ConnectError" else service.cut_off(kind)
        if isinstance(error, openai.APIStatusError):
            said = error.body.get("message", error.body) if isinstance(error.body, dict) else error.body
            spent = error.code == "insufficient_quota"
            return service.refused(error.status_code, said or error.message, error.response.headers, final=spent)
        return service.unreadable(type(error).__name__)

    def _open_client(self) -> AsyncOpenAI:
        if self._client is None:
            message = (
                f"the embedding model {self._options.model!r} was used after it was closed. Open the database again."
            )
            raise ClosedError(message)
        return self._client


def _service(options: OpenAIOptions) -> Service:
    address = find_address(options.base_url, "OPENAI_BASE_URL", ADDRESS)
    key = find_key(options.api_key, "OPENAI_API_KEY", own_address=options.base_url is None or address == ADDRESS)
    name = "OpenAI" if address == ADDRESS else "the embedding server"
    if key.text is None and address == ADDRESS:
        message = f"there is no key for OpenAI: {key.origin}."
        raise ModelUnavailableError(message, provider=PROVIDER, model=options.model)
    model, timeout = options.model, options.timeout
    return Service(provider=PROVIDER, name=name, model=model, address=address, key=key, timeout=timeout)


def _client(service: Service) -> AsyncOpenAI:
    from openai import AsyncOpenAI

    # A server without keys is sent a word that is none: the client wants one.
    key = service.key.text or "none"
    return AsyncOpenAI(api_key=key, base_url=service.address, timeout=service.timeout, max_retries=0)


def _tiktoken(model: str) -> Count:
    import tiktoken

    encoding = tiktoken.encoding_for_model(model)
    return lambda text: len(encoding.encode_ordinary(text))
