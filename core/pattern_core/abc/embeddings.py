"""The contract of an embedding provider."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

import attrs
import numpy as np
from numpy.typing import NDArray

from .base import AsyncResource, Vector

__all__ = ["Embedder", "Signature"]


@attrs.frozen(kw_only=True)
class Signature:
    """All that decides what vector a text gets. Vectors of two signatures are never compared.

    Attributes:
        provider: The plugin's name.
        model: The model's name, as the user writes it.
        revision: What tells two contents of one name apart: a hash of the weights, say.
        dimensions: The length of the vectors.
        normalized: Whether vectors have length 1.
        query_prompt: What is put before a query.
        document_prompt: What is put before a document.
        max_tokens: How many tokens the model reads; None without a limit.
    """

    provider: str
    model: str
    revision: str
    dimensions: int
    normalized: bool
    query_prompt: str = ""
    document_prompt: str = ""
    max_tokens: int | None = None

    def to_json(self) -> str:
        """Return the signature as a JSON text that is the same for equal signatures."""
        return json.dumps(attrs.asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the signature that `to_json` wrote."""
        return cls(**json.loads(text))

    @property
    def digest(self) -> str:
        """What tells the signature from others, 64 bits of SHA-256, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.provider} {self.model} ({self.dimensions} dimensions, revision {self.revision[:12]})"


class Embedder(AsyncResource):
    """A model that turns texts into vectors.

    Core cuts long lists into batches, removes repeats, checks what comes back, keeps it for the next time, and repeats
    calls that fail with an error that says it is ``transient``; an embedder only embeds.
    """

    @property
    @abstractmethod
    def signature(self) -> Signature:
        """All that decides what vector a text gets."""

    @property
    @abstractmethod
    def max_batch(self) -> int:
        """How many texts one call of `embed_documents` takes at most."""

    @property
    def max_batch_tokens(self) -> int | None:
        """How many tokens the texts of one call may have in all; None without a limit. Needs `count_tokens`."""
        return None

    @property
    def concurrency(self) -> int:
        """How many calls of `embed_documents` core may have under way at once."""
        return 1

    @abstractmethod
    async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts that are to be found.

        Args:
            texts: 1 to `max_batch` texts, none of them blank, none of more than ``signature.max_tokens`` tokens.

        Returns:
            A float32 array, shape ``[len(texts), dimensions]``, in the order of the texts. The same text gets the
            same vector whatever stands beside it, to within float rounding.

        Raises:
            ModelUnavailableError: The model cannot be reached.
            EmbeddingError: It failed.
        """

    @abstractmethod
    async def embed_query(self, text: str) -> Vector:
        """Embed a text to find others by.

        Args:
            text: The text, not blank. What the model does not read of it is cut off.

        Returns:
            A float32 array, shape ``[dimensions]``.

        Raises:
            ModelUnavailableError: The model cannot be reached.
            EmbeddingError: It failed.
        """

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens that the model would read of each text, had it no limit.

        Core asks only where ``signature.max_tokens`` is not None, so an embedder without a limit need not answer.

        Args:
            texts: The texts, without the document prompt.

        Returns:
            The counts, the prompt's and the model's own special tokens included.
        """
        raise NotImplementedError(f"{type(self).__name__} has a token limit, so it must count tokens")
