"""Options of plugins: strict types, suggestions for typing errors, absolute paths, hidden secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import attrs
import pytest

from pattern_core.errors import ConfigError, UnknownOptionError, ValidationError
from pattern_core.support.options import Secret, structure_options


def _even(_instance: object, attribute: attrs.Attribute[int], value: int) -> None:
    if value % 2:
        raise ValidationError(f"has to be even, got {value}", field=attribute.name)


@attrs.frozen
class Inner:
    size: int = 1


@attrs.frozen
class Options:
    url: str
    path: Path = Path("data")
    key: Secret | None = None
    count: int = attrs.field(default=2, validator=_even)
    ratio: float = attrs.field(default=0.5, validator=attrs.validators.lt(1))
    strict: bool = False
    mode: Literal["fast", "safe"] = "safe"
    either: Literal["a"] | int = 1
    headers: dict[str, str] = attrs.field(factory=dict)
    names: list[str] = attrs.field(factory=list)
    inner: Inner = attrs.field(factory=Inner)
    location: Path | None = None


def structure(base: Path = Path("/base"), **given: Any) -> Options:
    return structure_options(Options, {"url": "x", **given}, section="database", base=base, source="pattern.toml")


def test_every_type() -> None:
    """Values of the right types are accepted. A relative path starts from the base folder."""
    made = structure(
        path="db",
        key="k",
        count=4,
        ratio=0,
        strict=True,
        mode="fast",
        either="a",
        headers={"a": "b"},
        names=["n"],
        inner={"size": 2},
    )

    assert made.path == Path("/base/db")
    assert made.key == Secret("k")
    assert (made.count, made.ratio, made.strict, made.mode, made.either) == (4, 0, True, "fast", "a")
    assert (made.headers, made.names, made.inner) == ({"a": "b"}, ["n"], Inner(2))
    assert structure(path="/other").path == Path("/other")
    assert structure().path == Path("/base/data")
    assert structure(either=5, key=Secret("s"), location="p").location == Path("/base/p")


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"url": 5}, "database.url: expected a text, got a whole number"),
        ({"count": "4"}, "expected a whole number, got a text"),
        ({"count": True}, "expected a whole number, got true or false"),
        ({"count": 1.0}, "expected a whole number, got a number"),
        ({"ratio": "0.5"}, "expected a number"),
        ({"strict": 1}, "expected true or false"),
        ({"strict": "yes"}, "expected true or false"),
        ({"mode": "fats"}, "not a valid choice. Did you mean 'fast'"),
        ({"mode": 1}, "expected one of fast, safe"),
        ({"either": "b"}, "Known: a"),
        ({"path": 5}, "expected a path"),
        ({"path": "~nobody-of-that-name/x"}, "cannot be made absolute"),
        ({"headers": ["a"]}, "got a list"),
        ({"headers": {"a": 1}}, "database.headers"),
        ({"names": "abc"}, "database.names"),
        ({"inner": {"sizee": 1}}, "database.inner"),
        ({"count": 3}, "has to be even"),
        ({"ratio": 2.0}, "must be < 1"),
    ],
)
def test_wrong_values(given: dict[str, Any], hint: str) -> None:
    """A value of another type is an error, not converted. The error names option, file and expected type."""
    with pytest.raises(ConfigError) as caught:
        structure(**given)

    assert hint in str(caught.value)
    assert caught.value.source == "pattern.toml"


def test_unknown_and_missing_options() -> None:
    """An error about an unknown option suggests the closest name; one about a missing option names it."""
    with pytest.raises(UnknownOptionError, match="Did you mean 'strict'"):
        structure(strct=True)
    with pytest.raises(ConfigError, match="database.url is missing"):
        structure_options(Options, {}, section="database", base=Path())


@pytest.mark.parametrize("value", [["hunter2"], {"a": "hunter2"}, 7])
def test_a_secret_of_the_wrong_type_is_not_shown(value: object) -> None:
    """An error about a secret does not contain it."""
    with pytest.raises(ConfigError) as caught:
        structure(key=value)

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_secret_is_hidden() -> None:
    """A secret is in no text and no repr; only `reveal` returns it."""
    secret = Secret("hunter2")

    assert "hunter2" not in f"{secret} {secret!r} {structure(key='hunter2')}"
    assert secret.reveal() == "hunter2"
    assert secret == Secret("hunter2")
    assert secret != "hunter2"
    assert len({secret, Secret("hunter2")}) == 1
