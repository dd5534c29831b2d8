"""The embedder for Cohere."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from pattern_core.abc import Signature, Vector
from pattern_core.errors import ConfigError, EmbeddingError

from .cohere_options import CohereOptions
from .embedder import CloudEmbedder
from .endpoint import Provider
from .tokens import CountTokens, parse_tokenizer

if TYPE_CHECKING:
    import httpx
    from cohere import AsyncClientV2, GetModelResponse

__all__ = ["CohereEmbedder"]

InputType = Literal["search_query", "search_document"]

NO_RETRIES: Final[Any] = {"max_retries": 0}
"""Core retries."""


@attrs.frozen
class _Model:
    dimensions: int
    max_tokens: int


MODELS: Final = {
    "embed-v4.0": _Model(1536, 128_000),
    "embed-english-v3.0": _Model(1024, 512),
    "embed-english-light-v3.0": _Model(384, 512),
    "embed-multilingual-v3.0": _Model(1024, 512),
    "embed-multilingual-light-v3.0": _Model(384, 512),
}
"""Cohere's models, as its documentation describes them."""


class CohereEmbedder(CloudEmbedder[CohereOptions, "AsyncClientV2"]):
    """An embedder for Cohere, or for a server with its API."""

    provider: ClassVar[Provider] = Provider(
        name="cohere",
        service="Cohere",
        other_server="Cohere",
        address="https://api.cohere.com",
        address_variable="CO_API_URL",
        key_variable="CO_API_KEY",
    )

    _http: httpx.AsyncClient

    async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return await self._embed(texts, "search_document", self._signature.dimensions)

    async def embed_query(self, text: str) -> Vector:
        vector: Vector = (await self._embed([text], "search_query", self._signature.dimensions))[0]
        return vector

    def _connect(self) -> AsyncClientV2:
        import httpx
        from cohere import AsyncClientV2

        self._http = httpx.AsyncClient(timeout=self._service.timeout)
        return AsyncClientV2(
            api_key=self._service.key.text or "none",  # the client requires one
            base_url=self._endpoint.address,
            timeout=self._service.timeout,
            httpx_client=self._http,
        )

    async def _disconnect(self, client: AsyncClientV2) -> None:  # noqa: ARG002 - it closes no HTTP client of its caller's
        await self._http.aclose()

    async def _describe(self) -> Signature:
        options = self._options
        model = MODELS.get(options.model) or await self._ask_for_model()
        limit = options.max_tokens or model.max_tokens
        if not limit or limit > model.max_tokens > 0:
            reason = f"is {model.max_tokens:,} tokens" if model.max_tokens else "is unknown to Cohere"
            message = f"embeddings.max_tokens: the limit of {options.model!r} {reason}. Set it to that limit, or less."
            raise ConfigError(message, key="embeddings.max_tokens")
        return self._sign(
            options.dimensions or model.dimensions, limit, "input_type=search_query", "input_type=search_document"
        )

    async def _ask_for_model(self) -> _Model:
        described = await self._get_model()
        vector = await self._embed(["dimensions"], "search_document", self._options.dimensions)
        return _Model(vector.shape[1], int(described.context_length or 0))

    async def _get_model(self) -> GetModelResponse:
        async with self._service.translated_errors(self._translate):
            models = self._open_client().models
            described: GetModelResponse = await models.get(self._options.model, request_options=NO_RETRIES)
            return described

    async def _embed(self, texts: Sequence[str], input_type: InputType, dimensions: int | None) -> NDArray[np.float32]:
        shortened: dict[str, Any] = (
            {} if self._options.dimensions is None else {"output_dimension": self._options.dimensions}
        )
        async with self._service.translated_errors(self._translate):
            answer = await self._open_client().embed(
                model=self._options.model,
                texts=list(texts),
                input_type=input_type,
                embedding_types=["float"],
                truncate="NONE",
                request_options=NO_RETRIES,
                **shortened,
            )
            return self._service.check_vectors(answer.embeddings.float_ or [], len(texts), dimensions)

    async def _load_own_tokenizer(self) -> CountTokens:
        described = await self._get_model()
        try:
            # The client would fetch it on the event loop.
            async with asyncio.timeout(self._service.timeout):
                found = await self._http.get(described.tokenizer_url or "", follow_redirects=True)
            return await asyncio.to_thread(parse_tokenizer, found.raise_for_status().text)
        except Exception as error:  # noqa: BLE001 - a download may raise anything
            return self._estimate_tokens(type(error).__name__)

    def _translate(self, error: Exception) -> EmbeddingError | None:
        from cohere.core.api_error import ApiError

        if isinstance(error, ApiError) and error.status_code is not None and error.status_code >= 300:  # noqa: PLR2004 - HTTP
            message = error.body.get("message", error.body) if isinstance(error.body, dict) else error.body
            return self._service.status_error(error.status_code, message, error.headers or {})
        return None
