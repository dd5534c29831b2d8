"""A loaded model. Importing this module imports neither sentence-transformers nor torch; loading a model does."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pattern_core.abc import Signature
from pattern_core.errors import ConfigError

from .plugin import TorchOptions
from .weights import PROVIDER, digest, unavailable

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["Model"]

QUERY_PROMPTS: Final = (
    (r"bge-(small|base|large)-en(-v1\.5)?", "Represent this sentence for searching relevant passages: "),
    (r"bge-(small|base|large)-zh(-v1\.5)?", "为这个句子生成表示以用于检索相关文章："),  # noqa: RUF001 - Chinese
)
"""What the model cards of BAAI ask for, and the models' own configuration does not say."""

CPU_BATCH: Final = 8
ACCELERATOR_BATCH: Final = 32
"""Texts that are read at once are filled up to the longest: a processor loses by that, an accelerator needs many."""

_NO_LIMIT: Final = 1_000_000
"""A tokenizer without a limit says so with an absurd number."""


class Model:
    """A loaded model, used by one thread at a time.

    Args:
        options: The options.
        folder: The model's files.
        device: Where it runs; None for the fastest there is.
    """

    def __init__(self, options: TorchOptions, folder: Path, device: str | None) -> None:
        self._options = options
        self._transformer = _load(options, folder, device)
        self.batch_size = options.batch_size or (
            CPU_BATCH if self._transformer.device.type == "cpu" else ACCELERATOR_BATCH
        )
        max_tokens = _limit(self._transformer)
        weights = digest(folder)
        if options.backend != "torch":
            from .sessions import replace_torch

            with _quiet():
                replace_torch(self._transformer, options, weights)
        self._normalizes = options.normalize or any(
            type(module).__name__ == "Normalize" for module in self._transformer
        )
        self.signature = self._sign(weights, max_tokens)

    def embed(self, texts: Sequence[str], prompt: str) -> NDArray[np.float32]:
        """Embed texts, with a prompt before each: float32 ``[len(texts), dimensions]``."""
        vectors = self._transformer.encode(
            list(texts),
            prompt=prompt,
            batch_size=self.batch_size,
            show_progress_bar=False,
            normalize_embeddings=self._options.normalize,
        )
        found = np.asarray(vectors, dtype=np.float32)
        if self._options.dtype != "float32" and self._normalizes:  # half the digits leave lengths wrong by 0.4 %
            found = found / np.linalg.norm(found, axis=1, keepdims=True)
        return found

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of documents, those beyond the limit too."""
        prompted = [self.signature.document_prompt + text for text in texts]
        tokens = self._transformer.tokenizer(
            prompted, truncation=False, padding=False, return_attention_mask=False, verbose=False
        )
        return [len(ids) for ids in tokens["input_ids"]]

    def _sign(self, weights: str, max_tokens: int | None) -> Signature:
        # What runs the weights is not in it: the engines agree to 1e-6, as far as two processors do. The type of the
        # numbers is: it changes vectors by 1e-3.
        revision = f"{weights}-{_pooling(self._transformer)}"
        if self._options.dtype != "float32":
            revision += f"-{self._options.dtype}"
        return Signature(
            provider=PROVIDER,
            model=self._options.model,
            revision=revision,
            dimensions=self.embed(["dimensions"], "").shape[1],
            normalized=self._normalizes,
            query_prompt=_query_prompt(self._options, self._transformer),
            document_prompt=_document_prompt(self._options, self._transformer),
            max_tokens=max_tokens,
        )


def _load(options: TorchOptions, folder: Path, device: str | None) -> SentenceTransformer:
    try:
        import torch
        from sentence_transformers import SentenceTransformer
    except Exception as error:
        reason = f"sentence-transformers cannot be imported ({type(error).__name__}: {error})"
        raise unavailable(options.model, reason) from error
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if device is not None:
        try:
            torch.zeros(1, device=device)
        except Exception as error:
            first = str(error).partition("\n")[0]
            message = f"PyTorch cannot use the device {device!r} here ({first}). Leave it out to take the fastest."
            raise ConfigError(message, key="embeddings.device") from error
    try:
        with _quiet():
            model = SentenceTransformer(str(folder), device=device, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        reason = f"its files cannot be read ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})"
        raise unavailable(options.model, reason) from error
    if options.dtype == "float16" and model.device.type == "cpu":
        message = (
            "a processor computes in float16 several times slower than in float32. Leave dtype out, or set dtype = "
            '"bfloat16" where the processor has instructions for it, or name an accelerator as device.'
        )
        raise ConfigError(message, key="embeddings.dtype")
    return model.to(getattr(torch, options.dtype)).eval()


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
