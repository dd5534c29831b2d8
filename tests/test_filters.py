"""The meaning of filters."""

import operator
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattern_core.errors import FilterError
from pattern_core.filters import And, Compare, Field, Filter, Op, Or, matches

NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)
RANGES = (operator.lt, operator.le, operator.gt, operator.ge)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(-3, 3),
    st.sampled_from(["", "a", "ab", "B"]),
    st.sampled_from([NOON, NOON + timedelta(hours=1), NOON.astimezone(timezone(timedelta(hours=2)))]),
)
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.sampled_from("ab"), scalars, max_size=2)
rows = st.dictionaries(st.sampled_from("abc"), values)


def comparisons() -> st.SearchStrategy[Filter]:
    """Draw a filter with any operator on a field."""
    fields = st.sampled_from("abcd").map(Field) | st.sampled_from("ab").map(lambda name: Field(name)["a"])
    makers: list[Callable[[Field, Any], Filter]] = [
        operator.eq,
        operator.ne,
        *RANGES,
        lambda field, value: field.in_([value]),
        lambda field, value: field.contains(value),
        lambda field, _: field.is_null(),
    ]
    return st.builds(lambda make, field, value: make(field, value), st.sampled_from(makers), fields, scalars)


filters = st.recursive(comparisons(), lambda inner: st.builds(operator.and_, inner, inner) | inner.map(operator.invert))


class TestComparisons:
    """Comparisons with one value."""

    @pytest.mark.parametrize(
        ("where", "expected"),
        [
            (Field("n") == 1, {"one", "one as float"}),
            (Field("n") == 1.0, {"one", "one as float"}),
            (Field("n") == True, {"true"}),
            (Field("n") == "1", {"text"}),
            (Field("n") == None, {"null", "missing"}),  # noqa: E711 - a filter, not a comparison
            (Field("n").is_null(), {"null", "missing"}),
            (Field("n") != 1, {"null", "missing", "two", "true", "text", "list", "object", "time", "nested"}),
            (Field("n") < 2, {"one", "one as float"}),
            (Field("n") <= 2, {"one", "one as float", "two"}),
            (Field("n") > 1, {"two"}),
            (Field("n") >= 1, {"one", "one as float", "two"}),
            (Field("n") < "2", {"text"}),
            (Field("n") >= False, {"true"}),
            (Field("n") < None, set()),
            (Field("n") >= None, set()),
            (Field("n") <= NOON, {"time"}),
            (Field("n") < NOON, set()),
            (Field("n").in_([]), set()),
            (Field("n").in_([1, None]), {"one", "one as float", "null", "missing"}),
            (Field("n").in_([True, "1"]), {"true", "text"}),
            (Field("n").contains(1), {"list"}),
            (Field("n").contains("1"), {"text"}),
            (Field("n").contains(None), {"list"}),
            (Field("n").contains(True), set()),
            (Field("n").startswith("1"), {"text"}),
            (Field("n").startswith(""), {"text"}),
            (Field("n")["a"] == 1, {"object"}),
            (Field("n")["a"]["b"] == 1, {"nested"}),
            (Field("n")["a"]["b"]["c"].is_null(), None),
            (Field("n")["0"] == 1, set()),
        ],
    )
    def test_every_kind_of_value(self, where: Filter, expected: set[str] | None) -> None:
        """Null equals missing. Kinds never match each other; integers and floats are one kind, booleans another."""
        stored: dict[str, dict[str, Any]] = {
            "missing": {},
            "null": {"n": None},
            "one": {"n": 1},
            "one as float": {"n": 1.0},
            "two": {"n": 2},
            "true": {"n": True},
            "text": {"n": "1"},
            "list": {"n": [1, None, "11"]},
            "object": {"n": {"a": 1}},
            "nested": {"n": {"a": {"b": 1}}},
            "time": {"n": NOON},
        }
        assert {name for name, row in stored.items() if matches(where, row)} == (
            stored.keys() if expected is None else expected
        )

    def test_times_compare_as_instants(self) -> None:
        """Times in different zones compare as instants."""
        row = {"at": NOON}
        elsewhere = NOON.astimezone(timezone(timedelta(hours=-8)))
        assert matches(Field("at") == elsewhere, row)
        assert matches(Field("at") >= elsewhere, row)
        assert not matches(Field("at") > elsewhere, row)

    def test_texts_compare_by_code_point(self) -> None:
        """Texts compare by code point: upper case first, then lower case, accents, and U+FF5E before U+1F600."""
        texts = ["", "A", "Z", "a", "e\u0301", "é", "\uff5e", "😀"]
        for position, text in enumerate(texts):
            found = [other for other in texts if matches(Field("t") < text, {"t": other})]
            assert found == texts[:position]

    def test_no_filter_is_always_true(self) -> None:
        """None selects every row."""
        assert matches(None, {})

    def test_other_values_are_errors(self) -> None:
        """A value that is no filter is an error."""
        for wrong in (True, {"a": 1}, Filter()):
            with pytest.raises(TypeError, match="expected a filter"):
                matches(wrong, {})  # type: ignore[arg-type]


