"""What the makers of models ask to be put before a text. Ollama itself puts nothing there."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["recommended"]

_PASSAGES: Final = "Represent this sentence for searching relevant passages: "
_QUESTION: Final = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"

PROMPTS: Final = (
    (r"nomic-embed-text", "search_query: ", "search_document: "),
    (r"mxbai-embed-large|snowflake-arctic-embed|bge-(small|base|large)(-en)?(-v1\.5)?", _PASSAGES, ""),
    (r"snowflake-arctic-embed2", "query: ", ""),
    (r"embeddinggemma", "task: search result | query: ", "title: none | text: "),
    (r"qwen3-embedding", _QUESTION, ""),
)
"""By the model's name without namespace and tag: before a query, before a document. As the model cards say."""


def recommended(model: str) -> tuple[str, str]:
    """Return what goes before a query and before a document, where that is known; else nothing.

    Args:
        model: The model's name, as the user writes it.

    Returns:
        The prompt for queries, the prompt for documents.
    """
    name = model.rpartition("/")[2].partition(":")[0]
    for pattern, query, document in PROMPTS:
        if re.fullmatch(pattern, name, re.IGNORECASE):
            return query, document
    return "", ""
