"""Contexts that keep libraries from showing progress bars and warnings."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["quiet_downloads", "quiet_export", "quiet_loading"]


@contextmanager
def quiet_downloads() -> Iterator[None]:
    """Hide the progress bars of the hub, unless the user has set them."""
    from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if HF_HUB_DISABLE_PROGRESS_BARS is not None or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Hide the progress bars and warnings of a model that is loaded."""
    transformers_logging: Any = importlib.import_module("transformers.utils.logging")
    bars = transformers_logging.is_progress_bar_enabled()
    if bars:
        transformers_logging.disable_progress_bar()
    try:
        with _only_errors("sentence_transformers", "transformers"):
            yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def quiet_export() -> Iterator[None]:
    """Hide the warnings of PyTorch's ONNX exporter."""
    with _only_errors("torch", "onnxscript", "onnx_ir"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _only_errors(*names: str) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
