"""Validators and converters for the fields of records and options; they raise `ValidationError`.

They accept what every storage can hold: texts that UTF-8 can encode, integers of 64 bits, finite numbers, times with a
zone, and JSON.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

from pattern_core.errors import InvalidVectorError, ValidationError, nearest, shorten

__all__ = [
    "Validator",
    "as_choice",
    "as_float",
    "as_json",
    "as_unit",
    "as_utc",
    "as_vector",
    "boolean",
    "check_id",
    "check_text",
    "identifier",
    "integer",
    "json_object",
    "json_value",
    "list_of",
    "number",
    "text",
    "title_text",
    "utc",
]

MAX_ID_LENGTH: Final = 512
MAX_JSON_DEPTH: Final = 64
_INT64: Final = range(-(2**63), 2**63)

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]
_E = TypeVar("_E", bound=enum.Enum)


def _where(instance: Any) -> str:
    return type(instance).__name__


def check_text(value: object, where: str, field: str) -> str:
    """Return a text that every storage can hold; raise `ValidationError` for any other value."""
    if not isinstance(value, str):
        is_record = attrs.has(type(value)) and hasattr(value, "id")
        found = f"a record of type {type(value).__name__}. Pass its id" if is_record else shorten(value)
        raise ValidationError(f"expected a text, got {found}", where=where, field=field)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        message = f"the text has a lone surrogate at position {error.start}, which UTF-8 cannot encode"
        raise ValidationError(message, where=where, field=field) from None
    return value


def check_id(value: object, where: str, field: str = "id") -> str:
    """Return a value that can be a record's id; raise `ValidationError` for any other value."""
    found = check_text(value, where, field)
    if not 0 < len(found) <= MAX_ID_LENGTH:
        message = f"an id has 1 to {MAX_ID_LENGTH} characters, this one has {len(found):,}"
        raise ValidationError(message, where=where, field=field)
    return found


