"""The options of the plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import attrs

__all__ = ["StorageOptions", "VectorOptions"]


@attrs.frozen(kw_only=True)
class StorageOptions:
    """The options under ``[database]``.

    Attributes:
        path: The folder of the database.
        strict_mode: Whether the engine rejects writes to undefined tables.
        memory: Whether to keep nothing: the database is in a temporary folder, whatever ``path`` is, and is removed
            when it is closed. For tests. (The engine's own ``mem://`` loses a record that one transaction deletes and
            writes again.)
    """

    path: Path = Path("./pattern.db")
    strict_mode: bool = False
    memory: bool = False


@attrs.frozen(kw_only=True)
class VectorOptions:
    """The options under ``[vectors]``.

    Attributes:
        index: ``in-process`` searches exactly, in this process; ``native`` uses the engine's HNSW index.
        efc: How many candidates ``native`` considers when it adds a vector.
        m: How many neighbors ``native`` links a vector to.
        ef: The fewest candidates that ``native`` considers in a search.
    """

    index: Literal["in-process", "native"] = "in-process"
    efc: int = attrs.field(default=150, validator=attrs.validators.in_(range(1, 4097)))
    m: int = attrs.field(default=12, validator=attrs.validators.in_(range(2, 128)))
    ef: int = attrs.field(default=150, validator=attrs.validators.in_(range(1, 4097)))
