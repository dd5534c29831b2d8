"""Pulls of models, with progress: a bar on a terminal, lines in the log elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from pattern_core.toolkit import EmbeddingService

from .service import translated_errors

if TYPE_CHECKING:
    from ollama import AsyncClient, ProgressResponse

__all__ = ["pull_model"]

LOG_STEPS: Final = 10
"""The number of log lines for each file."""

_logger: Final = logging.getLogger(__name__)


async def pull_model(client: AsyncClient, service: EmbeddingService) -> None:
    """Let the server pull the model.

    Args:
        client: The client.
        service: The server and the model.

    Raises:
        ModelUnavailableError: There is no such model, or the pull ended early.
        EmbeddingError: The server failed.
    """
    _logger.info("pulling %s from the Ollama library", service.model)
    console = Console(stderr=True)
    status = ""
    async with translated_errors(service, timed=False):
        with _bar(console) as progress:
            show = _on_terminal(progress) if console.is_terminal else _in_log(service.model)
            async for update in await client.pull(service.model, stream=True):
                status = update.status or status
                show(update)
    if status != "success":
        message = (
            f"{service.name} stopped pulling {service.model!r} (last status: {status or 'none'}). Try again: the pull "
            f"resumes."
        )
        raise service.unavailable_error(message, transient=True)


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)


def _on_terminal(progress: Progress) -> Callable[[ProgressResponse], None]:
    tasks = {}

    def show(update: ProgressResponse) -> None:
        name = update.status or "pulling"
        if name not in tasks:
            tasks[name] = progress.add_task(name, total=update.total)
        progress.update(tasks[name], completed=update.completed or 0, total=update.total)

    return show


def _in_log(model: str) -> Callable[[ProgressResponse], None]:
    logged: dict[str, int] = {}

    def show(update: ProgressResponse) -> None:
        name = update.status or "pulling"
        step = LOG_STEPS * (update.completed or 0) // update.total if update.total else 0
        if logged.get(name, -1) < step:
            logged[name] = step
            size = f", {100 * step // LOG_STEPS} % of {update.total / 1e6:,.0f} MB" if update.total else ""
            _logger.info("%s: %s%s", model, name, size)

    return show
