"""The values that a field accepts."""

import json
import math
from collections import OrderedDict
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from pattern_core.errors import InvalidVectorError, ValidationError
from pattern_core.models import User
from pattern_core.support.validators import MAX_JSON_DEPTH, as_json, as_utc, as_vector, check_id, check_text

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
anything = st.recursive(
    json_values | st.binary() | st.complex_numbers() | st.datetimes() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.integers() | st.text(), inner),
    max_leaves=8,
)


def nested(depth: int) -> dict[str, Any]:
    """Return a JSON object with a number of levels."""
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


class TestJson:
    """Values of JSON fields."""

    @given(value=st.dictionaries(texts, json_values, max_size=5))
    def test_json_is_accepted_unchanged(self, value: dict[str, Any]) -> None:
        """Every JSON object is accepted and kept unchanged."""
        settings = User(settings=value).settings
        assert settings == value
        assert json.loads(json.dumps(settings)) == value

    @given(value=anything)
    def test_accepted_values_are_json(self, value: Any) -> None:
        """Any value is either rejected with a `ValidationError` or kept as strict JSON."""
        try:
            settings = User(settings={"a": value}).settings
        except ValidationError as error:
            refusal = error
        else:
            written = json.dumps(settings, allow_nan=False, ensure_ascii=False).encode()
            assert json.loads(written) == settings
            return
        assert (refusal.where, refusal.field.partition("[")[0]) == ("User", "settings")
        assert len(str(refusal)) < 2000

    @pytest.mark.parametrize(
        ("value", "path", "message"),
        [
            ({"a": {"b": [1, {"c": {1}}]}}, "settings['a']['b'][1]['c']", "is not a JSON value"),
            ({"a": [1, 2**63]}, "settings['a'][1]", "does not fit into 64 bits"),
            ({"a": -(2**63) - 1}, "settings['a']", "does not fit into 64 bits"),
            ({"a": 10**5000}, "settings['a']", "<int that cannot be shown> does not fit into 64 bits"),
            ({"a": math.nan}, "settings['a']", "nan is not a JSON number"),
            ({"a": [-math.inf]}, "settings['a'][0]", "-inf is not a JSON number"),
            ({"a": {2: 1}}, "settings['a']", "the key 2 is not a text"),
            ({"a": "\udc00"}, "settings['a']", "a lone surrogate at position 0"),
            ({"\ud800": 1}, "settings", "a lone surrogate"),
            ({"a": b"x"}, "settings['a']", "is not a JSON value"),
            ({"a": datetime(2024, 1, 1, tzinfo=UTC)}, "settings['a']", "is not a JSON value"),
            ({"a": np.float64(1).astype(np.float32)}, "settings['a']", "is not a JSON value"),
            ([("a", 1)], "settings", "expected a dict, got"),
            (None, "settings", "expected a dict, got None"),
        ],
    )
    def test_the_error_names_the_path(self, value: Any, path: str, message: str) -> None:
        """The error names the path of the wrong value within the object."""
        with pytest.raises(ValidationError, match=message) as error:
            User(settings=value)
        assert error.value.field == path

    def test_depth_has_a_limit(self) -> None:
        """Objects over the depth limit are rejected, also those that contain themselves."""
        assert User(settings=nested(MAX_JSON_DEPTH)).settings == nested(MAX_JSON_DEPTH)
        with pytest.raises(ValidationError, match="nested deeper than 64 levels"):
            User(settings=nested(MAX_JSON_DEPTH + 1))
        endless: dict[str, Any] = {}
        endless["a"] = [endless]
        with pytest.raises(ValidationError, match="nested deeper than 64 levels"):
            User(settings=endless)

    def test_mappings_and_tuples_become_dicts_and_lists(self) -> None:
        """Mappings and tuples become plain dicts and lists at every depth."""
        value = MappingProxyType({"a": OrderedDict(b=(1, (2,)))})
        copied = as_json(value)
        assert copied == {"a": {"b": [1, [2]]}}
        assert type(copied) is type(copied["a"]) is dict
        assert type(copied["a"]["b"]) is list

    @given(value=json_values)
    def test_a_copy_shares_nothing(self, value: Any) -> None:
        """A copy is equal and shares no dict or list with the original."""

        def containers(each: Any) -> set[int]:
            inner = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
            own = {id(each)} if isinstance(each, dict | list) else set()
            return own.union(*(containers(child) for child in inner))

        copied = as_json(value)
        assert copied == value
        assert not containers(copied) & containers(value)


