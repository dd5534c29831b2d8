"""The plugin before a model is opened: discovery, imports and options."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from pattern_core.errors import ValidationError
from pattern_core.hookspecs import EmbeddingSpec
from pattern_core.toolkit import load_plugin
from pattern_torch.options import TorchOptions


@pytest.mark.parametrize("name", ["torch", "candle"])
def test_it_is_found_by_its_name_and_by_the_older_one(name: str) -> None:
    """The names `torch` and `candle` in a configuration load this plugin; its default model is BGE small."""
    spec = load_plugin(name, EmbeddingSpec)
    assert spec.options is TorchOptions
    assert spec.semantic
    assert TorchOptions().model == "BAAI/bge-small-en-v1.5"


def test_describing_imports_nothing_heavy() -> None:
    """Importing the plugin and calling its hook imports neither torch nor its libraries."""
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
def test_invalid_options_are_rejected(given: dict[str, Any], field: str) -> None:
    """An invalid option is an error that names it."""
    with pytest.raises(ValidationError) as caught:
        TorchOptions(**given)
    assert caught.value.field == field
