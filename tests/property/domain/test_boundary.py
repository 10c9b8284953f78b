from __future__ import annotations

from itertools import pairwise
from math import log

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.boundary import crosses, f_star, halt_horizons
from orchestrator.domain.sequential import log_e_harm

untimed = settings(deadline=None)  # a busy machine is no defect

rules = st.tuples(st.floats(0.001, 0.5), st.floats(0.0001, 0.1), st.integers(1, 10))


@untimed
@given(rule=rules, end=st.integers(0, 2_000))
def test_horizons_never_fall_and_end_with_the_table_or_never_halt(rule, end):
    horizons = halt_horizons(*rule, end)
    assert all(before <= after for before, after in pairwise(horizons))
    assert horizons[-1] in {0, end}
    assert all(horizon == 0 or horizon >= failures for failures, horizon in enumerate(horizons))


@untimed
@given(rule=rules, end=st.integers(1, 2_000), data=st.data())
def test_the_table_says_what_the_evidence_says(rule, end, data):
    p0, alpha, minimum = rule
    n = data.draw(st.integers(1, end))
    f = data.draw(st.integers(0, n))
    by_evidence = f >= minimum and log_e_harm(f, n, p0) >= -log(alpha)
    assert crosses(halt_horizons(p0, alpha, minimum, end), n, f) == by_evidence


@untimed
@given(rule=rules, end=st.integers(2, 2_000), data=st.data())
def test_more_devices_never_take_fewer_failures(rule, end, data):
    horizons = halt_horizons(*rule, end)
    n = data.draw(st.integers(1, end - 1))
    here, later = f_star(horizons, n), f_star(horizons, n + 1)
    assert here is None or (later is not None and here <= later)


@untimed
@given(rule=rules, end=st.integers(2, 2_000), data=st.data())
def test_another_failure_never_undoes_a_crossing(rule, end, data):
    horizons = halt_horizons(*rule, end)
    n = data.draw(st.integers(1, end))
    f = data.draw(st.integers(0, n - 1))
    assert not crosses(horizons, n, f) or crosses(horizons, n, f + 1)


@untimed
@given(rule=rules, end=st.integers(1, 2_000), data=st.data())
def test_the_table_of_fewer_devices_is_the_same_table_cut_off(rule, end, data):
    less = data.draw(st.integers(1, end))
    short, whole = halt_horizons(*rule, less), halt_horizons(*rule, end)
    assert all(f_star(short, n) == f_star(whole, n) for n in range(1, less + 1))