class TestTexts:
    """Texts and ids."""

    @given(text=texts)
    def test_every_text_is_accepted(self, text: str) -> None:
        """Every text that UTF-8 can encode is accepted, including NUL."""
        assert check_text(text, "here", "field") == text

    @given(text=st.text(alphabet=st.characters(categories=["Cs"]), min_size=1))
    def test_a_lone_surrogate_is_rejected(self, text: str) -> None:
        """A text that UTF-8 cannot encode is rejected with the position of the error."""
        with pytest.raises(ValidationError, match="position 1"):
            check_text("x" + text, "here", "field")

    @pytest.mark.parametrize("value", [None, 1, b"x", ["x"]])
    def test_other_types_are_rejected(self, value: object) -> None:
        """A value that is no text is rejected."""
        with pytest.raises(ValidationError, match=r"here\.field: expected a text, got"):
            check_text(value, "here", "field")

    def test_a_record_is_no_id(self) -> None:
        """A record in the place of its id is rejected, and the message says what to pass."""
        with pytest.raises(ValidationError, match=r"expected a text, got a record of type User\. Pass its id"):
            check_id(User(id="ada"), "here")

    @pytest.mark.parametrize("id", ["a", "x" * 512, "😀" * 512, "\x00", " ", "a' OR '1'='1"])
    def test_valid_ids(self, id: str) -> None:
        """An id is a text of 1 to 512 characters."""
        assert check_id(id, "here") == id

    @pytest.mark.parametrize("id", ["", "x" * 513, "x" * 1_000_000, None, 1, "\ud800"])
    def test_invalid_ids(self, id: object) -> None:
        """Other values are rejected, with a message of limited length."""
        with pytest.raises(ValidationError, match=r"here\.id: ") as error:
            check_id(id, "here")
        assert len(str(error.value)) < 500


class TestTimes:
    """Datetimes."""

    @given(
        moment=st.datetimes(
            min_value=datetime(1, 1, 3),  # noqa: DTZ001 - Hypothesis adds the zone
            max_value=datetime(9999, 12, 29),  # noqa: DTZ001 - as above
            timezones=st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone),
        )
    )
    def test_the_instant_is_kept(self, moment: datetime) -> None:
        """An aware datetime becomes the same instant in UTC, exact to the microsecond."""
        found = as_utc(moment)
        assert found == moment
        assert found.tzinfo is UTC
        assert type(found) is datetime

    def test_a_subclass_becomes_a_plain_datetime(self) -> None:
        """A subclass of datetime, such as that of pandas, becomes a plain datetime."""

        class Timestamp(datetime):
            """A datetime of another library."""

        found = as_utc(Timestamp(2024, 2, 29, 12, 0, 0, 7, tzinfo=UTC))
        assert type(found) is datetime
        assert found == datetime(2024, 2, 29, 12, 0, 0, 7, tzinfo=UTC)

    @pytest.mark.parametrize("value", [None, "2024-02-29", datetime(2024, 2, 29)])  # noqa: DTZ001 - the mistake under test
    def test_other_values_are_left_to_the_validator(self, value: object) -> None:
        """A value that is no aware datetime is returned unchanged."""
        assert as_utc(value) is value


class TestVectors:
    """Vectors."""

    @given(value=st_numpy.arrays(np.float32, st.integers(1, 9), elements=st.floats(width=32, allow_nan=False)))
    def test_finite_vectors_are_accepted(self, value: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        """A vector with infinities or only zeros is rejected; any other is kept bit for bit, in a read-only copy."""
        usable = bool(np.isfinite(value).all() and value.any())
        if not usable:
            with pytest.raises(InvalidVectorError):
                as_vector(value)
            return
        vector = as_vector(value, len(value))
        assert vector.tobytes() == value.tobytes()
        assert vector.dtype == np.float32
        assert not np.shares_memory(vector, value)
        with pytest.raises(ValueError, match="read-only"):
            vector[0] = 1

    def test_numbers_become_float32(self) -> None:
        """A list of numbers is accepted like an array."""
        assert as_vector([1, 2.5, True], 3).tolist() == [1, 2.5, 1]

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ([], r"all zeros"),
            ([[1.0, 2.0]], r"shape \[n\], got \[1, 2\]"),
            (1.0, r"shape \[n\], got \[\]"),
            ([math.nan, 1], "NaN or infinity"),
            ([math.inf, 1], "NaN or infinity"),
            ([0, 0], "all zeros"),
            ([[1], [1, 2]], "expected a vector of numbers"),
            (["a"], "expected a vector of numbers"),
            (object(), "expected a vector of numbers"),
            (None, "got"),
        ],
    )
    def test_unusable_vectors_are_rejected(self, value: object, message: str) -> None:
        """A value without a direction, or that is no vector, is rejected."""
        with pytest.raises(InvalidVectorError, match=message):
            as_vector(value)

    def test_the_wrong_length(self) -> None:
        """A vector of another length is rejected, with both shapes in the message."""
        with pytest.raises(InvalidVectorError, match=r"expected a vector of shape \[4\], got \[3\]"):
            as_vector([1, 2, 3], 4)

    def test_numbers_over_the_range_of_float32(self) -> None:
        """A number over the range of float32 is rejected, and not kept as infinity."""
        with pytest.raises(InvalidVectorError, match="NaN or infinity"):
            as_vector([1e39, 1])
