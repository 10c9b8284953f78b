from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.rate import Pace

ramps = st.builds(
    lambda base, more, factor, every, of: Pace.model_validate(
        {"exponential": {"base": base, "maximum": base + more, "factor": factor, "every": every, "of": of}}
    ),
    st.integers(1, 1_000),
    st.integers(0, 100_000),
    st.floats(1.01, 10.0),
    st.integers(1, 1_000),
    st.sampled_from(("confirmed", "offered")),
)
counts = st.integers(0, 10_000_000)


@given(ramps, counts, counts)
def test_a_ramp_stays_between_its_base_and_its_maximum(pace, confirmed, offered):
    ramp = pace.exponential
    assert ramp.base <= pace.now(confirmed=confirmed, offered=offered) <= ramp.maximum


@given(ramps, counts, st.integers(0, 5_000))
def test_a_ramp_never_falls_with_progress(pace, done, more):
    assert pace.now(confirmed=done, offered=done) <= pace.now(confirmed=done + more, offered=done + more)


def test_a_ramp_doubles_with_every_step_of_what_it_counts():
    written = {"base": 50, "factor": 2.0, "every": 100, "maximum": 300}
    confirmed = Pace.model_validate({"exponential": written})
    offered = Pace.model_validate({"exponential": written | {"of": "offered"}})
    seen = [
        (confirmed.now(confirmed=n, offered=0), offered.now(confirmed=0, offered=n)) for n in (0, 99, 100, 250, 300)
    ]
    assert seen == [(50, 50), (50, 50), (100, 100), (200, 200), (300, 300)]
    assert confirmed.now(confirmed=0, offered=1_000) == 50


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"per_minute": 5, "exponential": {"base": 1, "factor": 2.0, "every": 1, "maximum": 2}},
        {"exponential": {"base": 3, "factor": 2.0, "every": 1, "maximum": 2}},
        {"exponential": {"base": 1, "factor": 1.0, "every": 1, "maximum": 2}},
    ],
)
def test_a_rate_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError):
        Pace.model_validate(wrong)
