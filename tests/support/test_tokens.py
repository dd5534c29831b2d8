"""The upper bound of a token count, without a tokenizer."""

from __future__ import annotations

import pytest

from pattern_core.toolkit import max_token_count


@pytest.mark.parametrize(("text", "count"), [("", 2), ("tea", 5), ("日本", 8)])
def test_the_bound(text: str, count: int) -> None:
    """The bound is the number of bytes in UTF-8, and two special tokens."""
    assert max_token_count(text) == count
