"""Token counts without a tokenizer."""

from __future__ import annotations

from typing import Final

__all__ = ["max_token_count"]

_SPECIAL_TOKENS: Final = 2
"""The tokens that a tokenizer adds around a text."""


def max_token_count(text: str) -> int:
    """Return a number that the token count of a text does not exceed.

    Args:
        text: The text.

    Returns:
        The length in bytes, since a token stands for at least one byte, and two special tokens.
    """
    return len(text.encode()) + _SPECIAL_TOKENS
