"""Token counts by a model's tokenizer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from pattern_core.errors import ConfigError

__all__ = ["CountTokens", "TokenCounter", "parse_tokenizer", "read_tokenizer"]

CountTokens: TypeAlias = Callable[[str], int]


def parse_tokenizer(content: str) -> CountTokens:
    """Return a function that counts with the content of a ``tokenizer.json``, special tokens included.

    Args:
        content: The content.

    Returns:
        The function.

    Raises:
        Exception: The content is invalid; tokenizers has no class of its own for it.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text).ids)


def read_tokenizer(path: Path) -> CountTokens:
    """Return a function that counts with a file.

    Args:
        path: A ``tokenizer.json``.

    Returns:
        The function.

    Raises:
        ConfigError: The file cannot be read, or is invalid.
    """
    try:
        return parse_tokenizer(path.read_text(encoding="utf-8"))
    except Exception as error:
        message = f"embeddings.tokenizer: {path} cannot be read as a tokenizer.json ({type(error).__name__}: {error})."
        raise ConfigError(message, key="embeddings.tokenizer") from error


class TokenCounter:
    """A token counter that works off the event loop.

    Args:
        load: Loads the tokenizer, on the first count.
    """

    def __init__(self, load: Callable[[], Awaitable[CountTokens]]) -> None:
        self._load = load
        self._count_tokens: CountTokens | None = None
        self._loading = asyncio.Lock()

    async def count(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text."""
        count_tokens = await self._ready()
        return await asyncio.to_thread(lambda: [count_tokens(text) for text in texts])

    async def _ready(self) -> CountTokens:
        async with self._loading:
            if self._count_tokens is None:
                self._count_tokens = await self._load()
            return self._count_tokens
