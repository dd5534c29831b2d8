"""Splitting of texts and Markdown documents into blocks with one subject each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Final

import attrs

from pattern_core.errors import ValidationError

__all__ = ["Block", "split_spans", "split_text"]

TITLE_CHARS: Final = 60
_FENCE: Final = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_ATX: Final = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*$")
_SETEXT: Final = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")
_PLAIN: Final = re.compile(r" {0,3}[^\s#>|`~*+-]")
"""The start of a line of prose; an underline below a list item, quote or table makes no heading."""

# A list item or a table row counts as a sentence.
_SENTENCES: Final = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])\s*|\n(?=[ \t]*(?:[-*+|]|\d+[.)])[ \t])")  # noqa: RUF001 - Chinese
_LINES: Final = re.compile(r"\n")
_WORDS: Final = re.compile(r"\s+")


@attrs.frozen
class Block:
    """A block of a document.

    Attributes:
        label: The name of the block, unique in the document: the headings above it, or its first words.
        content: The text as in the document, including a heading that starts the block.
        headings: The headings above it, the outermost first.
    """

    label: str
    content: str
    headings: tuple[str, ...] = ()


@attrs.frozen
class _Section:
    headings: tuple[str, ...]
    text: str
    body: int
    """The position after the heading."""


@attrs.frozen
class _Unit:
    start: int
    end: int
    code: bool


def split_text(text: str, *, markdown: bool, max_chars: int = 1000) -> list[Block]:
    """Split a document into blocks, in order.

    Paragraphs stay together up to the limit. A longer one is split between sentences (code: between lines), else
    between words, else anywhere. Only white space between blocks is lost.

    Args:
        text: The document.
        markdown: Whether headings start sections and fenced code is one unit.
        max_chars: The most characters in a block.

    Returns:
        The blocks. A label depends only on the headings above the block, or on its first words, so it stays when other
        parts of the document change. Repeated labels are numbered: ``Install > Linux (2)``.

    Raises:
        ValidationError: The limit is below 1.
    """
    if max_chars < 1:
        raise ValidationError(f"max_chars must be at least 1, got {max_chars}", where="split_text")
    text = text.replace("\r\n", "\n")
    sections = _sections(text) if markdown else iter([_Section((), text, 0)])
    blocks: list[Block] = []
    taken: set[str] = set()
    for section in sections:
        for content in _contents(section, max_chars, markdown=markdown):
            title = " > ".join(filter(None, section.headings)) or _shorten(content)
            label, number = title, 1
            while label in taken:
                number += 1
                label = f"{title} ({number})"
            taken.add(label)
            blocks.append(Block(label, content.rstrip(), section.headings))
    return blocks


def split_spans(text: str, max_chars: int) -> list[tuple[int, int]]:
    """Return where to split a text into blocks, in order, as `split_text` does without headings.

    Args:
        text: The text.
        max_chars: The most characters in a block, at least 1.

    Returns:
        The start and end of each block. Only white space is between them.
    """
    spans, position = [], 0
    for content in _contents(_Section((), text, 0), max_chars, markdown=False):
        start = text.index(content, position)
        position = start + len(content)
        spans.append((start, start + len(content.rstrip())))
    return spans


def _shorten(text: str) -> str:
    words = " ".join(text[: 4 * TITLE_CHARS].split())
    return words if len(words) <= TITLE_CHARS else f"{words[:TITLE_CHARS].rpartition(' ')[0] or words[:TITLE_CHARS]}…"


def _sections(text: str) -> Iterator[_Section]:
    """Split a Markdown document before its headings. A heading without text joins the next one."""
    lines = text.split("\n")
    start = _front_matter_lines(lines)
    if start:
        yield _Section(("Front matter",), "\n".join(lines[:start]), 0)
    path: list[tuple[int, str]] = []
    found, heads, fence = lines[:0], 0, ""
    number = start
    while number < len(lines):
        heading = None if fence else _heading(lines, number, start)
        if heading is None:
            fence = _fence_after(lines[number], fence)
            found.append(lines[number])
            number += 1
            continue
        level, title, height = heading
        if any(line.strip() for line in found[heads:]):
            yield _section(path, found, heads)
            found = []
        path = [*(each for each in path if each[0] < level), (level, _shorten(title))]
        found += lines[number : number + height]
        heads = len(found)
        number += height
    yield _section(path, found, heads)


def _section(path: list[tuple[int, str]], lines: list[str], heads: int) -> _Section:
    body = sum(len(line) + 1 for line in lines[:heads])
    return _Section(tuple(title for _, title in path), "\n".join(lines), body)


def _front_matter_lines(lines: list[str]) -> int:
    if lines[0].rstrip() != "---":
        return 0
    ends = (number for number, line in enumerate(lines[1:], start=2) if line.rstrip() in {"---", "..."})
    return next(ends, 0)


def _heading(lines: list[str], number: int, start: int) -> tuple[int, str, int] | None:
    """Return the level, title and number of lines of the heading at a line; None if there is none."""
    line = lines[number]
    if atx := _ATX.match(line):
        return len(atx[1]), atx[2] or "", 1
    alone = number == start or not lines[number - 1].strip()
    underline = _SETEXT.match(lines[number + 1]) if alone and number + 1 < len(lines) and _PLAIN.match(line) else None
    if underline:
        return (1 if underline[1][0] == "=" else 2), line.strip(), 2
    return None


def _fence_after(line: str, fence: str) -> str:
    """Return the code fence that is open after a line, given the one open before it; empty for none."""
    if not fence:
        opened = _FENCE.match(line)
        return opened[1] if opened else ""
    closing = line.strip()
    return "" if len(closing) >= len(fence) and set(closing) == {fence[0]} else fence


def _contents(section: _Section, limit: int, *, markdown: bool) -> Iterator[str]:
    text = section.text
    start = end = -1
    for unit in _units(section, markdown=markdown):
        if start >= 0 and unit.end - start > limit:
            yield text[start:end]
            start = -1
        if start < 0:
            start = unit.start
        end = unit.end
        if end - start > limit:
            levels = [_LINES if unit.code else _SENTENCES, _WORDS]
            yield from _cut(text[start:end], limit, levels)
            start = -1
    if start >= 0:
        yield text[start:end]


def _units(section: _Section, *, markdown: bool) -> Iterator[_Unit]:
    """Yield the paragraphs and fenced blocks of a section; the heading is part of the first."""
    kinds, fence = [], ""
    for line in section.text[section.body :].split("\n"):
        before, fence = fence, _fence_after(line, fence) if markdown else ""
        kinds.append(("code" if before or fence else "prose" if line.strip() else "", len(line) + 1))
    position, start = section.body, 0 if section.body else None
    for kind, lines in groupby(kinds, key=itemgetter(0)):
        length = sum(size for _, size in lines)
        if kind:
            yield _Unit(position if start is None else start, position + length - 1, code=kind == "code")
            start = None
        position += length
    if start is not None:
        yield _Unit(start, len(section.text), code=False)


def _cut(text: str, limit: int, levels: list[re.Pattern[str]]) -> Iterator[str]:
    """Split a text into pieces within the limit, at the separators of the first level if possible."""
    if len(text) <= limit:
        yield from [text] if text.strip() else []
        return
    if not levels:
        yield from filter(str.strip, (text[start : start + limit] for start in range(0, len(text), limit)))
        return
    start = end = following = 0
    for gap, after in [*(match.span() for match in levels[0].finditer(text)), (len(text), len(text))]:
        if gap - start > limit and end > start:
            yield from _cut(text[start:end], limit, levels[1:])
            start = following
        end, following = gap, after
    yield from _cut(text[start:end], limit, levels[1:])
