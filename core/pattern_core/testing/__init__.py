"""The conformance kit: the contracts as tests, which plugins inherit.

The test module of a plugin only configures how to open it::

    from pattern_core.testing import StorageContract

    class TestMyStorage(StorageContract):
        spec = pattern_storage()

        @pytest.fixture
        def options(self, tmp_path):
            return MyOptions(path=tmp_path / "data")

Requires the extra ``pattern-core[testing]``.
"""

from __future__ import annotations

import pytest

# Failing assertions show their values only if this comes before the imports.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in (
            "child_processes",
            "embedder",
            "indexed_storage",
            "storage",
            "storage_filters",
            "storage_processes",
            "storage_reads",
            "storage_values",
            "storage_writes",
            "vectors",
            "vectors_processes",
        )
    )
)

from .contract import Contract  # noqa: E402 - see above
from .embedder import EmbedderContract  # noqa: E402
from .letter_embedder import LetterEmbedder, LetterOptions, letter_embeddings  # noqa: E402
from .memory_storage import MemoryData, MemoryOptions, MemoryStorage, memory_storage  # noqa: E402
from .mirror_index import MirrorIndex, mirror_vectors  # noqa: E402
from .rows import DIMENSIONS, KIT_TABLES, NOON, TASKS, VECTORS, sample_row, sample_vector  # noqa: E402
from .storage import StorageContract  # noqa: E402
from .vectors import VectorStoreContract  # noqa: E402

__all__ = [
    "DIMENSIONS",
    "KIT_TABLES",
    "NOON",
    "TASKS",
    "VECTORS",
    "Contract",
    "EmbedderContract",
    "LetterEmbedder",
    "LetterOptions",
    "MemoryData",
    "MemoryOptions",
    "MemoryStorage",
    "MirrorIndex",
    "StorageContract",
    "VectorStoreContract",
    "letter_embeddings",
    "memory_storage",
    "mirror_vectors",
    "sample_row",
    "sample_vector",
]
