"""The plugin before a model is opened: discovery, imports and options."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pattern_core.errors import ConfigError, ValidationError
from pattern_core.hookspecs import EmbeddingSpec
from pattern_core.toolkit import load_plugin, structure_options
from pattern_ollama.options import OllamaOptions


def test_it_is_found_by_its_name() -> None:
    """The name `ollama` in a configuration loads this plugin."""
    spec = load_plugin("ollama", EmbeddingSpec)
    assert spec.options is OllamaOptions
    assert spec.semantic


def test_describing_imports_no_client() -> None:
    """Importing the plugin and calling its hook imports neither the client nor its dependencies."""
    program = (
        "import sys\n"
        "from pattern_ollama.plugin import pattern_embeddings\n"
        "pattern_embeddings()\n"
        "print([name for name in ('ollama', 'httpx', 'pydantic', 'rich.progress') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"model": " "}, "model"),
        ({"host": ""}, "host"),
        ({"host": "http://ada:secret@example.com"}, "host"),
        ({"dimensions": 0}, "dimensions"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"batch_size": 0}, "batch_size"),
        ({"concurrency": 0}, "concurrency"),
        ({"query_prompt": 5}, "query_prompt"),
    ],
)
def test_invalid_options_are_rejected(given: dict[str, Any], field: str) -> None:
    """An invalid option is an error that names it."""
    with pytest.raises(ValidationError) as caught:
        OllamaOptions(**given)
    assert caught.value.field == field


@pytest.mark.parametrize("given", [{"timeout": 0}, {"timeout": "soon"}, {"keep_alive": True}, {"auto_pull": "yes"}])
def test_invalid_values_of_a_file_are_rejected(given: dict[str, Any]) -> None:
    """A value of another type, and a time-out of zero, are `ConfigError`s."""
    with pytest.raises(ConfigError, match=next(iter(given))):
        structure_options(OllamaOptions, given, section="embeddings", base=Path())
