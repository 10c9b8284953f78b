"""Generated selectors and devices that often agree: few names, few values, and the awkward ones among them."""

from __future__ import annotations

from hypothesis import strategies as st
from msgspec import Struct

from orchestrator.domain.query import And, Comparison, Operator, Or, Query

WORDS = (
    "",
    "a",
    "b",
    "ab",
    "aab",
    "a*b",
    "a%b",
    "a_b",
    "a\\b",
    "it's",
    "ä",
    "1",
    "1.50",
    "-2",
    "10",
    "2.0",
    "1.10",
    "x1",
    " ",
)
NUMBERS = ("0", "1", "1.5", "-2", "10", "999999999999999.9")
VERSIONS = ("1", "1.5", "1.10", "2.0", "2.0.1", "10.0")


class Device(Struct, frozen=True):
    """What selectors ask about."""

    device_id: str
    hardware_model: str
    version: str | None
    attributes: dict[str, str]


words = st.sampled_from(WORDS)
devices = st.builds(
    Device,
    words,
    words,
    st.none() | words | st.sampled_from(VERSIONS),
    st.dictionaries(st.sampled_from(("x", "y", "x.y-z")), words | st.sampled_from(NUMBERS), max_size=3),
)

_FIELDS = st.sampled_from(("device_id", "hardware_model", "version", "attribute.x", "attribute.y", "attribute.x.y-z"))
_ORDERED = st.sampled_from((Operator.LESS, Operator.AT_MOST, Operator.MORE, Operator.AT_LEAST))
_plain = st.builds(
    lambda field, operator, value: Comparison(field, operator, (value,)),
    _FIELDS,
    st.sampled_from((Operator.EQUAL, Operator.NOT_EQUAL)),
    words,
)
_patterns = st.builds(
    lambda field, operator, values: Comparison(field, operator, tuple(values), pattern=True),
    _FIELDS,
    st.sampled_from((Operator.EQUAL, Operator.NOT_EQUAL)),
    st.lists(st.sampled_from(("", "a", "b", "ab", "1", "_", "2.0")), min_size=2, max_size=4),
)
_lists = st.builds(
    lambda field, operator, values: Comparison(field, operator, tuple(values)),
    _FIELDS,
    st.sampled_from((Operator.IN, Operator.NOT_IN)),
    st.lists(words, min_size=1, max_size=4),
)
_exist = st.builds(
    lambda field, value: Comparison(field, Operator.EXISTS, (value,)), _FIELDS, st.sampled_from(("true", "false"))
)
_ordered = _FIELDS.flatmap(
    lambda field: st.builds(
        lambda operator, value: Comparison(field, operator, (value,)),
        _ORDERED,
        st.sampled_from(VERSIONS if field == "version" else NUMBERS),
    )
)
comparisons = _plain | _patterns | _lists | _exist | _ordered


def _joined(kind: type[And | Or], part: st.SearchStrategy[Query]) -> st.SearchStrategy[Query]:
    return st.lists(part, min_size=2, max_size=3).map(lambda parts: kind(tuple(parts)))


queries: st.SearchStrategy[Query] = st.recursive(
    comparisons, lambda part: _joined(And, part) | _joined(Or, part), max_leaves=8
)
