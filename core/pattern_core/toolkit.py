"""Helpers for plugin authors: option types and validators, vector checks, exact search, embedding services over HTTP.

Nothing here is required. The contracts are in `pattern_core.abc`, the hooks in `pattern_core.hookspecs`.
"""

from __future__ import annotations

from .catalog.follower import Follower
from .plugins.discovery import load_plugin
from .search.exact import ExactIndex
from .search.metrics import closest, prepare
from .support.directories import user_cache
from .support.embedding_service import EmbeddingService, ServiceHints
from .support.endpoints import ApiKey, find_api_key, find_base_url, service_url, url_location
from .support.http import retry_after
from .support.options import Secret, structure_options
from .support.tokens import max_token_count
from .support.validators import as_unit, as_vector, boolean, check_text, integer, list_of, number, text, title_text

__all__ = [
    "ApiKey",
    "EmbeddingService",
    "ExactIndex",
    "Follower",
    "Secret",
    "ServiceHints",
    "as_unit",
    "as_vector",
    "boolean",
    "check_text",
    "closest",
    "find_api_key",
    "find_base_url",
    "integer",
    "list_of",
    "load_plugin",
    "max_token_count",
    "number",
    "prepare",
    "retry_after",
    "service_url",
    "structure_options",
    "text",
    "title_text",
    "url_location",
    "user_cache",
]
