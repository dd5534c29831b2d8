"""The plugin keeps the contract of `pattern_core.abc.Embedder`, with a real model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from pattern_core.abc import Embedder
from pattern_core.testing import EmbedderContract
from pattern_torch.plugin import TorchOptions, pattern_embeddings


class TestTorch(EmbedderContract):
    """all-MiniLM-L6-v2, as the configuration would open it."""

    @pytest.fixture
    def open_embedder(self, minilm: str) -> Callable[[], Awaitable[Embedder]]:
        """Open the model through the plugin's spec."""
        return lambda: pattern_embeddings().open(TorchOptions(model=minilm))
