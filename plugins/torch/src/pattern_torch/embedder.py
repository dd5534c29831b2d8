"""The embedder. sentence-transformers and torch are imported when it is opened, in its own thread."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from pattern_core.abc import Embedder, Signature, Vector
from pattern_core.errors import ClosedError, ConfigError, EmbeddingError

from .plugin import TorchOptions
from .weights import PROVIDER, digest, find_model, unavailable

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["TorchEmbedder"]

T = TypeVar("T")

QUERY_PROMPTS: Final = (
    (r"bge-(small|base|large)-en(-v1\.5)?", "Represent this sentence for searching relevant passages: "),
    (r"bge-(small|base|large)-zh(-v1\.5)?", "为这个句子生成表示以用于检索相关文章："),  # noqa: RUF001 - Chinese
)
"""What the model cards of BAAI ask for, and the models' own configuration does not say."""

BATCHES_PER_CALL: Final = 8
"""More would let texts of like length stand together better; fewer let a query get its turn sooner."""

_NO_LIMIT: Final = 1_000_000
"""A tokenizer without a limit says so with an absurd number."""


class _Model:
    """A loaded model, used by one thread only.

    Args:
        options: The options.
    """

    def __init__(self, options: TorchOptions) -> None:
        self._options = options
        folder = find_model(options)
        self._transformer = _load(options, folder)
        self.signature = self._sign(folder)

    def embed(self, texts: Sequence[str], prompt: str) -> NDArray[np.float32]:
        vectors = self._transformer.encode(
            list(texts),
            prompt=prompt,
            batch_size=self._options.batch_size,
            show_progress_bar=False,
            normalize_embeddings=self._options.normalize,
        )
        return np.asarray(vectors, dtype=np.float32)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        prompted = [self.signature.document_prompt + text for text in texts]
        tokens = self._transformer.tokenizer(
            prompted, truncation=False, padding=False, return_attention_mask=False, verbose=False
        )
        return [len(ids) for ids in tokens["input_ids"]]

    def _sign(self, folder: Path) -> Signature:
        normalizes = any(type(module).__name__ == "Normalize" for module in self._transformer)
        return Signature(
            provider=PROVIDER,
            model=self._options.model,
            revision=f"{digest(folder)}-{_pooling(self._transformer)}",
            dimensions=self.embed(["dimensions"], "").shape[1],
            normalized=self._options.normalize or normalizes,
            query_prompt=_query_prompt(self._options, self._transformer),
            document_prompt=_document_prompt(self._options, self._transformer),
            max_tokens=_limit(self._transformer),
        )


