"""Helpers for plugin authors: option types and validators, vector checks, exact search, retry hints.

Nothing here is required. The contracts are in `pattern_core.abc`, the hooks in `pattern_core.hookspecs`.
"""

from __future__ import annotations

from .plugins.discovery import load_plugin
from .search.exact import ExactIndex
from .search.metrics import closest, prepare
from .support.directories import user_cache
from .support.http import retry_after
from .support.options import Secret, structure_options
from .support.validators import as_unit, as_vector, boolean, check_text, integer, list_of, number, text, title_text

__all__ = [
    "ExactIndex",
    "Secret",
    "as_unit",
    "as_vector",
    "boolean",
    "check_text",
    "closest",
    "integer",
    "list_of",
    "load_plugin",
    "number",
    "prepare",
    "retry_after",
    "structure_options",
    "text",
    "title_text",
    "user_cache",
]
