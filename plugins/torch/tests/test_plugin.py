"""What pattern-core sees of the plugin before a model is opened."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from pattern_core.errors import ValidationError
from pattern_core.hookspecs import EmbeddingSpec
from pattern_core.toolkit import load_plugin
from pattern_torch.plugin import TorchOptions


@pytest.mark.parametrize("name", ["torch", "candle"])
def test_it_is_found_by_its_name_and_by_the_older_one(name: str) -> None:
    """The configuration's words `torch` and `candle` lead to this plugin, whose default is BGE small."""
    spec = load_plugin(name, EmbeddingSpec)
    assert spec.options is TorchOptions
    assert spec.semantic
    assert TorchOptions().model == "BAAI/bge-small-en-v1.5"


def test_describing_imports_nothing_heavy() -> None:
    """Importing the plugin and calling its hook loads neither torch nor the libraries round it."""
    program = (
        "import sys\n"
        "from pattern_torch.plugin import pattern_embeddings\n"
        "pattern_embeddings()\n"
        "print([name for name in ('torch', 'transformers', 'sentence_transformers', 'huggingface_hub') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"model": " "}, "model"),
        ({"device": ""}, "device"),
        ({"batch_size": 0}, "batch_size"),
        ({"threads": 0}, "threads"),
        ({"query_prompt": 5}, "query_prompt"),
    ],
)
def test_senseless_options_are_refused(given: dict[str, Any], field: str) -> None:
    """An option that makes no sense is an error that names it."""
    with pytest.raises(ValidationError) as caught:
        TorchOptions(**given)
    assert caught.value.field == field
