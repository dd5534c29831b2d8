"""Durable, searchable memory for AI agents, on the database and the embedding model that you choose.

Names are imported on first use, so that ``import pattern_core`` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .config import Config, load_config
    from .database import Database, Repositories, open  # noqa: A004 - called as pattern_core.open
    from .embedding.splitting import Block, split_text
    from .errors import (
        AccessError,
        AlreadyExistsError,
        ChangesLostError,
        ClosedError,
        ConfigError,
        ConflictError,
        DatabaseLockedError,
        DataLossError,
        DuplicatePluginError,
        EmbeddingError,
        FilterError,
        InvalidVectorError,
        MigrationError,
        MissingVariableError,
        ModelChangedError,
        ModelUnavailableError,
        NotFoundError,
        PatternError,
        PluginError,
        PluginNotFoundError,
        ReembedError,
        ReferencedError,
        SignatureMismatchError,
        StorageError,
        TextTooLongError,
        UnknownOptionError,
        UnreachableError,
        ValidationError,
    )
    from .filters import Field
    from .models import (
        Agent,
        Conversation,
        Embedding,
        Energy,
        Hit,
        Memory,
        Message,
        Page,
        Priority,
        RecordChange,
        Role,
        Task,
        TaskStatus,
        ToolCall,
        User,
    )

__all__ = [
    "AccessError",
    "Agent",
    "AlreadyExistsError",
    "Block",
    "ChangesLostError",
    "ClosedError",
    "Config",
    "ConfigError",
    "ConflictError",
    "Conversation",
    "DataLossError",
    "Database",
    "DatabaseLockedError",
    "DuplicatePluginError",
    "Embedding",
    "EmbeddingError",
    "Energy",
    "Field",
    "FilterError",
    "Hit",
    "InvalidVectorError",
    "Memory",
    "Message",
    "MigrationError",
    "MissingVariableError",
    "ModelChangedError",
    "ModelUnavailableError",
    "NotFoundError",
    "Page",
    "PatternError",
    "PluginError",
    "PluginNotFoundError",
    "Priority",
    "RecordChange",
    "ReembedError",
    "ReferencedError",
    "Repositories",
    "Role",
    "SignatureMismatchError",
    "StorageError",
    "Task",
    "TaskStatus",
    "TextTooLongError",
    "ToolCall",
    "UnknownOptionError",
    "UnreachableError",
    "User",
    "ValidationError",
    "load_config",
    "open",
    "split_text",
]

_MODULES: Final = {
    "config": {"Config", "load_config"},
    "database": {"Database", "Repositories", "open"},
    "embedding.splitting": {"Block", "split_text"},
    "filters": {"Field"},
    "errors": {name for name in __all__ if name.endswith("Error")},
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("pattern-core")
    if name not in __all__:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    module = next((module for module, names in _MODULES.items() if name in names), "models")
    return getattr(importlib.import_module(f".{module}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
