"""The options of the plugin."""

from pathlib import Path

import attrs
from attrs.validators import ge, le

__all__ = ["SqliteOptions"]


@attrs.frozen(kw_only=True)
class SqliteOptions:
    """The options under ``[database]``.

    Attributes:
        path: The database file. It is created if missing.
        busy_timeout: How long a write waits for others, at most 3,600 seconds.
    """

    path: Path = Path("pattern.sqlite")
    busy_timeout: float = attrs.field(default=30.0, validator=[ge(0), le(3600)])
