"""The embedder. The client is imported when it is opened, off the event loop."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from pattern_core.abc import Embedder, Signature, Vector
from pattern_core.errors import ClosedError, ConfigError, InvalidVectorError, ModelUnavailableError
from pattern_core.toolkit import as_unit, as_vector

from .calls import PROVIDER, TextRefusedError, answering, make_client, shown_host
from .plugin import OllamaOptions
from .prompts import recommended
from .pulling import pull

if TYPE_CHECKING:
    from ollama import AsyncClient, EmbedResponse, ShowResponse

__all__ = ["OllamaEmbedder"]

LONGEST_CONTEXT: Final = 8192
"""The most tokens that are taken unasked: a model's whole context may need more memory than the model."""

SPECIAL_TOKENS: Final = 2
"""What tokenizers put round a text."""


class OllamaEmbedder(Embedder):
    """Turns texts into vectors by a model on an Ollama server. `open` makes one."""

    def __init__(self, client: AsyncClient, options: OllamaOptions, signature: Signature) -> None:
        self._client: AsyncClient | None = client
        self._options = options
        self._signature = signature

    @classmethod
    async def open(cls, options: OllamaOptions) -> Self:
        """Ask the server for the model, let it pull the model if that is wanted, and try it.

        Args:
            options: The options.

        Returns:
            The embedder.

        Raises:
            ModelUnavailableError: The server cannot be reached, or lacks the model.
            ConfigError: The host is none, or the model does not read that many tokens.
            EmbeddingError: The server failed.
        """
        client = await asyncio.to_thread(make_client, options)
        try:
            facts = await _found(client, options)
            limit = _limit(facts, options)
            digest = await _digest(client, options)
            tried = await _embed(client, options, ["dimensions"], limit)
            query, document = recommended(options.model)
            signature = Signature(
                provider=PROVIDER,
                model=options.model,
                revision=digest,
                dimensions=len(as_vector(tried.embeddings[0])),
                normalized=True,
                query_prompt=query if options.query_prompt is None else options.query_prompt,
                document_prompt=document if options.document_prompt is None else options.document_prompt,
                max_tokens=limit,
            )
        except BaseException:
            await _close(client)
            raise
        return cls(client, options, signature)

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
        text = self._signature.query_prompt + text
        while True:
            try:
                vector: Vector = (await self._vectors([text], truncate=True))[0]
            except TextRefusedError:  # some versions of the server refuse what they are told to cut
                if len(text) == 1:
                    raise
                text = text[: len(text) // 2]
            else:
                return vector

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count tokens, or more of them than there are: Ollama has no call that only counts.

        A text has no more tokens than bytes, so one of few bytes is surely short enough, and its bytes are the answer.
        Any other is put to the model, which counts it.
        """
        return [await self._count(self._signature.document_prompt + text) for text in texts]

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await _close(client)

    async def _count(self, text: str) -> int:
        most = len(text.encode()) + SPECIAL_TOKENS
        limit = self._signature.max_tokens
        if limit is None or most <= limit:
            return most
        try:
            answer = await _embed(self._open_client(), self._options, [text], limit)
        except TextRefusedError:
            return most
        read = answer.prompt_eval_count or limit
        # A server that is too old to refuse reads up to its limit and says nothing.
        return read if read < limit else most

    async def _vectors(self, texts: list[str], *, truncate: bool = False) -> NDArray[np.float32]:
        limit = self._signature.max_tokens
        answer = await _embed(self._open_client(), self._options, texts, limit, truncate=truncate)
        return as_unit(np.stack([as_vector(each, self._signature.dimensions) for each in answer.embeddings]))

    def _open_client(self) -> AsyncClient:
        if self._client is None:
            message = (
                f"the embedding model {self._options.model!r} was used after it was closed. Open the database again."
            )
            raise ClosedError(message)
        return self._client


async def _close(client: AsyncClient) -> None:
    await client.close()  # type: ignore[no-untyped-call]  # as the client's authors left it


async def _found(client: AsyncClient, options: OllamaOptions) -> ShowResponse:
    try:
        async with answering(options):
            return await client.show(options.model)
    except ModelUnavailableError as error:
        if not options.auto_pull or error.transient or "ollama pull" not in str(error):
            raise
    await pull(client, options)
    async with answering(options):
        return await client.show(options.model)


async def _digest(client: AsyncClient, options: OllamaOptions) -> str:
    """Return the digest of the model's manifest, which names its weights, template and parameters."""
    async with answering(options):
        listed = (await client.list()).models
    wanted = _full_name(options.model)
    for each in listed:
        if each.digest and _full_name(each.model or "") == wanted:
            return each.digest.removeprefix("sha256:")
    names = ", ".join(sorted(each.model or "" for each in listed))
    message = (
        f"Ollama at {shown_host(options)} shows {options.model!r}, but does not list it, so nothing tells one version of "
        f"it from the next. Write the name as it is listed: {names}."
    )
    raise ModelUnavailableError(message, provider=PROVIDER, model=options.model)


def _full_name(model: str) -> str:
    name = model.lower().removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _limit(facts: ShowResponse, options: OllamaOptions) -> int | None:
    """Return how many tokens of a text the model is to read; None where the server knows no limit."""
    about: Mapping[str, Any] = facts.modelinfo or {}
    context = about.get(f"{about.get('general.architecture')}.context_length")
    set_there = re.search(r"^num_ctx\s+(\d+)", facts.parameters or "", re.MULTILINE)
    if context is None:
        return options.max_tokens or (int(set_there[1]) if set_there else None)
    if options.max_tokens is not None and options.max_tokens > context:
        message = f"embeddings.max_tokens: {options.model!r} reads {context:,} tokens, not {options.max_tokens:,}."
        raise ConfigError(message, key="embeddings.max_tokens")
    return options.max_tokens or min(int(set_there[1]) if set_there else LONGEST_CONTEXT, int(context))


async def _embed(
    client: AsyncClient, options: OllamaOptions, texts: list[str], limit: int | None, *, truncate: bool = False
) -> EmbedResponse:
    async with answering(options):
        answer = await client.embed(
            model=options.model,
            input=texts,
            truncate=truncate,
            options={"num_ctx": limit} if limit is not None else None,
            keep_alive=options.keep_alive,
            dimensions=options.dimensions,
        )
    if len(answer.embeddings) != len(texts):
        message = (
            f"Ollama at {shown_host(options)} gave {len(answer.embeddings)} vectors for {len(texts)} texts with "
            f"{options.model!r}."
        )
        raise InvalidVectorError(message, provider=PROVIDER, model=options.model)
    return answer
