"""How many tokens a text has: by the model's tokenizer, or never too few."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from pattern_core.errors import ConfigError

__all__ = ["Count", "TokenCounter", "bound", "parsed_tokenizer", "read_tokenizer"]

Count: TypeAlias = Callable[[str], int]

SPECIAL_TOKENS: Final = 2
"""What tokenizers put round a text."""


def bound(text: str) -> int:
    """Return a number of tokens that a text does not exceed: a token stands for a byte at least."""
    return len(text.encode()) + SPECIAL_TOKENS


def parsed_tokenizer(content: str) -> Count:
    """Make a count of the content of a ``tokenizer.json``, special tokens included. Raises whatever is wrong with it."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text).ids)


def read_tokenizer(path: Path) -> Count:
    """Make a count of a file.

    Args:
        path: A ``tokenizer.json``.

    Returns:
        The count.

    Raises:
        ConfigError: The file cannot be read, or is no such file.
    """
    try:
        return parsed_tokenizer(path.read_text(encoding="utf-8"))
    except Exception as error:
        message = f"embeddings.tokenizer: {path} cannot be read as a tokenizer.json ({type(error).__name__}: {error})."
        raise ConfigError(message, key="embeddings.tokenizer") from error


class TokenCounter:
    """Counts tokens, off the event loop.

    Args:
        load: Fetches the model's tokenizer, at the first count; `bound` where there is none.
    """

    def __init__(self, load: Callable[[], Awaitable[Count]]) -> None:
        self._load = load
        self._count: Count | None = None
        self._loading = asyncio.Lock()

    async def count(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text."""
        count = await self._ready()
        return await asyncio.to_thread(lambda: [count(text) for text in texts])

    async def cut(self, text: str, limit: int) -> str:
        """Return the text, or as much of its beginning as has no more tokens than the limit."""
        count = await self._ready()
        return await asyncio.to_thread(_cut, text, limit, count)

    async def _ready(self) -> Count:
        async with self._loading:
            if self._count is None:
                self._count = await self._load()
            return self._count


def _cut(text: str, limit: int, count: Count) -> str:
    if bound(text) <= limit or count(text) <= limit:
        return text
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if count(text[:middle]) <= limit:
            fits = middle
        else:
            too_long = middle
    return text[: max(fits, 1)]