class TorchEmbedder(Embedder):
    """Turns texts into vectors by a model of sentence-transformers, in a thread of its own.

    `open` makes one. Calls take turns. One that is cancelled leaves its turn to finish and its result to nobody.
    """

    def __init__(self, model: _Model, options: TorchOptions, thread: ThreadPoolExecutor) -> None:
        self._model: _Model | None = model
        self._signature = model.signature
        self._options = options
        self._thread = thread

    @classmethod
    async def open(cls, options: TorchOptions) -> Self:
        """Find the model, download it if it has to be, and load it, off the event loop.

        Args:
            options: The options.

        Returns:
            The embedder.

        Raises:
            ModelUnavailableError: The model is not there, cannot be fetched, or is broken.
            EmbeddingError: Its weights are not the published ones.
            ConfigError: PyTorch cannot use the device.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pattern-torch")
        try:
            model = await asyncio.get_running_loop().run_in_executor(thread, _Model, options)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(model, options, thread)

    @property
    def signature(self) -> Signature:
        return self._signature

    @property
    def max_batch(self) -> int:
        return self._options.batch_size * BATCHES_PER_CALL

    async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return await self._run(lambda model: model.embed(texts, self._signature.document_prompt))

    async def embed_query(self, text: str) -> Vector:
        vectors = await self._run(lambda model: model.embed([text], self._signature.query_prompt))
        vector: Vector = vectors[0]
        return vector

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return await self._run(lambda model: model.count_tokens(texts))

    async def aclose(self) -> None:
        if self._model is None:
            return
        self._model = None
        await asyncio.to_thread(self._release)

    def _release(self) -> None:
        self._thread.shutdown()  # waits for the calls that are under way
        gc.collect()  # sentence-transformers ties models into cycles

    async def _run(self, work: Callable[[_Model], T]) -> T:
        model = self._model
        if model is None:
            message = (
                f"the embedding model {self._options.model!r} was used after it was closed. Open the database again."
            )
            raise ClosedError(message)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, model)
        except Exception as error:
            message = (
                f"the embedding model {self._options.model!r} failed: {type(error).__name__}: {error}. "
                f"If memory ran out, lower batch_size under [embeddings]."
            )
            raise EmbeddingError(message, provider=PROVIDER, model=self._options.model) from error


def _load(options: TorchOptions, folder: Path) -> SentenceTransformer:
    try:
        import torch
        from sentence_transformers import SentenceTransformer
    except Exception as error:
        reason = f"sentence-transformers cannot be imported ({type(error).__name__}: {error})"
        raise unavailable(options.model, reason) from error
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.device is not None:
        try:
            torch.zeros(1, device=options.device)
        except Exception as error:
            first = str(error).partition("\n")[0]
            message = (
                f"PyTorch cannot use the device {options.device!r} here ({first}). Leave it out to take the fastest."
            )
            raise ConfigError(message, key="embeddings.device") from error
    try:
        with _quiet():
            model = SentenceTransformer(
                str(folder), device=options.device, local_files_only=True, trust_remote_code=False
            )
            return model.eval()
    except Exception as error:
        reason = f"its files cannot be read ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})"
        raise unavailable(options.model, reason) from error


def _pooling(model: SentenceTransformer) -> str:
    """Return how the model makes one vector of many: other poolings of the same weights are other vectors."""
    module: Any
    for module in model:
        if type(module).__name__ == "Pooling":
            mode = getattr(module, "pooling_mode", None) or module.get_pooling_mode_str()  # the latter before 6.0
            return mode if isinstance(mode, str) else "+".join(mode)
    return "none"


def _limit(model: SentenceTransformer) -> int | None:
    """Return how many tokens the model reads, after correcting a limit that it would fail on."""
    limit: int | None = model.max_seq_length
    table: Any = getattr(model[0], "auto_model", None)
    for name in ("embeddings", "position_embeddings"):
        table = getattr(table, name, None)
    if getattr(table, "padding_idx", None) is not None:
        # RoBERTa and its kin number positions from behind the padding's, so the first rows of the table are not used.
        limit = min(limit or _NO_LIMIT, table.num_embeddings - table.padding_idx - 1)
        model.max_seq_length = limit
    return limit if limit is not None and limit < _NO_LIMIT else None


def _query_prompt(options: TorchOptions, model: SentenceTransformer) -> str:
    if options.query_prompt is not None:
        return options.query_prompt
    name = re.split(r"[/\\]", options.model.rstrip("/\\"))[-1]
    known = next((prompt for pattern, prompt in QUERY_PROMPTS if re.fullmatch(pattern, name, re.IGNORECASE)), "")
    return _own_prompt(model, "query") or known


def _document_prompt(options: TorchOptions, model: SentenceTransformer) -> str:
    if options.document_prompt is not None:
        return options.document_prompt
    return _own_prompt(model, "document", "passage", "corpus")


def _own_prompt(model: SentenceTransformer, *names: str) -> str:
    candidates = (*names, model.default_prompt_name)
    return next((prompt for name in candidates if name is not None and (prompt := model.prompts.get(name))), "")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries from showing progress bars and warnings while a model is loaded."""
    transformers_logging: Any = importlib.import_module("transformers.utils.logging")
    bars = transformers_logging.is_progress_bar_enabled()
    loggers = [logging.getLogger(name) for name in ("sentence_transformers", "transformers")]
    levels = [logger.level for logger in loggers]
    if bars:
        transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
