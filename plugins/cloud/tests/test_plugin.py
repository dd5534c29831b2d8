"""The plugins before a model is opened: discovery, imports and options."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pattern_cloud.cohere_options import CohereOptions
from pattern_cloud.openai_options import OpenAIOptions
from pattern_core.errors import ConfigError
from pattern_core.hookspecs import EmbeddingSpec
from pattern_core.toolkit import Secret, load_plugin, structure_options


@pytest.mark.parametrize(("name", "options"), [("openai", OpenAIOptions), ("cohere", CohereOptions)])
def test_they_are_found_by_their_names(name: str, options: type) -> None:
    """The names `openai` and `cohere` in a configuration load these plugins."""
    spec = load_plugin(name, EmbeddingSpec)
    assert spec.options is options
    assert spec.semantic


def test_describing_imports_no_client() -> None:
    """Importing the plugins and calling their hooks imports neither a client nor a tokenizer."""
    program = (
        "import sys\n"
        "from pattern_cloud import cohere_plugin, openai_plugin\n"
        "cohere_plugin.pattern_embeddings(), openai_plugin.pattern_embeddings()\n"
        "names = ('openai', 'cohere', 'httpx', 'httpx2', 'pydantic', 'tiktoken', 'tokenizers', 'requests')\n"
        "print([name for name in names if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("options", [OpenAIOptions, CohereOptions])
@pytest.mark.parametrize(
    "given",
    [
        {"model": " "},
        {"base_url": "localhost:8000"},
        {"base_url": "ftp://example.com"},
        {"base_url": "https://ada:hunter2@example.com/v1"},
        {"base_url": "https://example.com:99999"},
        {"dimensions": 0},
        {"max_tokens": 0},
        {"batch_size": 0},
        {"batch_size": 2049},
        {"concurrency": 0},
        {"timeout": 0},
        {"revision": ""},
        {"api_key": 5},
    ],
)
def test_invalid_options_are_rejected(options: type, given: dict[str, Any]) -> None:
    """An invalid option is a `ConfigError` that names it and shows no password."""
    with pytest.raises(ConfigError, match=next(iter(given))) as caught:
        structure_options(options, given, section="embeddings", base=Path())
    assert "hunter2" not in str(caught.value)


def test_an_unknown_encoding_is_rejected() -> None:
    """The error lists the choices for `encoding_format`."""
    with pytest.raises(ConfigError, match="base64"):
        structure_options(OpenAIOptions, {"encoding_format": "base46"}, section="embeddings", base=Path())


@pytest.mark.parametrize("options", [OpenAIOptions, CohereOptions])
def test_a_key_is_not_in_the_repr(options: Any) -> None:
    """The repr of options hides the key."""
    assert "sk-" not in repr(options(api_key=Secret("sk-secret")))
