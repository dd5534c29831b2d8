"""The address and the API key of a service, from options or from the environment."""

from __future__ import annotations

import os
import re
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from pattern_core.errors import ConfigError, ValidationError

from .options import Secret
from .validators import check_text

__all__ = ["ApiKey", "find_api_key", "find_base_url", "service_url", "url_location"]

# Without the value, which may hold a password.
_NO_URL: Final = "expected a URL like https://example.com/v1, without user name and password (api_key holds a key)"


@attrs.frozen
class ApiKey:
    """An API key, and its source.

    Attributes:
        text: The key; None without a key. A repr does not show it.
        source: The option or variable that holds the key, or the way to set one; for messages.
    """

    text: str | None = attrs.field(repr=False)
    source: str


def find_api_key(option: Secret | None, variable: str, *, trusted_address: bool) -> ApiKey:
    """Find the API key of a service: in the option, else in the environment variable.

    Args:
        option: The option ``api_key``.
        variable: The service's usual environment variable for its key.
        trusted_address: Whether the address is the service's own, or comes from the environment like the key. The
            variable's key is not sent to an address from the configuration: it was meant for another server.

    Returns:
        The key, without white space around it.

    Raises:
        ConfigError: The key is empty, or has characters that an HTTP header cannot hold.
    """
    if option is not None:
        found, source = option.reveal(), "api_key under [embeddings]"
    elif variable not in os.environ:
        return ApiKey(None, f'set {variable}, or api_key = "${{NAME}}" under [embeddings]')
    elif not trusted_address:
        source = (
            f"{variable} is not sent to a base_url from the configuration. "
            f'To send it, set api_key = "${{{variable}}}" under [embeddings]'
        )
        return ApiKey(None, source)
    else:
        found, source = os.environ[variable], f"the environment variable {variable}"
    key = found.strip()
    if not re.fullmatch(r"[!-~]+", key):  # a client would quote the key in its error
        message = f"the key in {source} is empty, or has a space, a line break or a character that is not ASCII."
        raise ConfigError(message, key="embeddings.api_key")
    return ApiKey(key, source)


def find_base_url(option: str | None, variable: str, default: str) -> str:
    """Find the address of a service: in the option, else in the environment variable, else the default.

    Args:
        option: The option ``base_url``, validated by `service_url`.
        variable: The service's usual environment variable for its address.
        default: The service's own address.

    Returns:
        The URL, without a slash at the end.

    Raises:
        ConfigError: The variable holds no URL.
    """
    found = os.environ.get(variable)
    if option is None and found and not _is_service_url(found):
        raise ConfigError(f"the environment variable {variable}: {_NO_URL}", key="embeddings.base_url")
    return (option or found or default).rstrip("/")


def service_url(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Accept the URL of a service: ``http`` or ``https``, without user name and password."""
    where = type(instance).__name__
    if not _is_service_url(check_text(value, where, attribute.name)):
        raise ValidationError(_NO_URL, where=where, field=attribute.name)


def url_location(url: str) -> str:
    """Return a URL without its scheme: host, port and path, for messages and signatures."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.hostname}{port}{parts.path.rstrip('/')}"


def _is_service_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return (
            parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        )
    except ValueError:
        return False
