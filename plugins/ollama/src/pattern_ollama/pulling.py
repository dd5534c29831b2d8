"""Pull a model, and show how far it has come: as a bar on a terminal, in the log elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from pattern_core.errors import ModelUnavailableError

from .calls import PROVIDER, answering, shown_host
from .plugin import OllamaOptions

if TYPE_CHECKING:
    from ollama import AsyncClient, ProgressResponse

__all__ = ["pull"]

STEPS: Final = 10
"""How many lines the log gets of a file."""

_logger: Final = logging.getLogger(__name__)


async def pull(client: AsyncClient, options: OllamaOptions) -> None:
    """Let the server pull the model.

    Args:
        client: The client.
        options: The options: which model.

    Raises:
        ModelUnavailableError: There is no such model, or the pull ended before it was done.
        EmbeddingError: The server failed.
    """
    _logger.info("pulling %s from the Ollama library", options.model)
    console = Console(stderr=True)
    last = ""
    async with answering(options, limited=False):
        with _bar(console) as progress:
            show = _on_terminal(progress) if console.is_terminal else _in_log(options.model)
            async for part in await client.pull(options.model, stream=True):
                last = part.status or last
                show(part)
    if last != "success":
        message = (
            f"Ollama at {shown_host(options)} stopped pulling {options.model!r} ({last or 'without a word'}). Try "
            f"again; what is there already is kept."
        )
        raise ModelUnavailableError(message, provider=PROVIDER, model=options.model, transient=True)


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)


def _on_terminal(progress: Progress) -> Callable[[ProgressResponse], None]:
    tasks = {}

    def show(part: ProgressResponse) -> None:
        name = part.status or "pulling"
        if name not in tasks:
            tasks[name] = progress.add_task(name, total=part.total)
        progress.update(tasks[name], completed=part.completed or 0, total=part.total)

    return show


def _in_log(model: str) -> Callable[[ProgressResponse], None]:
    said: dict[str, int] = {}

    def show(part: ProgressResponse) -> None:
        name = part.status or "pulling"
        step = STEPS * (part.completed or 0) // part.total if part.total else 0
        if said.get(name, -1) < step:
            said[name] = step
            size = f", {100 * step // STEPS} % of {part.total / 1e6:,.0f} MB" if part.total else ""
            _logger.info("%s: %s%s", model, name, size)

    return show
