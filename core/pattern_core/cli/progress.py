"""Progress on a terminal: a spinner while the model loads, a bar for long work."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from .commands import Settings
from .output import console

__all__ = ["loading", "progress"]


@contextlib.contextmanager
def loading(settings: Settings) -> Iterator[None]:
    """Show on a terminal that the model is loading; it takes seconds.

    Args:
        settings: The shared options.
    """
    if settings.json or not sys.stderr.isatty():
        yield
        return
    with console(stderr=True).status("Loading the model …"):
        yield


@contextlib.contextmanager
def progress(settings: Settings, title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show the progress of long work on a terminal, until it ends.

    Args:
        settings: The shared options.
        title: The work, in words.
        total: The number of steps; None if it is not known. No progress is shown for 0.

    Yields:
        A function to call with the number of steps done since the last call.
    """
    if settings.json or total == 0 or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.finished_speed or task.speed or 0:,.0f}/s", style="dim")

    parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*parts, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda steps: bar.update(task, advance=steps)
