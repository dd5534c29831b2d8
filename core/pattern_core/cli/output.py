"""Output: tables and records for people, tab-separated lines for pipes, JSON for programs.

Results go to stdout; notes, progress and errors go to stderr.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

import click

from pattern_core.errors import table_in_words

from .commands import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from pattern_core.models import Hit, Page, Record

__all__ = [
    "Column",
    "as_data",
    "clean",
    "console",
    "counts_in_words",
    "note",
    "one_line",
    "print_done",
    "print_fields",
    "print_hits",
    "print_json",
    "print_page",
    "print_record",
    "print_removed",
    "print_table",
    "record_in_words",
    "shown_time",
]

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
_WIDE: Final = 100
"""The width of a terminal, in columns, from which wide columns are shown."""
_ONES: Final = {"memories": "memory"}
"""The singulars that do not just lose their s."""


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: Its heading.
        share: The most that it takes of the terminal's width; longer texts are truncated. 0: the width of its texts.
        lines: About how many lines a cell takes before it is truncated.
        number: Whether it holds numbers.
        middle: Whether to truncate texts in the middle, so that their ends show.
        wide: Whether to show it only on wide terminals, and outside of terminals.
    """

    title: str
    share: float = 0
    lines: int = 1
    number: bool = False
    middle: bool = False
    wide: bool = False


def clean(text: str) -> str:
    """Make control characters visible, so that stored texts cannot command the terminal."""
    return text.translate(_CONTROLS)


def one_line(text: str) -> str:
    """Return a text without line breaks and control characters."""
    return clean(" ".join(text.split()))


def shown_time(moment: datetime | None) -> str:
    """Return a time for people, in their time zone; empty for None."""
    return "" if moment is None else f"{moment.astimezone():%Y-%m-%d %H:%M}"


def record_in_words(table: str) -> str:
    """Return the word for one record of a table: ``memory``, ``tool call``."""
    return _counted(table_in_words(table), 1)


def counts_in_words(counts: Mapping[str, int]) -> str:
    """Return how many records of each table there are: ``1 agent, 3 memories``; empty if there are none."""
    return ", ".join(f"{count:,} {_counted(table_in_words(table), count)}" for table, count in counts.items() if count)


def as_data(value: Any) -> Any:
    """Return the JSON form of a value that `json` does not know: records, times, and anything else as a text."""
    if fields := getattr(type(value), "__attrs_attrs__", None):
        return {field.name: getattr(value, field.name) for field in fields if field.name != "embedding"}
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def print_json(value: Any) -> None:
    """Print a value as one JSON document."""
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    click.echo(json.dumps(value, default=as_data, ensure_ascii=plain, indent=2))


