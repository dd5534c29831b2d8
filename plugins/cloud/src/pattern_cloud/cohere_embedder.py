"""The embedder for Cohere. The client is imported when it is opened, off the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import attrs
import numpy as np
from numpy.typing import NDArray

from pattern_core.abc import Embedder, Signature, Vector
from pattern_core.errors import ClosedError, ConfigError, EmbeddingError, ModelUnavailableError

from .cohere_plugin import CohereOptions
from .service import Service, find_address, find_key
from .tokens import Count, TokenCounter, bound, parsed_tokenizer, read_tokenizer

if TYPE_CHECKING:
    import httpx
    from cohere import AsyncClientV2

__all__ = ["CohereEmbedder"]

PROVIDER: Final = "cohere"
ADDRESS: Final = "https://api.cohere.com"
QUERY: Final = "search_query"
DOCUMENT: Final = "search_document"
ONCE: Final[Any] = {"max_retries": 0}
"""The client's own attempts would add to those of core."""


@attrs.frozen
class _Known:
    """What is known of a model: the length of its vectors, and how many tokens it reads."""

    dimensions: int
    tokens: int


MODELS: Final = {
    "embed-v4.0": _Known(1536, 128_000),
    "embed-english-v3.0": _Known(1024, 512),
    "embed-english-light-v3.0": _Known(384, 512),
    "embed-multilingual-v3.0": _Known(1024, 512),
    "embed-multilingual-light-v3.0": _Known(384, 512),
}

_logger: Final = logging.getLogger(__name__)