def identifier(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Accept the id of a record."""
    check_id(value, _where(instance), attribute.name)


def text(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Accept any text, including the empty one."""
    check_text(value, _where(instance), attribute.name)


def title_text(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Accept a text that is not blank."""
    if not check_text(value, _where(instance), attribute.name).strip():
        raise ValidationError("must not be empty", where=_where(instance), field=attribute.name)


def boolean(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Accept True and False."""
    if not isinstance(value, bool):
        message = f"expected true or false, got {shorten(value)}"
        raise ValidationError(message, where=_where(instance), field=attribute.name)


def integer(*, minimum: int = _INT64.start) -> Validator:
    """Accept 64-bit integers from a minimum up."""

    def check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        fits = isinstance(value, int) and not isinstance(value, bool) and value in _INT64 and value >= minimum
        if not fits:
            message = f"expected a whole number from {minimum} to {_INT64.stop - 1}, got {shorten(value)}"
            raise ValidationError(message, where=_where(instance), field=attribute.name)

    return check


def number(*, minimum: float = -math.inf) -> Validator:
    """Accept finite floats from a minimum up."""

    def check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, float) or not math.isfinite(value) or value < minimum:
            limit = "" if minimum == -math.inf else f" of at least {minimum:g}"
            message = f"expected a finite number{limit}, got {shorten(value)}"
            raise ValidationError(message, where=_where(instance), field=attribute.name)

    return check


def utc(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Accept times with a time zone."""
    if not isinstance(value, datetime) or value.tzinfo is None:
        message = f"expected a datetime with a time zone (datetime.now(UTC), say), got {shorten(value)}"
        raise ValidationError(message, where=_where(instance), field=attribute.name)


def list_of(member: Validator) -> Validator:
    """Accept lists of values that a validator accepts."""

    def check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, list):
            message = f"expected a list, got {shorten(value)}"
            raise ValidationError(message, where=_where(instance), field=attribute.name)
        for each in value:
            member(instance, attribute, each)

    return check


def json_object(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Accept a JSON object: a dict of texts to None, booleans, 64-bit integers, finite floats, texts, lists, dicts."""
    if not isinstance(value, dict):
        message = f"expected a dict, got {shorten(value)}"
        raise ValidationError(message, where=_where(instance), field=attribute.name)
    _check_json(value, _where(instance), attribute.name, 0)


def json_value(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Accept any JSON value, as `json_object` accepts the values of an object."""
    _check_json(value, _where(instance), attribute.name, 0)


def _check_json(value: Any, where: str, place: str, depth: int) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        check_text(value, where, place)
    elif isinstance(value, int):
        if value not in _INT64:
            raise ValidationError(f"{shorten(value)} does not fit into 64 bits", where=where, field=place)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValidationError(f"{value} is not a JSON number", where=where, field=place)
    elif depth >= MAX_JSON_DEPTH:
        raise ValidationError(f"nested deeper than {MAX_JSON_DEPTH} levels", where=where, field=place)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            _check_json(each, where, f"{place}[{index}]", depth + 1)
    elif isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str):
                raise ValidationError(f"the key {shorten(key)} is not a text", where=where, field=place)
            check_text(key, where, place)
            _check_json(each, where, f"{place}[{shorten(key)}]", depth + 1)
    else:
        message = f"{shorten(value)} is not a JSON value (None, bool, int, float, str, list, dict)"
        raise ValidationError(message, where=where, field=place)


def as_json(value: Any) -> Any:
    """Return a copy of dicts and lists, so that a record does not change with the caller's object."""
    return _copy(value, 0)


def _copy(value: Any, depth: int) -> Any:
    if depth > MAX_JSON_DEPTH:  # the validator rejects values that are too deep or contain themselves
        return value
    if isinstance(value, Mapping):
        return {key: _copy(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(each, depth + 1) for each in value]
    return value


def as_float(value: Any) -> Any:
    """Return a whole number as the float that a storage returns; leave other values to the validator."""
    if isinstance(value, int) and not isinstance(value, bool):
        with suppress(OverflowError):
            return float(value)
    return value


def as_utc(value: Any) -> Any:
    """Return an aware time in UTC, as a plain datetime; leave other values to the validator."""
    if not isinstance(value, datetime) or value.tzinfo is None:
        return value
    moment = value.astimezone(UTC)
    if type(moment) is datetime:
        return moment
    parts = (moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second, moment.microsecond)
    return datetime(*parts, tzinfo=UTC)


def as_choice(value: object, choices: type[_E], where: str, field: str) -> _E:
    """Return the member of an enum for a value; raise `ValidationError` if there is none."""
    try:
        return choices(value)
    except ValueError:
        known = nearest(str(value), [str(each.value) for each in choices])
        raise ValidationError(f"{shorten(value)} is not a valid choice. {known}", where=where, field=field) from None


def as_vector(value: Any, dimensions: int | None = None) -> NDArray[np.float32]:
    """Return numbers as a vector that can be compared with others.

    Args:
        value: Numbers, shape ``[dimensions]``.
        dimensions: The required length; None for any.

    Returns:
        A read-only float32 array, shape ``[dimensions]``.

    Raises:
        InvalidVectorError: The vector has another shape, is all zeros, or holds NaN or infinity. An engine would rank
            such a vector first, so it is rejected on the way in.
    """
    try:
        with np.errstate(over="ignore"):  # numbers too large for float32 become infinity, which is rejected below
            vector = np.array(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidVectorError(f"expected a vector of numbers, got {shorten(value)}") from error
    wanted = "[n]" if dimensions is None else f"[{dimensions}]"
    if vector.ndim != 1 or (dimensions is not None and vector.size != dimensions):
        raise InvalidVectorError(f"expected a vector of shape {wanted}, got {list(vector.shape)}")
    if not np.isfinite(vector).all():
        raise InvalidVectorError("the vector holds NaN or infinity, which cannot be compared")
    if not vector.any():
        raise InvalidVectorError("the vector is all zeros, so it has no direction to compare")
    vector.flags.writeable = False
    return vector


def as_unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors scaled to length 1.

    Args:
        vectors: A float32 array, shape ``[..., dimensions]``, finite, no vector all zeros.

    Returns:
        A float32 array of the same shape.
    """
    wide = vectors.astype(np.float64)  # the squares of large float32 numbers do not fit into float32
    unit: NDArray[np.float32] = (wide / np.linalg.norm(wide, axis=-1, keepdims=True)).astype(np.float32)
    return unit
