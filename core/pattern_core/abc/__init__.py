"""The contracts of the three plugin roles: `Storage`, `VectorStore` and `Embedder`.

All methods are called from one asyncio event loop and must not block it. A cancelled call may or may not take effect,
but never in part. Core calls `Storage.commit` and `VectorStore.apply` from tasks that are not cancelled.
"""

from .base import AsyncResource, Detail, Health, Row, Vector
from .changes import Change, Changes, Commit, Position
from .embeddings import Embedder, Signature
from .storage import Storage
from .vectors import IndexSpec, Matches, VectorChange, VectorStore
from .writes import Append, Check, CheckNone, Delete, Insert, Patch, Put, Write

__all__ = [
    "Append",
    "AsyncResource",
    "Change",
    "Changes",
    "Check",
    "CheckNone",
    "Commit",
    "Delete",
    "Detail",
    "Embedder",
    "Health",
    "IndexSpec",
    "Insert",
    "Matches",
    "Patch",
    "Position",
    "Put",
    "Row",
    "Signature",
    "Storage",
    "Vector",
    "VectorChange",
    "VectorStore",
    "Write",
]