class CohereEmbedder(Embedder):
    """Turns texts into vectors by Cohere. `open` makes one."""

    def __init__(
        self, wire: httpx.AsyncClient, client: AsyncClientV2, options: CohereOptions, service: Service
    ) -> None:
        self._wire = wire
        self._client: AsyncClientV2 | None = client
        self._options = options
        self._service = service
        self._counter = TokenCounter(self._tokenizer)
        self._signature: Signature

    @classmethod
    async def open(cls, options: CohereOptions) -> Self:
        """Find out what the model gives and takes. Those that Cohere documents are known; any other is asked for.

        Args:
            options: The options.

        Returns:
            The embedder.

        Raises:
            ModelUnavailableError: Cohere cannot be reached, lacks the model, or there is no key.
            ConfigError: The key or the tokenizer cannot be used, or the limit is above the model's.
            EmbeddingError: Cohere failed.
        """
        service = _service(options)
        wire, client = await asyncio.to_thread(_clients, service)
        embedder = cls(wire, client, options, service)
        try:
            embedder._signature = await embedder._sign()
        except BaseException:
            await wire.aclose()
            raise
        return embedder

    @property
    def signature(self) -> Signature:
        return self._signature

    @property
    def max_batch(self) -> int:
        return self._options.batch_size

    @property
    def concurrency(self) -> int:
        return self._options.concurrency

    async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return await self._embed(texts, DOCUMENT, self._signature.dimensions)

    async def embed_query(self, text: str) -> Vector:
        if self._signature.max_tokens is not None:
            text = await self._counter.cut(text, self._signature.max_tokens)
        vector: Vector = (await self._embed([text], QUERY, self._signature.dimensions))[0]
        return vector

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return await self._counter.count(texts)

    async def aclose(self) -> None:
        self._client = None
        await self._wire.aclose()

    async def _sign(self) -> Signature:
        options, service = self._options, self._service
        if options.tokenizer is not None:
            await self._counter.count([])  # a file that cannot be read is better known now
        known = MODELS.get(options.model)
        if known is None:
            async with service.answering(self._translate):
                told = await self._open_client().models.get(options.model, request_options=ONCE)
            vector = await self._embed(["dimensions"], DOCUMENT, options.dimensions)
            known = _Known(vector.shape[1], int(told.context_length or 0))
        limit = options.max_tokens or known.tokens
        if not limit or limit > known.tokens > 0:
            reads = f"reads {known.tokens:,} tokens" if known.tokens else "does not say how many tokens it reads"
            message = f"embeddings.max_tokens: {options.model!r} {reads}. Set it to that number, or to less."
            raise ConfigError(message, key="embeddings.max_tokens")
        return Signature(
            provider=PROVIDER,
            model=options.model,
            revision=options.revision or (PROVIDER if service.address == ADDRESS else service.place),
            dimensions=options.dimensions or known.dimensions,
            normalized=True,
            query_prompt=f"input_type={QUERY}",
            document_prompt=f"input_type={DOCUMENT}",
            max_tokens=limit,
        )

    async def _embed(
        self, texts: Sequence[str], kind: Literal["search_query", "search_document"], dimensions: int | None
    ) -> NDArray[np.float32]:
        given: dict[str, Any] = (
            {} if self._options.dimensions is None else {"output_dimension": self._options.dimensions}
        )
        async with self._service.answering(self._translate):
            answer = await self._open_client().embed(
                model=self._options.model,
                texts=list(texts),
                input_type=kind,
                embedding_types=["float"],
                truncate="NONE",
                request_options=ONCE,
                **given,
            )
            return self._service.vectors(answer.embeddings.float_ or [], len(texts), dimensions)

    async def _tokenizer(self) -> Count:
        """Return a count by the file that is set, or by the one that Cohere names for the model."""
        if self._options.tokenizer is not None:
            return await asyncio.to_thread(read_tokenizer, self._options.tokenizer)
        async with self._service.answering(self._translate):
            told = await self._open_client().models.get(self._options.model, request_options=ONCE)
        try:
            # The client would fetch it on the event loop.
            async with asyncio.timeout(self._service.timeout):
                found = await self._wire.get(told.tokenizer_url or "", follow_redirects=True)
            return await asyncio.to_thread(parsed_tokenizer, found.raise_for_status().text)
        except Exception as error:  # noqa: BLE001 - whatever a download may raise
            _logger.warning(
                "the tokenizer of %s cannot be fetched (%s), so tokens are estimated by bytes, and texts from %d bytes on "
                "count as too long. The option tokenizer names a file to count with.",
                *(self._options.model, type(error).__name__, self._signature.max_tokens),
            )
            return bound

    def _translate(self, error: Exception) -> EmbeddingError:
        import httpx
        from cohere.core.api_error import ApiError

        service = self._service
        if isinstance(error, httpx.TimeoutException):
            return service.timed_out()
        if isinstance(error, httpx.ConnectError):
            return service.unreachable()
        if isinstance(error, httpx.TransportError):
            return service.cut_off(type(error).__name__)
        if isinstance(error, ApiError) and error.status_code is not None and error.status_code >= 300:  # noqa: PLR2004 - HTTP
            said = error.body.get("message", error.body) if isinstance(error.body, dict) else error.body
            return service.refused(error.status_code, said, error.headers or {})
        return service.unreadable(type(error).__name__)

    def _open_client(self) -> AsyncClientV2:
        if self._client is None:
            message = (
                f"the embedding model {self._options.model!r} was used after it was closed. Open the database again."
            )
            raise ClosedError(message)
        return self._client


def _service(options: CohereOptions) -> Service:
    address = find_address(options.base_url, "CO_API_URL", ADDRESS)
    key = find_key(options.api_key, "CO_API_KEY", own_address=options.base_url is None or address == ADDRESS)
    if key.text is None and address == ADDRESS:
        message = f"there is no key for Cohere: {key.origin}."
        raise ModelUnavailableError(message, provider=PROVIDER, model=options.model)
    model, timeout = options.model, options.timeout
    return Service(provider=PROVIDER, name="Cohere", model=model, address=address, key=key, timeout=timeout)


def _clients(service: Service) -> tuple[httpx.AsyncClient, AsyncClientV2]:
    import httpx
    from cohere import AsyncClientV2

    wire = httpx.AsyncClient(timeout=service.timeout)
    # A server without keys is sent a word that is none: the client wants one.
    key = service.key.text or "none"
    return wire, AsyncClientV2(api_key=key, base_url=service.address, timeout=service.timeout, httpx_client=wire)
