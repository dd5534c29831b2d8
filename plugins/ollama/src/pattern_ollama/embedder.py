"""The embedder of the plugin."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from pattern_core.abc import Embedder, Signature, Vector
from pattern_core.errors import ConfigError
from pattern_core.toolkit import max_token_count

from .options import OllamaOptions
from .prompts import recommended_prompts
from .pulling import pull_model
from .service import MissingModelError, TextRejectedError, describe_service, make_client, translated_errors

if TYPE_CHECKING:
    from ollama import AsyncClient, EmbedResponse, ShowResponse

__all__ = ["OllamaEmbedder"]

MAX_DEFAULT_CONTEXT: Final = 8192
"""The highest token limit without the option: a model's whole context may need more memory than the model."""


class OllamaEmbedder(Embedder):
    """An embedder for a model on an Ollama server. `open` makes one.

    Args:
        options: The options.
    """

    def __init__(self, options: OllamaOptions) -> None:
        self._options = options
        self._service = describe_service(options)
        self._client: AsyncClient | None = None
        self._max_tokens: int | None = None
        self._signature: Signature

    @classmethod
    async def open(cls, options: OllamaOptions) -> Self:
        """Open the embedder: look the model up on the server, pull it if configured, and try it.

        Args:
            options: The options.

        Returns:
            The embedder.

        Raises:
            ModelUnavailableError: The server cannot be reached, or lacks the model.
            ConfigError: The host is invalid, or the token limit is above the model's.
            EmbeddingError: The server failed.
        """
        embedder = cls(options)
        embedder._client = await asyncio.to_thread(make_client, options)
        try:
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

    async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return await self._vectors([self._signature.document_prompt + text for text in texts])

    async def embed_query(self, text: str) -> Vector:
        # Without a known limit core cannot truncate.
        unlimited = self._max_tokens is None
        vector: Vector = (await self._vectors([self._signature.query_prompt + text], truncate=unlimited))[0]
        return vector

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text, or return an upper bound: Ollama has no call that only counts.

        A text has no more tokens than bytes. If its bytes are within the token limit, they are the result; otherwise
        the model embeds the text, which counts its tokens.
        """
        return [await self._count(self._signature.document_prompt + text) for text in texts]

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()  # type: ignore[no-untyped-call]  # ollama does not annotate it

    async def _count(self, text: str) -> int:
        bound = max_token_count(text)
        limit = self._max_tokens
        if limit is None or bound <= limit:
            return bound
        try:
            answer = await self._embed([text])
        except TextRejectedError:
            return bound
        tokens = answer.prompt_eval_count or limit
        # An old server truncates silently, and then reports its limit.
        return tokens if tokens < limit else bound

    async def _describe(self) -> Signature:
        options = self._options
        self._max_tokens = _find_max_tokens(await self._find_model(), options)
        revision = await self._digest()
        vectors = self._service.check_vectors((await self._embed(["dimensions"])).embeddings, 1)
        query_prompt, document_prompt = recommended_prompts(options.model)
        return Signature(
            provider=self._service.provider,
            model=options.model,
            revision=revision,
            dimensions=vectors.shape[1],
            normalized=True,
            query_prompt=query_prompt if options.query_prompt is None else options.query_prompt,
            document_prompt=document_prompt if options.document_prompt is None else options.document_prompt,
            max_tokens=self._max_tokens,
        )

    async def _find_model(self) -> ShowResponse:
        try:
            return await self._show()
        except MissingModelError:
            if not self._options.auto_pull:
                raise
        await pull_model(self._open_client(), self._service)
        return await self._show()

    async def _show(self) -> ShowResponse:
        async with translated_errors(self._service):
            return await self._open_client().show(self._options.model)

    async def _digest(self) -> str:
        """Return the digest of the model's manifest, which names its weights, template and parameters."""
        async with translated_errors(self._service):
            listed = (await self._open_client().list()).models
        wanted = _full_name(self._options.model)
        for each in listed:
            if each.digest and _full_name(each.model or "") == wanted:
                return each.digest.removeprefix("sha256:")
        names = ", ".join(sorted(each.model or "" for each in listed))
        message = (
            f"{self._service.name} shows {self._options.model!r} but does not list it, so its version is unknown. "
            f"Write the name as it is listed: {names}."
        )
        raise self._service.unavailable_error(message)

    async def _vectors(self, texts: list[str], *, truncate: bool = False) -> NDArray[np.float32]:
        answer = await self._embed(texts, truncate=truncate)
        return self._service.check_vectors(answer.embeddings, len(texts), self._signature.dimensions)

    async def _embed(self, texts: list[str], *, truncate: bool = False) -> EmbedResponse:
        client, options = self._open_client(), self._options
        async with translated_errors(self._service):
            return await client.embed(
                model=options.model,
                input=texts,
                truncate=truncate,
                options=None if self._max_tokens is None else {"num_ctx": self._max_tokens},
                keep_alive=options.keep_alive,
                dimensions=options.dimensions,
            )

    def _open_client(self) -> AsyncClient:
        if self._client is None:
            raise self._service.closed_error()
        return self._client


def _full_name(model: str) -> str:
    name = model.lower().removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _find_max_tokens(model: ShowResponse, options: OllamaOptions) -> int | None:
    """Return the token limit: the option, else the Modelfile's, else the model's context; None if all are unknown."""
    info: Mapping[str, Any] = model.modelinfo or {}
    context = info.get(f"{info.get('general.architecture')}.context_length")
    parameter = re.search(r"^num_ctx\s+(\d+)", model.parameters or "", re.MULTILINE)
    num_ctx = int(parameter[1]) if parameter else None
    if context is None:
        return options.max_tokens or num_ctx
    if options.max_tokens is not None and options.max_tokens > context:
        message = (
            f"embeddings.max_tokens: the limit of {options.model!r} is {context:,} tokens, not {options.max_tokens:,}."
        )
        raise ConfigError(message, key="embeddings.max_tokens")
    return options.max_tokens or min(num_ctx or MAX_DEFAULT_CONTEXT, int(context))
