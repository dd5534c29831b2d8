"""The embedder of the plugin. Opening it imports sentence-transformers and torch, off the event loop."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Final, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from pattern_core.abc import Embedder, Signature, Vector
from pattern_core.errors import ClosedError, EmbeddingError

from .model import Model
from .options import TorchOptions
from .weights import PROVIDER, find_model

__all__ = ["TorchEmbedder"]

T = TypeVar("T")

BATCHES_PER_CALL: Final = 8
"""More batches would group texts by length better; fewer let a query wait less."""


class TorchEmbedder(Embedder):
    """An embedder for a model of sentence-transformers, with one copy and one thread for each device.

    `open` makes one. Each copy runs one call at a time. A cancelled call runs to its end, and its result is dropped.
    """

    def __init__(self, models: Sequence[Model], options: TorchOptions, threads: ThreadPoolExecutor) -> None:
        self._models = tuple(models)
        self._idle: SimpleQueue[Model] = SimpleQueue()
        for model in models:
            self._idle.put(model)
        self._signature = models[0].signature
        self._max_batch = BATCHES_PER_CALL * min(model.batch_size for model in models)
        self._options = options
        self._threads = threads

    @classmethod
    async def open(cls, options: TorchOptions) -> Self:
        """Find the model, download it if necessary, and load it, off the event loop.

        Args:
            options: The options.

        Returns:
            The embedder.

        Raises:
            ModelUnavailableError: The model is missing, cannot be downloaded, or is broken.
            EmbeddingError: Its weights are not the published ones, or the backend cannot run it.
            ConfigError: PyTorch cannot use the device, the backend is not installed, or the number type does not suit
                the device.
        """
        devices = options.devices
        threads = ThreadPoolExecutor(max_workers=len(devices), thread_name_prefix="pattern-torch")

        def load() -> list[Model]:  # in turn, since transformers cannot load two at once safely
            folder = find_model(options)
            return [Model(options, folder, device) for device in devices]

        try:
            models = await asyncio.get_running_loop().run_in_executor(threads, load)
        except BaseException:
            threads.shutdown(wait=False)
            raise
        return cls(models, options, threads)

    @property
    def signature(self) -> Signature:
        return self._signature

    @property
    def max_batch(self) -> int:
        return self._max_batch

    @property
    def concurrency(self) -> int:
        return len(self._options.devices)

    async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return await self._run(lambda model: model.embed(texts, self._signature.document_prompt))

    async def embed_query(self, text: str) -> Vector:
        vectors = await self._run(lambda model: model.embed([text], self._signature.query_prompt))
        vector: Vector = vectors[0]
        return vector

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return await self._run(lambda model: model.count_tokens(texts))

    async def aclose(self) -> None:
        if not self._models:
            return
        self._models = ()
        await asyncio.to_thread(self._release)

    def _release(self) -> None:
        self._threads.shutdown()  # waits for running calls
        self._idle = SimpleQueue()
        gc.collect()  # sentence-transformers ties models into cycles

    async def _run(self, work: Callable[[Model], T]) -> T:
        if not self._models:
            message = (
                f"the embedding model {self._options.model!r} was used after it was closed. Open the database again."
            )
            raise ClosedError(message)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._with_idle_model, work)
        except Exception as error:
            message = (
                f"the embedding model {self._options.model!r} failed: {type(error).__name__}: {error}. "
                f"If memory ran out, lower batch_size under [embeddings]."
            )
            raise EmbeddingError(message, provider=PROVIDER, model=self._options.model) from error

    def _with_idle_model(self, work: Callable[[Model], T]) -> T:
        model = self._idle.get()  # never waits, since there are as many models as threads
        try:
            return work(model)
        finally:
            self._idle.put(model)
