"""``--where``, ``--label``, ``--prefix``, ``--min-score`` and ``--include-inactive``."""

from __future__ import annotations

import json
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

from pattern_core.cli.filtering import parse_condition
from pattern_core.errors import FilterError
from pattern_core.filters import Field, Filter
from pattern_core.schema import TABLES

Pattern = Callable[..., CompletedProcess[str]]


@pytest.mark.parametrize(
    ("table", "text", "expected"),
    [
        ("memory_blocks", "label=coffee", Field("label") == "coffee"),
        ("memory_blocks", "label == coffee ", Field("label") == "coffee"),
        ("memory_blocks", "label=3", Field("label") == "3"),
        ("memory_blocks", "label=a=b", Field("label") == "a=b"),
        ("memory_blocks", "label!=coffee", Field("label") != "coffee"),
        ("memory_blocks", "content~espresso", Field("content").contains("espresso")),
        ("memory_blocks", "description=null", Field("description").is_null()),
        ("memory_blocks", "is_active=false", Field("is_active") == False),
        ("memory_blocks", "metadata.level>=3", Field("metadata")["level"] >= 3),
        ("memory_blocks", "metadata.a.b=x", Field("metadata")["a"]["b"] == "x"),
        ("memory_blocks", 'metadata.code="3"', Field("metadata")["code"] == "3"),
        ("memory_blocks", "metadata.tags~x", Field("metadata")["tags"].contains("x")),
        (
            "memory_blocks",
            "metadata.tags~3",
            Field("metadata")["tags"].contains("3") | Field("metadata")["tags"].contains(3),
        ),
        ("tasks", "tags=garden", Field("tags").contains("garden")),
        ("tasks", "tags~garden", Field("tags").contains("garden")),
        ("tasks", "tags!=garden", ~Field("tags").contains("garden")),
        ("tool_calls", "duration_ms>1000", Field("duration_ms") > 1000),
        ("tool_calls", "duration_ms <= 1.5", Field("duration_ms") <= 1.5),
    ],
)
def test_conditions(table: str, text: str, expected: Filter) -> None:
    """Every operator becomes a filter, with a value of the field's kind."""
    assert parse_condition(TABLES[table], text) == expected


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        ("memory_blocks", "coffee", "is not FIELD=VALUE"),
        ("memory_blocks", "labl=coffee", "Did you mean 'label'?"),
        ("memory_blocks", "metadata=3", "metadata.KEY=3"),
        ("memory_blocks", "metadata.=3", "empty key"),
        ("memory_blocks", "metadata~3", "~ works on texts and lists"),
        ("memory_blocks", "is_active=maybe", "expected true or false"),
        ("memory_blocks", "is_active~t", "~ works on texts and lists"),
        ("memory_blocks", "created_at>yesterday", "is not a time in ISO form"),
        ("memory_blocks", "description<null", "does not work with null"),
        ("tasks", "tags<garden", "does not work on a list"),
        ("tool_calls", "duration_ms=long", "expected a number"),
        ("tool_calls", f"duration_ms={2**70}", "too large"),
    ],
)
def test_invalid_conditions(table: str, text: str, message: str) -> None:
    """The error names the field and the way out."""
    with pytest.raises(FilterError, match=table) as caught:
        parse_condition(TABLES[table], text)
    assert message in str(caught.value)


def test_invalid_condition_is_a_usage_error(pattern: Pattern, archive: object) -> None:
    """A wrong condition ends with exit code 2, and names the option."""
    refused = pattern("memory", "list", "Archive", "--where", "labl=coffee")

    assert refused.returncode == 2
    assert "--where" in refused.stderr
    assert "Did you mean 'label'?" in refused.stderr


def test_list_and_search(pattern: Pattern, archive: object) -> None:
    """`list` and `search` narrow memories in the same way."""
    pattern("memory", "edit", "Archive", "coffee", "--metadata", "topic=drink", "--metadata", "level=3")
    pattern("memory", "edit", "Archive", "garden", "--metadata", "topic=plant", "--metadata", "level=7", "--inactive")
    pattern("memory", "add", "Archive", "coffee/cup", "The blue cup.", "--metadata", "topic=drink")

    def labels(*options: str) -> set[str]:
        listed = json.loads(pattern("memory", "list", "Archive", *options, "--json").stdout)["items"]
        found = json.loads(pattern("search", "Archive", "tea", *options, "--json").stdout)["items"]
        assert {each["label"] for each in listed} == {hit["memory"]["label"] for hit in found}
        return {each["label"] for each in listed}

    assert labels() == {"coffee", "train", "coffee/cup"}
    assert labels("--include-inactive") == {"coffee", "garden", "train", "coffee/cup"}
    assert labels("--prefix", "coffee") == {"coffee", "coffee/cup"}
    assert labels("--label", "coffee") == {"coffee"}
    assert labels("--label", "cof") == set()
    assert labels("--where", "metadata.topic=drink", "--where", "metadata.level<5") == {"coffee"}
    assert labels("--where", "content~cup", "--limit", "1") == {"coffee/cup"}
    assert labels("--where", "metadata.level>3") == set()
    assert labels("--where", "metadata.level>3", "--all") == {"garden"}


def test_search_without_hits(pattern: Pattern, archive: object) -> None:
    """A search without hits says whether --all would find something."""
    found = json.loads(pattern("search", "Archive", "espresso", "--min-score", "0.1", "--json").stdout)["items"]
    assert [hit["memory"]["label"] for hit in found] == ["coffee"]
    pattern("memory", "edit", "Archive", "garden", "--inactive")

    assert (
        pattern("search", "Archive", "roses", "--label", "garden").stderr == "Nothing found. With --all: 1 inactive.\n"
    )
    assert pattern("search", "Archive", "roses", "--label", "nothing").stderr == "Nothing found.\n"
    assert pattern("search", "Archive", "roses", "--min-score", "nan").returncode != 0


def test_other_records(pattern: Pattern, archive: object) -> None:
    """Users and agents are narrowed by conditions, too."""
    pattern("user", "add", "Bob", "--metadata", "city=Bath")
    pattern("agent", "edit", "Archive", "--state", "mood=calm")

    users = json.loads(pattern("user", "list", "--where", "metadata.city=Bath", "--json").stdout)["items"]
    agents = json.loads(pattern("agent", "list", "--where", "state.mood!=calm", "--json").stdout)["items"]

    assert [each["metadata"]["name"] for each in users] == ["Bob"]
    assert agents == []
