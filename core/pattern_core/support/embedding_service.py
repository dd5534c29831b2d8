"""Embedding services over HTTP: failures of any client as errors of pattern-core, and checked vectors."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from pattern_core.errors import ClosedError, EmbeddingError, InvalidVectorError, ModelUnavailableError, PatternError

from .endpoints import ApiKey
from .http import retry_after
from .validators import as_unit, as_vector

__all__ = ["EmbeddingService", "ServiceHints"]

_TRANSIENT: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
"""The statuses below 500 after which another attempt may succeed."""
_KEY_REJECTED: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_TEXT_TOO_LONG: Final = re.compile(
    r"context.(length|size)|exceeds? the (maximum )?context|input length|max(imum)?.(input|sequence|context|model).len"
    r"|too (long|many tokens)|too large to process|maximum number of tokens|token limit",
    re.IGNORECASE,
)
"""How services report a text over their token limit."""
_SHOWN_CHARACTERS: Final = 300
"""The most characters of an answer that an error shows."""
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


@attrs.frozen(kw_only=True)
class ServiceHints:
    """The way out at the end of error messages, in sentences.

    Attributes:
        timeout: For an answer that did not come in time.
        unreachable: For a service that cannot be connected to.
        unreadable: For an answer that the client cannot read.
        too_long: For a text over the service's token limit.
    """

    timeout: str = "Raise timeout under [embeddings]."
    unreachable: str = "Check the network, and base_url under [embeddings]."
    unreadable: str = "Check base_url under [embeddings]."
    too_long: str = "Set max_tokens under [embeddings] to that limit."


def _no_translation(_error: Exception) -> EmbeddingError | None:
    return None


@attrs.frozen(kw_only=True)
class EmbeddingService:
    """An embedding service, with one model, as an embedding plugin sees it.

    It works with any HTTP client, and imports none::

        async with service.translated_errors(self._translate):
            answer = await client.embed(model=service.model, texts=texts)
            return service.check_vectors(answer.embeddings, len(texts), self.signature.dimensions)

    Attributes:
        provider: The plugin's name.
        model: The model's name.
        name: The service's name and location for messages: ``Acme (api.acme.com/v1)``.
        timeout: How long a call may take, in seconds.
        key: The API key. Errors never show it.
        hints: The way out at the end of error messages.
        too_long_error: The class of the error for a text over the token limit.
    """

    provider: str
    model: str
    name: str
    timeout: float
    key: ApiKey
    hints: ServiceHints = attrs.field(factory=ServiceHints)
    too_long_error: type[EmbeddingError] = EmbeddingError

    @asynccontextmanager
    async def translated_errors(
        self, translate: Callable[[Exception], EmbeddingError | None] = _no_translation, *, timed: bool = True
    ) -> AsyncIterator[None]:
        """Limit the time of a call, and turn every exception into an error of pattern-core.

        Args:
            translate: Returns the error for an exception of the client; None for the usual one. Most plugins handle
                HTTP statuses here, with `status_error`.
            timed: Whether ``timeout`` limits the context.

        Raises:
            ModelUnavailableError: The service cannot be reached, or rejects the key.
            EmbeddingError: The service failed. A cause is not attached: exceptions of clients hold the key.
        """
        try:
            async with asyncio.timeout(self.timeout if timed else None):
                yield
        except PatternError:
            raise
        except Exception as error:  # noqa: BLE001 - every class of error has its translation
            raise (translate(error) or self.transport_error(error) or self.unreadable_error(error)) from None

    def transport_error(self, error: BaseException | None) -> EmbeddingError | None:
        """Return the error for a connection that failed.

        Args:
            error: An exception of Python, httpx or httpx2; a client's error often has it as its cause.

        Returns:
            The error, transient unless the request cannot be sent; None if the exception is of another kind.
        """
        # By name, since importing httpx takes long, and clients bring httpx or its successor httpx2.
        classes = {each.__name__ for each in type(error).__mro__}
        if "LocalProtocolError" in classes:  # its text quotes the header with the key
            message = f"the request to {self.name} cannot be sent. Check that the key is one line of ASCII"
            return self.error(f"{message} ({self.key.source}).")
        if isinstance(error, TimeoutError) or "TimeoutException" in classes:
            return self.timeout_error()
        if isinstance(error, ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
            return self.connection_error(error)
        if isinstance(error, ConnectionError) or "ConnectError" in classes:
            return self.unreachable_error()
        return self.connection_error(error) if "TransportError" in classes else None

    def status_error(
        self,
        status: int | None,
        message: object,
        headers: Mapping[str, str] = _NO_HEADERS,
        *,
        permanent: bool = False,
    ) -> EmbeddingError:
        """Return the error for an answer with an HTTP status that is no success.

        Args:
            status: The status; None for an error in the middle of a streamed answer.
            message: The service's message, or the body.
            headers: The headers, for ``Retry-After``.
            permanent: Whether another attempt cannot succeed, whatever the status.

        Returns:
            The error. It is transient after a lost stream and the statuses 408, 425, 429 and from 500 on.
        """
        if status in _KEY_REJECTED:
            key = f"The key is in {self.key.source}" if self.key.text else f"No key was sent: {self.key.source}"
            return self.unavailable_error(f"{self.name} rejects the key for {self.model!r} (HTTP {status}). {key}.")
        shown = self.redact(message)
        code = "" if status is None else f"HTTP {status}: "
        if status == HTTPStatus.NOT_FOUND:
            return self.unavailable_error(
                f"{self.name} has no model {self.model!r}, or is another service ({code}{shown})."
            )
        if _TEXT_TOO_LONG.search(shown):
            message = f"{self.name} rejects a text over its token limit for {self.model!r} ({code}{shown})."
            return self.too_long_error(f"{message} {self.hints.too_long}", provider=self.provider, model=self.model)
        return self.error(
            f"{self.name} failed with {self.model!r} ({code}{shown}).",
            transient=not permanent
            and (status is None or status in _TRANSIENT or status >= HTTPStatus.INTERNAL_SERVER_ERROR),
            retry_after=retry_after(headers),
        )

    def timeout_error(self) -> EmbeddingError:
        """Return the error for an answer that did not come in time."""
        message = f"{self.name} did not answer within {self.timeout:g} seconds. {self.hints.timeout}"
        return self.error(message, transient=True)

    def unreachable_error(self) -> ModelUnavailableError:
        """Return the error for a service that cannot be connected to."""
        return self.unavailable_error(f"{self.name} cannot be reached. {self.hints.unreachable}", transient=True)

    def connection_error(self, error: BaseException | None) -> EmbeddingError:
        """Return the error for a connection that broke."""
        shown = self.redact(f"{type(error).__name__}: {error}")
        return self.error(f"the connection to {self.name} broke ({shown}).", transient=True)

    def unreadable_error(self, error: BaseException) -> EmbeddingError:
        """Return the error for an answer that is none of the expected API."""
        kind = type(error).__name__  # without its text, which may be the whole answer
        return self.error(f"{self.name} returned an answer that cannot be read ({kind}). {self.hints.unreadable}")

    def invalid_vectors_error(self, reason: str) -> InvalidVectorError:
        """Return the error for unusable vectors."""
        message = f"{self.name} returned unusable vectors of {self.model!r}: {reason}."
        return InvalidVectorError(message, provider=self.provider, model=self.model)

    def closed_error(self) -> ClosedError:
        """Return the error for the use of an embedder after it was closed."""
        return ClosedError(f"the embedding model {self.model!r} was used after it was closed. Open the database again.")

    def unavailable_error(self, message: str, *, transient: bool = False) -> ModelUnavailableError:
        """Return a `ModelUnavailableError` that names the provider and the model."""
        return ModelUnavailableError(message, provider=self.provider, model=self.model, transient=transient)

    def error(self, message: str, *, transient: bool = False, retry_after: float | None = None) -> EmbeddingError:
        """Return an `EmbeddingError` that names the provider and the model."""
        return EmbeddingError(
            message, provider=self.provider, model=self.model, transient=transient, retry_after=retry_after
        )

    def redact(self, message: object) -> str:
        """Return a message of the service on one line, without the key, shortened to 300 characters."""
        text = " ".join(str(message).split())
        if self.key.text:
            text = text.replace(self.key.text, "***")
        return text[:_SHOWN_CHARACTERS]

    def check_vectors(self, vectors: Sequence[Any], count: int, dimensions: int | None = None) -> NDArray[np.float32]:
        """Check the vectors of an answer, and scale them to length 1.

        Args:
            vectors: The vectors, each of shape ``[dimensions]``.
            count: How many there must be.
            dimensions: Their length; None for any.

        Returns:
            A float32 array, shape ``[count, dimensions]``.

        Raises:
            InvalidVectorError: The number of vectors or the shape of one is wrong, or a vector is all zeros, or holds
                NaN or infinity.
        """
        if len(vectors) != count:
            raise self.invalid_vectors_error(f"{len(vectors)} vectors for {count} texts")
        try:
            return as_unit(np.stack([as_vector(each, dimensions) for each in vectors]))
        except (InvalidVectorError, ValueError) as error:  # a ValueError: lengths that differ
            raise self.invalid_vectors_error(str(error).removesuffix(".")) from None
