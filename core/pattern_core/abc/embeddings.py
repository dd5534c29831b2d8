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
    """Everything that decides which vector a text gets. Vectors of two signatures are never compared.

    Attributes:
        provider: The plugin's name.
        model: The model's name, as the user writes it.
        revision: A text that differs when the model changes under the same name: a hash of the weights, for example.
        dimensions: The length of the vectors.
        normalized: Whether vectors have length 1.
        query_prompt: The text put before a query.
        document_prompt: The text put before a document.
        max_tokens: The model's token limit; None without a limit.
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
        """Return the signature as a JSON text, the same for equal signatures."""
        return json.dumps(attrs.asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the signature from the JSON text that `to_json` returned."""
        return cls(**json.loads(text))

    @property
    def digest(self) -> str:
        """What tells the signature from others, 64 bits of SHA-256, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.provider} {self.model} ({self.dimensions} dimensions, revision {self.revision[:12]})"


class Embedder(AsyncResource):
    """A model that turns texts into vectors.

    An embedder only embeds. Core splits long lists into batches, removes repeats, truncates or chunks long texts, checks
    and caches the vectors, and retries calls that fail with a ``transient`` error.
    """

    @property
    @abstractmethod
    def signature(self) -> Signature:
        """Everything that decides which vector a text gets."""

    @property
    @abstractmethod
    def max_batch(self) -> int:
        """The most texts that one call of `embed_documents` takes."""

    @property
    def max_batch_tokens(self) -> int | None:
        """The most tokens that the texts of one call may have together; None without a limit. Requires `count_tokens`."""
        return None

    @property
    def concurrency(self) -> int:
        """How many calls of `embed_documents` core may make at the same time."""
        return 1

    @abstractmethod
    async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts to be found later.

        Args:
            texts: 1 to `max_batch` texts, none blank, none over ``signature.max_tokens`` tokens.

        Returns:
            A float32 array, shape ``[len(texts), dimensions]``, in the order of the texts. A text gets the same vector
            whatever other texts are in the call, to within float rounding.

        Raises:
            ModelUnavailableError: The model cannot be reached.
            EmbeddingError: The model failed.
        """

    @abstractmethod
    async def embed_query(self, text: str) -> Vector:
        """Embed a text to search for.

        Args:
            text: The text, not blank. Core has truncated it to the token limit.

        Returns:
            A float32 array, shape ``[dimensions]``.

        Raises:
            ModelUnavailableError: The model cannot be reached.
            EmbeddingError: The model failed.
        """

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text, also beyond the token limit.

        An embedder without a token limit need not implement it.

        Args:
            texts: The texts, without the document prompt.

        Returns:
            The counts, including the document prompt and the model's special tokens.
        """
        raise NotImplementedError(f"{type(self).__name__} has a token limit, so it must count tokens")
