"""How results are shown: tables and records for people, tab-separated lines for pipes, JSON for programs.

Results go to stdout; notes, progress and errors go to stderr.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import click

from .base import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from pattern_core.models import Page, Record

__all__ = [
    "Column",
    "as_data",
    "clean",
    "console",
    "note",
    "one_line",
    "print_done",
    "print_fields",
    "print_json",
    "print_page",
    "print_record",
    "print_removed",
    "print_table",
    "shown_time",
]

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: Its heading.
        share: The most that it takes of the terminal's width; what is longer is cut off. 0: whatever it needs.
        lines: How many lines a cell takes, about, before it is cut off.
        number: Whether it holds numbers.
        middle: Whether what is cut off is the middle, as the end tells more than that.
    """

    title: str
    share: float = 0
    lines: int = 1
    number: bool = False
    middle: bool = False


def clean(text: str) -> str:
    """Make control characters visible, so that what somebody remembered cannot command the terminal."""
    return text.translate(_CONTROLS)


def one_line(text: str) -> str:
    """Return a text without line breaks and control characters."""
    return clean(" ".join(text.split()))


def shown_time(moment: datetime | None) -> str:
    """Return a time as people read it, in their time zone."""
    return "" if moment is None else f"{moment.astimezone():%Y-%m-%d %H:%M}"


def as_data(value: Any) -> Any:
    """Return the JSON form of what `json` does not know: records, times, and anything else as a text."""
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
    """Say what was done, or print what came of it as JSON."""
    if settings.json:
        print_json(data)
    else:
        click.echo(_wrapped(clean(message), sys.stdout))


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print rows: as a table on a terminal, else as tab-separated lines with nothing cut off."""
    if not sys.stdout.isatty():
        for row in ([column.title for column in columns], *rows):
            click.echo("\t".join(one_line(cell) for cell in row))
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    width = console().width
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.number else "left",
            no_wrap=not column.share,
            overflow="ellipsis",
            max_width=int(width * column.share) or None,
        )
    for row in rows:
        cells = []
        for column, cell in zip(columns, row, strict=True):
            text = one_line(cell)
            if column.middle:
                text = _without_middle(text, int(width * column.share))
            if column.lines > 1 and len(text) > (most := column.lines * width // 2):
                text = f"{text[:most]}…"
            cells.append(Text(text, no_wrap=column.lines == 1, overflow="ellipsis"))
        table.add_row(*cells)
    console().print(table)


def _without_middle(text: str, most: int) -> str:
    """Cut a text that is longer than so many cells in the middle, so that its end shows."""
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


def print_page(settings: Settings, page: Page[Any], columns: Sequence[Column], row: Callable[[Any], list[str]]) -> None:
    """Print a page of records, and how to see the next one.

    Args:
        settings: The shared options.
        page: The records.
        columns: The columns of the table.
        row: Makes the cells for a record.
    """
    if settings.json:
        print_json({"items": list(page), "cursor": page.cursor})
        return
    print_table(columns, [row(record) for record in page])
    if not page:
        note("There are none.")
    if page.cursor:
        note(f"There are more: --limit {2 * len(page)}, or go on with --cursor {page.cursor}")


def print_record(settings: Settings, record: Record, **more: str | int) -> None:
    """Print everything that a record holds.

    Args:
        settings: The shared options.
        record: The record.
        **more: What else is known about it.
    """
    if settings.json:
        print_json({**as_data(record), **more})
    else:
        print_fields({**_texts(record), **{name: str(value) for name, value in more.items()}})


def print_removed(settings: Settings, counts: Mapping[str, int]) -> None:
    """Say how many records of each table were deleted."""
    shown = ", ".join(f"{count:,} {table.replace('_', ' ')}" for table, count in counts.items())
    print_done(settings, f"Deleted: {shown}." if counts else "Nothing to delete.", {"deleted": counts})


def _texts(record: Record) -> dict[str, str]:
    """Return the fields of a record as texts; those that are empty are left out."""
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


def note(text: str) -> None:
    """Say something that is not the result."""
    click.echo(_wrapped(clean(text), sys.stderr), err=True)


def _wrapped(text: str, stream: TextIO) -> str:
    """Break lines that are longer than the terminal between words; paths and ids stay whole."""
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    lines = (textwrap.wrap(each, width, break_long_words=False, break_on_hyphens=False) for each in text.split("\n"))
    return "\n".join("\n".join(parts) for parts in lines)


def console(*, stderr: bool = False) -> Console:
    """Return a console that respects NO_COLOR and shows texts as they are."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, emoji=False)
