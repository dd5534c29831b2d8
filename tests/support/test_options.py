"""Options of plugins: strict types, near misses named, paths absolute, secrets never shown."""

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
    place: Path | None = None


def structure(base: Path = Path("/base"), **given: Any) -> Options:
    return structure_options(Options, {"url": "x", **given}, section="database", base=base, source="pattern.toml")


def test_every_type() -> None:
    """Values of the right types are taken; paths become absolute from the base, an absolute one stays."""
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
    assert structure(either=5, key=Secret("s"), place="p").place == Path("/base/p")


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
    """No value is turned into one of another type; the error names the option, the file and what is expected."""
    with pytest.raises(ConfigError) as caught:
        structure(**given)

    assert hint in str(caught.value)
    assert caught.value.source == "pattern.toml"


def test_unknown_and_missing() -> None:
    """An unknown option names the nearest known one; a missing one is named."""
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


def test_a_secret() -> None:
    """A secret shows in nothing and is given out only when asked for."""
    secret = Secret("hunter2")

    assert "hunter2" not in f"{secret} {secret!r} {structure(key='hunter2')}"
    assert secret.reveal() == "hunter2"
    assert secret == Secret("hunter2")
    assert secret != "hunter2"
    assert len({secret, Secret("hunter2")}) == 1
