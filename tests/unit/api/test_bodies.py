from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.bodies import MAX_DEPTH, MalformedJsonError, NulCharacterError, TooDeepError, check_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON.filter(lambda value: "\\u0000" not in json.dumps(value) and "\\ud" not in json.dumps(value).lower()))
def test_json_of_any_shape_passes(value):
    check_json(json.dumps(value).encode())
    check_json(json.dumps(value, ensure_ascii=False).encode())


@given(st.integers(0, 4), st.sampled_from(["[", '{"a":', '[{"]": ']))
def test_the_depth_is_counted_outside_of_strings(more, opening):
    closing = {"[": "]", '{"a":': "}", '[{"]": ': "}]"}[opening]
    levels = opening.count("[") + opening.count("{")
    times = MAX_DEPTH // levels + more
    body = (opening * times + '"[[[\\"{{"' + closing * times).encode()
    if more:
        with pytest.raises(TooDeepError):
            check_json(body)
    else:
        check_json(body)


@pytest.mark.parametrize("body", [b"", b"{", b"[1,]", b"NaN", b"\xff", b'"\\ud800"', b'"a', b"{}{}", b"]["])
def test_what_is_not_json_is_refused(body):
    with pytest.raises(MalformedJsonError):
        check_json(body)


def test_a_nul_in_a_text_is_refused():
    with pytest.raises(NulCharacterError):
        check_json(b'["a\\u0000"]')
