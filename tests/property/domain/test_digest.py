from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.digest import canonical_json, digest_of

untimed = settings(deadline=None)  # a busy machine is no defect

text = st.text(st.characters(codec="utf-8"))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | text | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)


@untimed
@given(values)
def test_a_value_that_went_through_json_has_the_same_digest(value):
    assert digest_of(json.loads(json.dumps(value))) == digest_of(value)


@untimed
@given(st.dictionaries(text, values, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(value, random):
    keys = list(value)
    random.shuffle(keys)
    assert canonical_json({key: value[key] for key in keys}) == canonical_json(value)


@untimed
@given(values, values)
def test_values_without_floats_have_the_same_form_only_if_they_are_equal(one, two):
    def plain(value: object) -> str:
        return json.dumps(value, sort_keys=True)

    if "." not in plain(one) + plain(two) and "e" not in plain(one) + plain(two):
        assert (canonical_json(one) == canonical_json(two)) == (plain(one) == plain(two))
