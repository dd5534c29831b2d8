"""Splitting of documents into blocks: nothing is lost, and labels are stable."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattern_core.embedding.splitting import split_text
from pattern_core.errors import ValidationError

GUIDE: Final = """\
---
title: Guide
---
What this is about.

# Guide

## Install

### Linux

Run this:

```bash
# not a heading

apt install pattern
```

### Windows

Use the installer.

Second way
----------
Build it.
"""

lines = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["", "# A", "## B ##", "###", "A\n===", "B\n---", "```", "~~~~", "---", "- item", "| a | b |", "\tx"]
    ),
    st.sampled_from(["One. Two! Three? Four.", "一。二。三。", "word " * 30, "x" * 90]),
)
documents = st.lists(lines, max_size=25).map("\n".join)


def _without_space(text: str) -> str:
    return "".join(text.split())


class TestInvariants:
    """Rules for every document."""

    @given(documents, st.booleans(), st.integers(1, 200))
    def test_nothing_is_lost_or_repeated(self, text: str, markdown: bool, limit: int) -> None:
        """The blocks together are the document, apart from white space."""
        blocks = split_text(text, markdown=markdown, max_chars=limit)
        assert _without_space("".join(block.content for block in blocks)) == _without_space(text)

    @given(documents, st.booleans(), st.integers(1, 200))
    def test_blocks_fit_and_labels_are_unique(self, text: str, markdown: bool, limit: int) -> None:
        """No block is blank or over the limit; labels are unique and not blank."""
        blocks = split_text(text, markdown=markdown, max_chars=limit)
        assert all(block.content.strip() and len(block.content) <= limit for block in blocks)
        labels = [block.label for block in blocks]
        assert all(label.strip() for label in labels)
        assert len(set(labels)) == len(labels)


class TestMarkdown:
    """Headings begin sections, and fenced code stays together."""

    def test_sections_are_named_by_their_headings(self) -> None:
        """A section's label is its path of ATX and setext headings; a heading without text joins the next section."""
        blocks = split_text(GUIDE, markdown=True)
        assert [block.label for block in blocks] == [
            "Front matter",
            "What this is about.",
            "Guide > Install > Linux",
            "Guide > Install > Windows",
            "Guide > Second way",
        ]
        assert blocks[2].headings == ("Guide", "Install", "Linux")
        assert blocks[2].content.startswith("# Guide\n\n## Install\n\n### Linux\n\nRun this:")
        assert blocks[2].content.endswith("```bash\n# not a heading\n\napt install pattern\n```")

    def test_plain_text_has_no_headings(self) -> None:
        """As plain text, the same document has only paragraphs, labeled by their first words."""
        blocks = split_text(GUIDE, markdown=False, max_chars=60)
        assert all(not block.headings for block in blocks)
        assert blocks[0].label == "--- title: Guide --- What this is about. # Guide"

    @pytest.mark.parametrize(
        "text",
        ["    # code", "#hashtag", "- item\n---", "> quote\n---", "| a |\n---", "####### seven", "```\n# in\n```"],
    )
    def test_lines_that_are_no_headings(self, text: str) -> None:
        """Indented code, hashtags, fenced text, and rules below lists, quotes and tables are no headings."""
        assert [block.headings for block in split_text(text, markdown=True)] == [()]

    def test_fenced_code_is_kept_whole(self) -> None:
        """Fenced code with blank lines stays whole if it fits; otherwise it is split between lines."""
        code = "```\n" + "x = 1\n\ny = 2\n" * 5 + "```"
        text = "Before. " * 10 + f"\n\n{code}\n\nAfter."
        assert code in [block.content for block in split_text(text, markdown=True, max_chars=len(code))]
        cut = split_text(code, markdown=True, max_chars=30)
        assert all(line in code.split("\n") for block in cut for line in block.content.split("\n"))

    def test_a_heading_stays_with_its_text(self) -> None:
        """If the first paragraph of a section is too long, its heading still has text in its block."""
        first = split_text("# Title\n\n" + "A sentence. " * 50, markdown=True, max_chars=100)[0]
        assert first.content.startswith("# Title\n\nA sentence.")


class TestLongParagraphs:
    """The points where a long paragraph is split."""

    def test_between_sentences(self) -> None:
        """A long paragraph is split between sentences, as many in a block as fit."""
        blocks = split_text("Ada likes tea. Bob likes bees! Does Eve? She does.", markdown=False, max_chars=32)
        assert [block.content for block in blocks] == ["Ada likes tea. Bob likes bees!", "Does Eve? She does."]

    def test_between_sentences_without_spaces(self) -> None:
        """A Chinese text is split after its full stops."""
        blocks = split_text("她喜欢茶。他喜欢蜜蜂。", markdown=False, max_chars=7)
        assert [block.content for block in blocks] == ["她喜欢茶。", "他喜欢蜜蜂。"]

    def test_between_items_and_rows(self) -> None:
        """A list is split between items, a table between rows."""
        blocks = split_text("- one fish\n- two fish\n- red fish", markdown=True, max_chars=24)
        assert [block.content for block in blocks] == ["- one fish\n- two fish", "- red fish"]

    def test_between_words_then_anywhere(self) -> None:
        """A long sentence is split between words, and a word only if it is over the limit."""
        blocks = split_text("one two three " + "x" * 25, markdown=False, max_chars=10)
        assert [block.content for block in blocks] == ["one two", "three", "x" * 10, "x" * 10, "x" * 5]

    def test_short_paragraphs_share_a_block(self) -> None:
        """Short paragraphs share a block up to the limit, with their blank lines."""
        blocks = split_text("one\n\ntwo\n\n\nthree", markdown=False, max_chars=9)
        assert [block.content for block in blocks] == ["one\n\ntwo", "three"]


class TestLabels:
    """Labels are readable and stable."""

    def test_an_edit_changes_no_other_label(self) -> None:
        """Adding or changing a section leaves the labels and contents of other sections as they are."""
        before = {block.label: block.content for block in split_text(GUIDE, markdown=True)}
        edited = GUIDE.replace("### Windows", "### macOS\n\nUse the app.\n\n### Windows").replace("Build", "Now build")
        after = {block.label: block.content for block in split_text(edited, markdown=True)}
        assert after.keys() - before.keys() == {"Guide > Install > macOS"}
        assert {label for label in before if after[label] != before[label]} == {"Guide > Second way"}

    def test_repeats_are_numbered(self) -> None:
        """Repeated labels get numbers, and no number collides with a heading."""
        text = "# A\n\none\n\n# A (2)\n\ntwo\n\n# A\n\nthree\n\nfour"
        labels = [block.label for block in split_text(text, markdown=True, max_chars=12)]
        assert labels == ["A", "A (2)", "A (3)", "A (4)"]

    def test_long_labels_are_shortened(self) -> None:
        """A label has at most 60 characters, and an ellipsis if it is shortened."""
        (block,) = split_text("word " * 100, markdown=False)
        assert block.label == "word " * 11 + "word…"

    def test_blank_documents_and_limits(self) -> None:
        """A blank document has no blocks, and a limit below 1 is an error."""
        assert split_text(" \n\n ", markdown=True) == []
        with pytest.raises(ValidationError, match="max_chars must be at least 1"):
            split_text("tea", markdown=True, max_chars=0)
