"""Plugin options: a strict conversion of a TOML section to the plugin's attrs class."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import attrs
import cattrs

from pattern_core.errors import ConfigError, PatternError, UnknownOptionError, nearest

__all__ = ["Secret", "structure_options"]

T = TypeVar("T")


class Secret:
    """A text that is never shown in a repr, a log line, an error, or ``pattern doctor``.

    Args:
        text: The secret.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the secret, for the call that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


def structure_options(
    options: type[T], given: Mapping[str, Any], *, section: str, base: Path, source: str | None = None
) -> T:
    """Return the options of a section as an instance of a plugin's class. Values keep their types.

    Args:
        options: The plugin's attrs class.
        given: The options, as read from TOML.
        section: The name of the section, for errors.
        base: The folder that relative paths start from.
        source: The configuration file, for errors.

    Returns:
        An instance of the class, with absolute paths.

    Raises:
        UnknownOptionError: The class has no such option.
        ConfigError: A value has the wrong type, is missing, or is rejected by the class.
    """
    attrs.resolve_types(options)  # type: ignore[type-var]  # `type[T]` cannot say that it is an attrs class
    fields = {field.name: field for field in attrs.fields(options)}  # type: ignore[arg-type]  # as above
    values = {}
    for name, value in given.items():
        if name not in fields:
            raise UnknownOptionError(f"{section}.{name}", fields, source=source)
        values[name] = _structure(value, fields[name].type, f"{section}.{name}", source)
    for name, field in fields.items():
        if field.default is attrs.NOTHING and name not in given:
            raise ConfigError(f"{section}.{name} is missing", key=f"{section}.{name}", source=source)
    try:
        made = options(**values)
    except PatternError as error:
        raise ConfigError(f"[{section}] {error}", key=section, source=source) from error
    except (TypeError, ValueError) as error:
        # The first argument of attrs' validators is the message; the others may hold a secret.
        raise ConfigError(f"[{section}] {error.args[0]}", key=section, source=source) from None
    paths = {name: getattr(made, name) for name in fields}
    try:
        absolute = {name: base / path.expanduser() for name, path in paths.items() if isinstance(path, Path)}
    except RuntimeError as error:
        raise ConfigError(f"[{section}] a path cannot be made absolute: {error}", key=section, source=source) from error
    return options(**{**values, **absolute}) if absolute else made


def _structure(value: Any, kind: Any, key: str, source: str | None) -> Any:
    try:
        return _CONVERTER.structure(value, kind)
    except Exception:  # noqa: BLE001 - what cattrs raises has no common class below Exception in all its versions
        choices = _choices(kind)
        # Without the value, since it may be a secret in the wrong place.
        if choices and isinstance(value, str):
            message = f"{key}: not a valid choice. {nearest(value, choices)}"
        else:
            message = f"{key}: expected {_words(kind)}, got {_words(type(value))}"
        raise ConfigError(message, key=key, source=source) from None


def _is_union(kind: Any) -> bool:
    return isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union


def _choices(kind: Any) -> list[str]:
    if typing.get_origin(kind) is Literal:
        return [str(each) for each in typing.get_args(kind)]
    return [choice for each in typing.get_args(kind) for choice in _choices(each)] if _is_union(kind) else []


def _words(kind: Any) -> str:
    if _is_union(kind):
        return " or ".join(_words(each) for each in typing.get_args(kind) if each is not type(None))
    if choices := _choices(kind):
        return f"one of {', '.join(choices)}"
    words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
    words |= {Secret: "a text", dict: "a section", list: "a list"}
    return words.get(kind, getattr(kind, "__name__", str(kind)))


def _exactly(*kinds: type) -> typing.Callable[[Any, Any], Any]:
    def check(value: Any, _: Any) -> Any:
        if type(value) not in kinds:
            raise TypeError(type(value).__name__)
        return value

    return check


def _path(value: Any, _: Any) -> Path:
    if not isinstance(value, str | Path):
        raise TypeError(type(value).__name__)
    return Path(value)


def _secret(value: Any, _: Any) -> Secret:
    if not isinstance(value, str | Secret):
        raise TypeError(type(value).__name__)
    return value if isinstance(value, Secret) else Secret(value)


def _is_list(kind: Any) -> bool:
    origin: Any = typing.get_origin(kind)
    return origin is list


def _list(value: Any, kind: Any) -> list[Any]:
    if not isinstance(value, list):  # cattrs would split a text into characters
        raise TypeError(type(value).__name__)
    (each,) = typing.get_args(kind)
    return [_CONVERTER.structure(member, each) for member in value]


def _union(value: Any, kind: Any) -> Any:
    for each in typing.get_args(kind):
        if each is type(None):
            if value is None:
                return None
            continue
        try:
            return _CONVERTER.structure(value, each)
        except Exception:  # noqa: BLE001, S112 - as in _structure; the next type may fit
            continue
    raise TypeError(type(value).__name__)


_CONVERTER: Final = cattrs.Converter(forbid_extra_keys=True)
for _kind, _accepted in ((str, (str,)), (int, (int,)), (bool, (bool,)), (float, (float, int))):
    _CONVERTER.register_structure_hook(_kind, _exactly(*_accepted))
_CONVERTER.register_structure_hook(Path, _path)
_CONVERTER.register_structure_hook(Secret, _secret)
_CONVERTER.register_structure_hook_func(_is_union, _union)
_CONVERTER.register_structure_hook_func(_is_list, _list)
