"""The prompts that models are trained with. Ollama adds none itself."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["recommended_prompts"]

_PASSAGES: Final = "Represent this sentence for searching relevant passages: "
_QUESTION: Final = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"

PROMPTS: Final = (
    (r"nomic-embed-text", "search_query: ", "search_document: "),
    (r"mxbai-embed-large|snowflake-arctic-embed|bge-(small|base|large)(-en)?(-v1\.5)?", _PASSAGES, ""),
    (r"snowflake-arctic-embed2", "query: ", ""),
    (r"embeddinggemma", "task: search result | query: ", "title: none | text: "),
    (r"qwen3-embedding", _QUESTION, ""),
)
"""A pattern for the model's name without namespace and tag; the query prompt; the document prompt; from model cards."""


def recommended_prompts(model: str) -> tuple[str, str]:
    """Return the prompts that a model's card recommends.

    Args:
        model: The model's name, as the user writes it.

    Returns:
        The query prompt and the document prompt; empty for a model without any.
    """
    name = model.rpartition("/")[2].partition(":")[0]
    for pattern, query, document in PROMPTS:
        if re.fullmatch(pattern, name, re.IGNORECASE):
            return query, document
    return "", ""