class TestLogic:
    """Filters combine by two-valued logic."""

    def test_empty_combinations(self) -> None:
        """An empty conjunction is true; an empty disjunction is false."""
        assert matches(And(()), {})
        assert not matches(Or(()), {})

    @given(row=rows, left=filters, right=filters)
    def test_laws(self, row: dict[str, Any], left: Filter, right: Filter) -> None:
        """``&``, ``|`` and ``~`` mean and, or and not, and De Morgan's law holds, also for null."""
        first, second = matches(left, row), matches(right, row)
        assert matches(left & right, row) == (first and second)
        assert matches(left | right, row) == (first or second)
        assert matches(~left, row) == (not first)
        assert matches(~(left & right), row) == matches(~left | ~right, row)

    @given(row=rows, name=st.sampled_from("abcd"), value=scalars)
    def test_comparisons_agree(self, row: dict[str, Any], name: str, value: Any) -> None:
        """``!=`` negates ``==``; ``<=`` is ``<`` or ``==``, except for null; ``in_`` of one value is ``==``."""
        field = Field(name)
        equal = matches(field == value, row)
        assert matches(field != value, row) == (not equal)
        assert matches(field.in_([value]), row) == equal
        ordered = value is not None
        assert matches(field <= value, row) == (matches(field < value, row) or (equal and ordered))
        assert matches(field >= value, row) == (matches(field > value, row) or (equal and ordered))
        assert not (matches(field < value, row) and matches(field > value, row))


class TestSyntax:
    """The syntax of filters, and errors about it."""

    @pytest.mark.parametrize(
        "write",
        [
            lambda: (Field("a") == 1) and (Field("b") == 2),
            lambda: (Field("a") == 1) or (Field("b") == 2),
            lambda: not Field("a").is_null(),
            lambda: 1 < Field("a") < 2,
            lambda: bool(Field("a").in_([1]) & Field("b").is_null()),
        ],
    )
    def test_a_filter_has_no_truth_value(self, write: Callable[[], object]) -> None:
        """``and``, ``or``, ``not`` and chained comparisons, which would drop a condition, are errors."""
        with pytest.raises(TypeError, match="Combine filters with &, | and ~"):
            write()

    def test_repr(self) -> None:
        """The repr of a field is its expression; the repr of a filter shows its parts."""
        assert repr(Field("metadata")["a"]["b'"]) == """Field('metadata')['a']["b'"]"""
        assert repr(Field("a") == "x") == "Compare(path=('a',), op=<Op.EQ: '=='>, value='x')"

    def test_a_key_makes_a_new_field(self) -> None:
        """Indexing a field returns another field and does not change the first."""
        field = Field("metadata")
        assert repr(field["a"]) == "Field('metadata')['a']"
        assert repr(field) == "Field('metadata')"

    @pytest.mark.parametrize("values", ["open", b"open", ""])
    def test_a_text_is_no_list_of_values(self, values: Any) -> None:
        """``in_("open")``, which would compare with single characters, is an error."""
        with pytest.raises(FilterError, match="status: in_ needs a list of values, got"):
            Field("status").in_(values)

    def test_filters_are_values(self) -> None:
        """Filters are frozen values; a field cannot be hashed."""
        where = Compare(("a",), Op.IN, (1, 2))
        assert repr(Field("a").in_(n for n in (1, 2))) == repr(where)
        with pytest.raises(AttributeError):
            where.value = (3,)  # type: ignore[misc]
        with pytest.raises(TypeError):
            hash(Field("a"))
