"""What the options of both providers have in common. Importing it imports no client."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from pattern_core.errors import ValidationError
from pattern_core.toolkit import check_text

__all__ = ["NO_URL", "at_most", "is_url", "url"]

NO_URL: Final = "expected a URL like https://example.com/v1, with no user name or password in it (api_key holds a key)"
"""What to say of what is no URL; not the value itself, as it may hold a password."""


def is_url(value: str) -> bool:
    """Return whether a text is the address of a service: http or https, and no user or password in it."""
    try:
        parts = urlsplit(value)
        return (
            parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        )
    except ValueError:
        return False


def url(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Accept the address of a service."""
    where = type(instance).__name__
    if not is_url(check_text(value, where, attribute.name)):
        raise ValidationError(NO_URL, where=where, field=attribute.name)


def at_most(limit: int) -> Any:
    """Accept whole numbers from 1 to a limit that the service has."""

    def check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if type(value) is not int or not 1 <= value <= limit:
            message = f"expected a whole number from 1 to {limit:,}"
            raise ValidationError(message, where=type(instance).__name__, field=attribute.name)

    return check
