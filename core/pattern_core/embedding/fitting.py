"""Fitting texts to a model's token limit: refuse, truncate or chunk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import attrs

from pattern_core.abc import Vector
from pattern_core.config import Overflow
from pattern_core.errors import TextTooLongError

from .splitting import split_spans

__all__ = ["CountTokens", "Piece", "TextVectors", "fit_texts", "truncate"]

CHUNK_FILL: Final = 0.8
"""The target length of a chunk, as a share of the limit. Token lengths vary, and a chunk over the limit is cut again."""

CountTokens = Callable[[Sequence[str]], Awaitable[list[int]]]


@attrs.frozen
class TextVectors:
    """The vectors of a text.

    Attributes:
        vectors: Read-only float32 arrays, shape ``[dimensions]``: one, or one for each chunk of a text over the model's
            token limit.
        spans: For each vector, the start and end of its chunk in the text; None for the whole text.
    """

    vectors: tuple[Vector, ...] = attrs.field(eq=False)
    spans: tuple[tuple[int, int] | None, ...]


@attrs.frozen
class Piece:
    """A part of a text that the model embeds in one go.

    Attributes:
        text: The part.
        span: Its start and end in the text; None for the whole text.
        tokens: How many tokens it has; 0 if nobody counted.
    """

    text: str
    span: tuple[int, int] | None = None
    tokens: int = 0


async def fit_texts(
    texts: Sequence[str], given: Sequence[str], count_tokens: CountTokens, limit: int | None, overflow: Overflow
) -> dict[str, list[Piece]]:
    """Return the pieces of each text that are to be embedded.

    Args:
        texts: Distinct texts.
        given: The texts as the caller gave them, with repeats; an error names a position among them.
        count_tokens: Counts the tokens of texts.
        limit: The most tokens of a piece; None without a limit.
        overflow: The handling of texts over the limit: ``error``, ``truncate`` or ``chunk``.

    Returns:
        For each text its pieces, in order.

    Raises:
        TextTooLongError: A text is over the limit, and `overflow` is ``error``, or the text cannot be chunked.
    """
    counts = await count_tokens(texts)
    fitting = {}
    for text, tokens in zip(texts, counts, strict=True):
        if limit is None or tokens <= limit:
            fitting[text] = [Piece(text, None, tokens)]
        elif overflow == "truncate":
            fitting[text] = [await truncate(text, count_tokens, limit, tokens)]
        elif overflow == "chunk" and (chunks := await _chunk(text, count_tokens, limit, tokens)):
            fitting[text] = chunks
        else:
            raise TextTooLongError(tokens, limit, list(given).index(text), text)
    return fitting


async def truncate(text: str, count_tokens: CountTokens, limit: int, tokens: int) -> Piece:
    """Return the start of a text that is within a limit. Token lengths vary, so this takes some tries.

    Args:
        text: The text.
        count_tokens: Counts the tokens of texts.
        limit: The most tokens of the piece.
        tokens: How many tokens the text has.

    Returns:
        The piece.
    """
    read = text
    while tokens > limit and len(read) > 1:
        read = read[: min(len(read) - 1, max(1, len(read) * limit // tokens))]
        (tokens,) = await count_tokens([read])
    return Piece(read, (0, len(read)), tokens)


async def _chunk(text: str, count_tokens: CountTokens, limit: int, tokens: int) -> list[Piece]:
    """Split a text between paragraphs, sentences or words into chunks within the limit; empty if one character is over."""
    chunks: list[Piece] = []
    waiting = [Piece(text, (0, len(text)), tokens)]
    while waiting:
        spans = []
        for each in waiting:
            begin, end = each.span or (0, 0)
            if end - begin <= 1:
                return []
            most = max(1, int((end - begin) * limit * CHUNK_FILL / each.tokens))
            spans += [(begin + start, begin + stop) for start, stop in split_spans(each.text, most)]
        counts = await count_tokens([text[begin:end] for begin, end in spans])
        cut = [Piece(text[slice(*span)], span, count) for span, count in zip(spans, counts, strict=True)]
        chunks += [each for each in cut if each.tokens <= limit]
        waiting = [each for each in cut if each.tokens > limit]
    return sorted(chunks, key=lambda each: each.span or (0, 0))
