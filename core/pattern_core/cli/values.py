"""Values on the command line: JSON, times, and texts from files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time
from typing import Any, Final

import click

from pattern_core.errors import ValidationError, shorten

__all__ = ["Entries", "json_or_text", "merge_entries", "parse_time", "read_file", "read_text"]

Entries = tuple[tuple[str, Any], ...]
"""Keys of a JSON object, and their values."""

_DATE: Final = re.compile(r"\d{4}-?\d\d-?\d\d")
_END_OF_DAY: Final = time(23, 59)


def json_or_text(text: str) -> Any:
    """Return a text as the JSON value that it is, or else as itself."""
    try:
        return json.loads(text, parse_constant=_reject, parse_float=_finite)
    except (ValueError, RecursionError):
        return text


def merge_entries(before: Mapping[str, Any], entries: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object with some entries set, without those that are None."""
    return {key: value for key, value in {**before, **dict(entries)}.items() if value is not None}


def parse_time(text: str, *, end_of_day: bool = False) -> datetime:
    """Return the time of a text in ISO form, such as ``2026-03-01``, ``2026-03-01T18:00`` or ``2026-03-01T18:00Z``.

    Args:
        text: The text. A time without a zone is local time.
        end_of_day: Whether a date alone means 23:59 of that day, instead of 0:00.

    Returns:
        The time, in UTC.

    Raises:
        ValidationError: The text is not a time in ISO form.
    """
    try:
        moment = datetime.fromisoformat(text)
        if end_of_day and _DATE.fullmatch(text):
            moment = datetime.combine(date.fromisoformat(text), _END_OF_DAY)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        message = f"{shorten(text)} is not a time in ISO form, such as 2026-03-01 or 2026-03-01T18:00"
        raise ValidationError(message) from None


def read_text(text: str) -> str:
    """Return a text from the command line; ``-`` reads it from standard input."""
    return read_file(text) if text == "-" else text


def read_file(path: str) -> str:
    """Return the content of a UTF-8 file; ``-`` reads standard input. Raise `click.UsageError` for other encodings."""
    with click.open_file(path, encoding="utf-8-sig") as source:
        try:
            text: str = source.read()
        except UnicodeDecodeError as error:
            name = "Standard input" if path == "-" else path
            message = f"{name} is not UTF-8 text (byte {error.start:,}). Convert it first, for example with iconv."
            raise click.UsageError(message) from None
    return text


def _reject(constant: str) -> Any:
    raise ValueError(constant)


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(text)
    return number