def print_done(settings: Settings, message: str, data: Any) -> None:
    """Print a sentence about the result, or the result as JSON."""
    if settings.json:
        print_json(data)
    else:
        click.echo(_wrapped(clean(message), sys.stdout))


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print rows: as a table on a terminal, if there are any; else as tab-separated lines with nothing truncated."""
    if not sys.stdout.isatty():
        for row in ([column.title for column in columns], *rows):
            click.echo("\t".join(one_line(cell) for cell in row))
        return
    rows = list(rows)
    if not rows:  # a note says so, and headings alone would say less
        return
    from rich import box
    from rich.table import Table

    width = console().width
    shown = [not column.wide or width >= _WIDE for column in columns]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for column in _only(columns, shown):
        table.add_column(
            column.title,
            justify="right" if column.number else "left",
            no_wrap=not column.share,
            overflow="ellipsis",
            max_width=int(width * column.share) or None,
        )
    for row in rows:
        table.add_row(*(_cell(*each, width) for each in zip(_only(columns, shown), _only(row, shown), strict=True)))
    console().print(table)


def _only(items: Sequence[Any], shown: Sequence[bool]) -> list[Any]:
    return [item for item, is_shown in zip(items, shown, strict=True) if is_shown]


def _cell(column: Column, cell: str, width: int) -> Any:
    """Return a cell of a table on a terminal that is so many columns wide."""
    from rich.text import Text

    text = one_line(cell)
    if column.middle:
        text = _without_middle(text, int(width * column.share))
    if column.lines > 1 and len(text) > (most := column.lines * width // 2):
        text = f"{text[:most]}…"
    return Text(text, no_wrap=column.lines == 1, overflow="ellipsis")


def _without_middle(text: str, most: int) -> str:
    """Truncate a text to so many cells, in the middle, so that its end shows."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= most:
        return text
    head = set_cell_size(text, most // 3)
    tail = set_cell_size(text[::-1], most - most // 3 - 1)[::-1]
    return f"{head}…{tail}"


def print_fields(fields: Mapping[str, str]) -> None:
    """Print names and values, one below the other. A value may have several lines."""
    if not sys.stdout.isatty():
        for name, value in fields.items():
            click.echo(f"{name}\t{clean(value)}")
        return
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in fields.items():
        grid.add_row(name, Text(clean(value)))
    console().print(grid)


def print_page(
    settings: Settings,
    page: Page[Any],
    columns: Sequence[Column],
    row: Callable[[Any], list[str]],
    *,
    hidden: str = "",
) -> None:
    """Print a page of records, and how to see the next one.

    Args:
        settings: The shared options.
        page: The records.
        columns: The columns of the table.
        row: Returns the cells for a record.
        hidden: The records that ``--all`` would show, in words, if the page is empty.
    """
    if settings.json:
        print_json({"items": list(page), "cursor": page.cursor})
        return
    print_table(columns, [row(record) for record in page])
    if not page:
        note(f"There are none. With --all: {hidden}." if hidden else "There are none.")
    if page.cursor:
        note(f"There are more: use --limit {2 * len(page)}, or continue with --cursor {page.cursor}")


def print_hits(
    settings: Settings,
    found: tuple[Sequence[Hit[Any]], float],
    kind: str,
    columns: Sequence[Column],
    row: Callable[[Any], list[str]],
    *,
    nothing: str,
) -> None:
    """Print the hits of a search, best first, and how long it took.

    Args:
        settings: The shared options.
        found: The hits, and the milliseconds that the search took.
        kind: The kind of the records, for the key in JSON.
        columns: The columns of the table, except the score and the text.
        row: Returns the cells for a record; the last one is its text, which the matched passage replaces.
        nothing: The note for no hits.
    """
    hits, milliseconds = found
    if settings.json:
        items = [{"score": hit.score, "exact": hit.exact, "passage": hit.passage, kind: hit.record} for hit in hits]
        print_json({"items": items, "milliseconds": round(milliseconds, 3)})
        return
    columns = [Column("score", number=True), *columns, Column("content", share=1, lines=3)]
    rows = []
    for hit in hits:
        *cells, text = row(hit.record)
        rows.append([f"{hit.score:.3f}", *cells, hit.passage or text])
    print_table(columns, rows)
    how = "exact" if all(hit.exact for hit in hits) else "approximate"
    note(f"{len(hits)} found in {milliseconds:,.1f} ms ({how})." if hits else nothing)


def print_record(settings: Settings, record: Record, **more: str | int) -> None:
    """Print all fields of a record.

    Args:
        settings: The shared options.
        record: The record.
        **more: Further facts about it.
    """
    if settings.json:
        print_json({**as_data(record), **more})
    else:
        print_fields({**_texts(record), **{name: str(value) for name, value in more.items()}})


def print_removed(settings: Settings, counts: Mapping[str, int]) -> None:
    """Print how many records of each table were deleted."""
    message = f"Deleted: {counts_in_words(counts)}." if counts else "Nothing to delete."
    print_done(settings, message, {"deleted": counts})


def _texts(record: Record) -> dict[str, str]:
    """Return the fields of a record as texts, without empty ones."""
    fields = {}
    for name, value in as_data(record).items():
        if isinstance(value, datetime):
            fields[name] = shown_time(value)
        elif value and isinstance(value, dict | list):
            fields[name] = json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None)
        elif isinstance(value, bool):
            fields[name] = "yes" if value else "no"
        elif value not in (None, "", {}, []):
            fields[name] = str(value)
    return fields


def _counted(words: str, count: int) -> str:
    return words if count != 1 else _ONES.get(words, words.removesuffix("s"))


def note(text: str) -> None:
    """Print a text that is not the result."""
    click.echo(_wrapped(clean(text), sys.stderr), err=True)


def _wrapped(text: str, stream: TextIO) -> str:
    """Break lines that are longer than the terminal between words; paths and ids stay whole."""
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    lines = (textwrap.wrap(each, width, break_long_words=False, break_on_hyphens=False) for each in text.split("\n"))
    return "\n".join("\n".join(parts) for parts in lines)


def console(*, stderr: bool = False) -> Console:
    """Return a console that respects NO_COLOR and prints texts unchanged."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, emoji=False)
