"""The plugin fulfills the contract of `pattern_core.abc.Embedder`, with a real model."""

from __future__ import annotations

import pytest

from pattern_core.testing import EmbedderContract
from pattern_torch.options import TorchOptions
from pattern_torch.plugin import pattern_embeddings


class TestTorch(EmbedderContract):
    """all-MiniLM-L6-v2, as the configuration would open it."""

    spec = pattern_embeddings()

    @pytest.fixture
    def options(self, minilm: str) -> TorchOptions:
        """The model on this machine."""
        return TorchOptions(model=minilm)
