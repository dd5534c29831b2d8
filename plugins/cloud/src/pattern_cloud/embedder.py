"""The base of both embedders: opening, closing, token counts and the signature."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Final, Generic, Self, TypeVar

from pattern_core.abc import Embedder, Signature
from pattern_core.toolkit import max_token_count

from .cohere_options import CohereOptions
from .endpoint import Provider, find_endpoint
from .openai_options import OpenAIOptions
from .tokens import CountTokens, TokenCounter, read_tokenizer

__all__ = ["CloudEmbedder"]

Options = TypeVar("Options", bound=OpenAIOptions | CohereOptions)
Client = TypeVar("Client")

_logger: Final = logging.getLogger(__name__)


class CloudEmbedder(Embedder, Generic[Options, Client]):
    """An embedder that calls a service. `open` makes one.

    Args:
        options: The options.
    """

    provider: ClassVar[Provider]

    def __init__(self, options: Options) -> None:
        self._options = options
        self._endpoint = find_endpoint(self.provider, options)
        self._service = self._endpoint.service
        self._counter = TokenCounter(self._load_tokenizer)
        self._client: Client | None = None
        self._signature: Signature

    @classmethod
    async def open(cls, options: Options) -> Self:
        """Open the embedder. Known models need no request; for others the service is asked.

        Args:
            options: The options.

        Returns:
            The embedder.

        Raises:
            ModelUnavailableError: The service cannot be reached, lacks the model, or there is no key for it.
            ConfigError: The key or the tokenizer cannot be used, or the token limit is unknown or too high.
            EmbeddingError: The service failed.
        """
        embedder = cls(options)
        embedder._client = await asyncio.to_thread(embedder._connect)
        try:
            if options.tokenizer is not None:
                await embedder._counter.count([])  # so that an unreadable file is reported now
            embedder._signature = await embedder._describe()
        except BaseException:
            await embedder.aclose()
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

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return await self._counter.count(texts)

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await self._disconnect(client)

    @abstractmethod
    def _connect(self) -> Client:
        """Import the client and make one; in a thread, since both take long."""

    @abstractmethod
    async def _disconnect(self, client: Client) -> None:
        """Close the client."""

    @abstractmethod
    async def _describe(self) -> Signature:
        """Return the model's signature."""

    @abstractmethod
    async def _load_own_tokenizer(self) -> CountTokens:
        """Load the tokenizer of a known model, or return an upper bound."""

    async def _load_tokenizer(self) -> CountTokens:
        if self._options.tokenizer is not None:
            return await asyncio.to_thread(read_tokenizer, self._options.tokenizer)
        return await self._load_own_tokenizer()

    def _estimate_tokens(self, reason: str) -> CountTokens:
        """Count by bytes, after a warning, since the tokenizer cannot be fetched."""
        _logger.warning(
            "the tokenizer of %s cannot be fetched (%s), so tokens are estimated from bytes, and texts of more than %d "
            "bytes count as too long. The option tokenizer names a file to count with.",
            *(self._options.model, reason, self._signature.max_tokens),
        )
        return max_token_count

    def _open_client(self) -> Client:
        if self._client is None:
            raise self._service.closed_error()
        return self._client

    def _sign(self, dimensions: int, max_tokens: int, query_prompt: str, document_prompt: str) -> Signature:
        return Signature(
            provider=self.provider.name,
            model=self._options.model,
            revision=self._options.revision or self._endpoint.revision,
            dimensions=dimensions,
            normalized=True,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            max_tokens=max_tokens,
        )
