"""The endpoint of a provider: the server's address, the key and the model, found from the options."""

from __future__ import annotations

import attrs

from pattern_core.errors import ModelUnavailableError
from pattern_core.toolkit import EmbeddingService, find_api_key, find_base_url, url_location

from .cohere_options import CohereOptions
from .openai_options import OpenAIOptions

__all__ = ["Endpoint", "Provider", "find_endpoint"]


@attrs.frozen(kw_only=True)
class Provider:
    """The fixed facts of a provider.

    Attributes:
        name: The plugin's name.
        service: The service's name, for messages.
        other_server: The name of any other server with the same API, for messages.
        address: The service's base URL.
        address_variable: The environment variable for another base URL.
        key_variable: The environment variable for the key.
    """

    name: str
    service: str
    other_server: str
    address: str
    address_variable: str
    key_variable: str


@attrs.frozen
class Endpoint:
    """A server, and how to use it.

    Attributes:
        address: The base URL.
        revision: The server in the signature: the provider's name for the service itself, else host, port and path.
        service: The server for calls and errors.
    """

    address: str
    revision: str
    service: EmbeddingService


def find_endpoint(provider: Provider, options: OpenAIOptions | CohereOptions) -> Endpoint:
    """Find the server and the key, in the options and the environment.

    Args:
        provider: The provider.
        options: Its options.

    Returns:
        The endpoint.

    Raises:
        ConfigError: The address or the key is invalid.
        ModelUnavailableError: The service itself is used, and there is no key.
    """
    address = find_base_url(options.base_url, provider.address_variable, provider.address)
    is_service = address == provider.address
    key = find_api_key(options.api_key, provider.key_variable, trusted_address=options.base_url is None or is_service)
    if key.text is None and is_service:
        message = f"there is no key for {provider.service}: {key.source}."
        raise ModelUnavailableError(message, provider=provider.name, model=options.model)
    location = url_location(address)
    service = EmbeddingService(
        provider=provider.name,
        model=options.model,
        name=f"{provider.service if is_service else provider.other_server} ({location})",
        timeout=options.timeout,
        key=key,
    )
    return Endpoint(address, provider.name if is_service else location, service)
