"""A loaded model. Loading one imports sentence-transformers and torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pattern_core.abc import Signature
from pattern_core.errors import ConfigError
from pattern_core.toolkit import as_unit

from .options import TorchOptions
from .quiet import quiet_loading
from .weights import PROVIDER, unavailable_error, weights_digest

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["Model"]

QUERY_PROMPTS: Final = (
    (r"bge-(small|base|large)-en(-v1\.5)?", "Represent this sentence for searching relevant passages: "),
    (r"bge-(small|base|large)-zh(-v1\.5)?", "为这个句子生成表示以用于检索相关文章："),  # noqa: RUF001 - Chinese
)
"""From the model cards of BAAI; the models' configuration lacks them."""

CPU_BATCH: Final = 8
ACCELERATOR_BATCH: Final = 32
"""The texts of a batch are padded to the longest: this costs time on a CPU, while an accelerator needs large batches."""

_NO_LIMIT: Final = 1_000_000
"""A tokenizer without a limit reports a larger number."""


class Model:
    """A loaded model, for one thread at a time.

    Args:
        options: The options.
        folder: The folder with the model's files.
        device: The device; None for the fastest one.
    """

    def __init__(self, options: TorchOptions, folder: Path, device: str | None) -> None:
        self._options = options
        self._transformer = _load(options, folder, device)
        self.batch_size = options.batch_size or (
            CPU_BATCH if self._transformer.device.type == "cpu" else ACCELERATOR_BATCH
        )
        max_tokens = _max_tokens(self._transformer)
        digest = weights_digest(folder)
        if options.backend != "torch":
            from .backends import replace_torch

            with quiet_loading():
                replace_torch(self._transformer, options, digest)
        self._normalizes = options.normalize or any(
            type(module).__name__ == "Normalize" for module in self._transformer
        )
        self.signature = self._sign(digest, max_tokens)

    def embed(self, texts: Sequence[str], prompt: str) -> NDArray[np.float32]:
        """Embed texts.

        Args:
            texts: The texts.
            prompt: The text put before each of them.

        Returns:
            A float32 array, shape ``[len(texts), dimensions]``.
        """
        found = self._transformer.encode(
            list(texts),
            prompt=prompt,
            batch_size=self.batch_size,
            show_progress_bar=False,
            normalize_embeddings=self._options.normalize,
        )
        vectors = np.asarray(found, dtype=np.float32)
        rounded = self._options.dtype != "float32"  # with half the digits, lengths are wrong by up to 0.4 %
        return as_unit(vectors) if rounded and self._normalizes else vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of documents, also beyond the token limit."""
        prompted = [self.signature.document_prompt + text for text in texts]
        tokens = self._transformer.tokenizer(
            prompted, truncation=False, padding=False, return_attention_mask=False, verbose=False
        )
        return [len(ids) for ids in tokens["input_ids"]]

    def _sign(self, digest: str, max_tokens: int | None) -> Signature:
        # Without the backend, since backends agree to 1e-6, like two processors; with the number type, which changes
        # vectors by 1e-3.
        revision = f"{digest}-{_pooling(self._transformer)}"
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
        raise unavailable_error(options.model, reason) from error
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if device is not None:
        try:
            torch.zeros(1, device=device)
        except Exception as error:
            first = str(error).partition("\n")[0]
            message = f"PyTorch cannot use the device {device!r} here ({first}). Leave it out to use the fastest."
            raise ConfigError(message, key="embeddings.device") from error
    try:
        with quiet_loading():
            model = SentenceTransformer(str(folder), device=device, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        reason = f"its files cannot be read ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})"
        raise unavailable_error(options.model, reason) from error
    if options.dtype == "float16" and model.device.type == "cpu":
        message = (
            "a CPU computes in float16 several times slower than in float32. Leave dtype out, set dtype = "
            '"bfloat16" if the CPU has instructions for it, or set device to an accelerator.'
        )
        raise ConfigError(message, key="embeddings.dtype")
    return model.to(getattr(torch, options.dtype)).eval()


def _pooling(model: SentenceTransformer) -> str:
    """Return the pooling of token vectors into one vector. Another pooling of the same weights makes other vectors."""
    module: Any
    for module in model:
        if type(module).__name__ == "Pooling":
            mode = getattr(module, "pooling_mode", None) or module.get_pooling_mode_str()  # the latter before 6.0
            return mode if isinstance(mode, str) else "+".join(mode)
    return "none"


def _max_tokens(model: SentenceTransformer) -> int | None:
    """Return the token limit, after lowering a limit that the model would fail on."""
    limit: int | None = model.max_seq_length
    table: Any = getattr(model[0], "auto_model", None)
    for name in ("embeddings", "position_embeddings"):
        table = getattr(table, name, None)
    if getattr(table, "padding_idx", None) is not None:
        # RoBERTa and related models number positions from the padding's on, so the first rows of the table are unused.
        limit = min(limit or _NO_LIMIT, table.num_embeddings - table.padding_idx - 1)
        model.max_seq_length = limit
    return limit if limit is not None and limit < _NO_LIMIT else None


def _query_prompt(options: TorchOptions, model: SentenceTransformer) -> str:
    if options.query_prompt is not None:
        return options.query_prompt
    name = re.split(r"[/\\]", options.model.rstrip("/\\"))[-1]
    prompts = (prompt for pattern, prompt in QUERY_PROMPTS if re.fullmatch(pattern, name, re.IGNORECASE))
    return _own_prompt(model, "query") or next(prompts, "")


def _document_prompt(options: TorchOptions, model: SentenceTransformer) -> str:
    if options.document_prompt is not None:
        return options.document_prompt
    return _own_prompt(model, "document", "passage", "corpus")


def _own_prompt(model: SentenceTransformer, *names: str) -> str:
    candidates = (*names, model.default_prompt_name)
    return next((prompt for name in candidates if name is not None and (prompt := model.prompts.get(name))), "")
