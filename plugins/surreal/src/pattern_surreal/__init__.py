"""The SurrealQL dialect that pattern-core's SurrealDB plugins share."""

from .connection import Connection, StatementError, read_answer
from .storage import SurrealStorage

__all__ = ["Connection", "StatementError", "SurrealStorage", "read_answer"]
