"""A service as both providers see it: where it is, the key for it, what its answers and failures become."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import attrs
import numpy as np
from numpy.typing import NDArray

from pattern_core.errors import ConfigError, EmbeddingError, InvalidVectorError, ModelUnavailableError, PatternError
from pattern_core.toolkit import Secret, as_unit, as_vector, retry_after

from .checks import NO_URL, is_url

__all__ = ["Key", "Service", "find_address", "find_key"]

_PASSING: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_NO_ENTRY: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_TOO_LONG: Final = re.compile(
    r"context.(length|size)|max(imum)?.(input|sequence|context|model).len|too (long|many tokens)|too large to process"
    r"|maximum number of tokens|token limit",
    re.IGNORECASE,
)
"""How services say that a text is too long."""
_LONGEST: Final = 300
"""The most characters of an answer that an error shows."""


@attrs.frozen
class Key:
    """A key, and where it was found.

    Attributes:
        text: The key; None where there is none.
        origin: The variable or option that holds it, or why there is none; for people to read.
    """

    text: str | None = attrs.field(repr=False)
    origin: str


def find_address(option: str | None, variable: str, default: str) -> str:
    """Return where a service is: what the option says, else the variable, else the service's own address.

    Args:
        option: The option ``base_url``, already checked.
        variable: The environment variable for it.
        default: The service's own address.

    Returns:
        The URL.

    Raises:
        ConfigError: The variable holds no URL.
    """
    told = os.environ.get(variable)
    if option is None and told and not is_url(told):
        raise ConfigError(f"the environment variable {variable}: {NO_URL}", key="embeddings.base_url")
    return (option or told or default).rstrip("/")


def find_key(option: Secret | None, variable: str, *, own_address: bool) -> Key:
    """Find the key for a service.

    Args:
        option: The option ``api_key``.
        variable: The environment variable that usually holds the key.
        own_address: Whether the address is the service's own, or stands in the environment as the key does. To an
            address of the configuration the variable's key is not sent: it was given for another place.

    Returns:
        The key.

    Raises:
        ConfigError: It is not a key: empty, or with characters that cannot be sent.
    """
    if option is not None:
        found, origin = option.reveal(), "api_key under [embeddings]"
    elif variable in os.environ and own_address:
        found, origin = os.environ[variable], f"the environment variable {variable}"
    elif variable in os.environ:
        origin = (
            f'{variable} is not sent to a base_url unasked; api_key = "${{{variable}}}" under [embeddings] asks for it'
        )
        return Key(None, origin)
    else:
        return Key(None, f'set {variable}, or api_key = "${{NAME}}" under [embeddings]')
    key = found.strip()
    if not re.fullmatch(r"[!-~]+", key):  # else the client quotes it in the error that it raises
        message = f"the key in {origin} is empty, or holds a blank, a line break or a letter that is not ASCII."
        raise ConfigError(message, key="embeddings.api_key")
    return Key(key, origin)


@attrs.frozen(kw_only=True)
class Service:
    """A service and the model that is used there.

    Attributes:
        provider: The plugin's name.
        name: The service's name, for people to read.
        model: The model.
        address: Its base URL.
        key: The key.
        timeout: How long a call may take, in seconds.
    """

    provider: str
    name: str
    model: str
    address: str
    key: Key
    timeout: float

    @property
    def place(self) -> str:
        """The address without what is the same everywhere: host, port and path."""
        parts = urlsplit(self.address)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.hostname}{port}{parts.path.rstrip('/')}"

    @asynccontextmanager
    async def answering(self, translate: Callable[[Exception], EmbeddingError]) -> AsyncIterator[None]:
        """Limit the time of what is done within, and turn what goes wrong into errors of ours.

        Args:
            translate: Turns an error of the client into one of ours.

        Raises:
            EmbeddingError: What `translate` returns, or that there was no answer in time.
        """
        try:
            async with asyncio.timeout(self.timeout):
                yield
        except PatternError:
            raise
        except TimeoutError:
            raise self.timed_out() from None
        except Exception as error:  # noqa: BLE001 - they are told apart there
            # Not as its cause: a client's errors hold the request, and with it the key.
            raise translate(error) from None

    def timed_out(self) -> EmbeddingError:
        """Return the error for an answer that did not come in time."""
        message = f"{self._shown} did not answer within {self.timeout:g} seconds (timeout under [embeddings])."
        return self._error(message, transient=True)

    def unreachable(self) -> ModelUnavailableError:
        """Return the error for a service that nobody could be connected to."""
        message = f"{self._shown} cannot be reached. See that this machine has a way there, and that base_url is right."
        return ModelUnavailableError(message, provider=self.provider, model=self.model, transient=True)

    def cut_off(self, kind: str) -> EmbeddingError:
        """Return the error for a connection that broke."""
        return self._error(f"{self._shown} broke the connection off ({kind}).", transient=True)

    def unreadable(self, kind: str) -> EmbeddingError:
        """Return the error for an answer that is none of this API's."""
        return self._error(f"{self._shown} gave an answer that cannot be read ({kind}). See that base_url is right.")

    def refused(self, status: int, said: object, headers: Mapping[str, str], *, final: bool = False) -> EmbeddingError:
        """Return the error for an answer that says no.

        Args:
            status: The HTTP status.
            said: The body, or the message in it.
            headers: The headers.
            final: Whether another attempt is in vain, whatever the status says.

        Returns:
            The error, without the key in it.
        """
        if status in _NO_ENTRY:
            sent = f"The key is in {self.key.origin}" if self.key.text else f"No key was sent ({self.key.origin})"
            message = f"{self._shown} refuses the key for {self.model!r} (HTTP {status}). {sent}."
            return ModelUnavailableError(message, provider=self.provider, model=self.model)
        shown = self._clean(said)
        if status == HTTPStatus.NOT_FOUND:
            message = f"{self._shown} has no model {self.model!r}, or is another service (HTTP 404: {shown})."
            return ModelUnavailableError(message, provider=self.provider, model=self.model)
        if _TOO_LONG.search(shown):
            message = (
                f"{self._shown} refuses a text that is longer than it lets {self.model!r} read (HTTP {status}: {shown}). "
                f"Set max_tokens under [embeddings] to what that is."
            )
            return self._error(message)
        return self._error(
            f"{self._shown} failed with {self.model!r} (HTTP {status}: {shown}).",
            transient=not final and (status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR),
            retry_after=retry_after(headers),
        )

    def vectors(self, found: Sequence[Any], texts: int, dimensions: int | None) -> NDArray[np.float32]:
        """Check the vectors of an answer, and scale them to length 1.

        Args:
            found: The vectors, each of shape ``[dimensions]``.
            texts: For how many texts.
            dimensions: The length that they have to have; None for any.

        Returns:
            A float32 array, shape ``[texts, dimensions]``.

        Raises:
            InvalidVectorError: There are more or fewer, or one that cannot be right.
        """
        if len(found) != texts:
            raise self.invalid(f"{len(found)} vectors for {texts} texts")
        try:
            checked = np.stack([as_vector(each, dimensions) for each in found])
        except InvalidVectorError as error:
            raise self.invalid(str(error)) from None
        return as_unit(checked)

    def invalid(self, what: str) -> InvalidVectorError:
        """Return the error for vectors that cannot be right."""
        message = f"{self._shown} answered with what cannot be the vectors of {self.model!r}: {what}."
        return InvalidVectorError(message, provider=self.provider, model=self.model)

    @property
    def _shown(self) -> str:
        return f"{self.name} ({self.place})"

    def _clean(self, said: object) -> str:
        text = " ".join(str(said).split())
        if self.key.text is not None:
            text = text.replace(self.key.text, "***")
        return text[:_LONGEST]

    def _error(self, message: str, *, transient: bool = False, retry_after: float | None = None) -> EmbeddingError:
        return EmbeddingError(
            message, provider=self.provider, model=self.model, transient=transient, retry_after=retry_after
        )
