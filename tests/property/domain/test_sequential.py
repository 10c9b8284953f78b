from __future__ import annotations

from math import exp, lgamma, log, log1p

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.sequential import confidence_sequence, devices_to_promote, log_e_harm, log_e_safe

untimed = settings(deadline=None)  # a busy machine is no defect

rates = st.floats(0.001, 0.6)
counts = st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n)))


def log_binomial(f: int, n: int, p: float) -> float:
    return lgamma(n + 1) - lgamma(f + 1) - lgamma(n - f + 1) + f * log(p) + (n - f) * log1p(-p)


@untimed
@given(limit=rates, n=st.integers(0, 120), share=st.floats(0.01, 1.0))
def test_the_mean_of_e_never_exceeds_one_while_the_release_is_harmless(limit, n, share):
    p = limit * share
    assert sum(exp(log_binomial(f, n, p) + log_e_harm(f, n, limit)) for f in range(n + 1)) <= 1.0 + 1e-9


@untimed
@given(limit=rates, n=st.integers(0, 120), share=st.floats(0.01, 1.0))
def test_the_mean_of_e_never_exceeds_one_while_the_release_is_harmful(limit, n, share):
    p = 1.0 - (1.0 - limit) * share
    assert sum(exp(log_binomial(f, n, p) + log_e_safe(f, n, limit)) for f in range(n + 1)) <= 1.0 + 1e-9


@untimed
@given(limit=rates, counts=counts)
def test_harm_rises_with_failures_and_falls_with_devices(limit, counts):
    f, n = counts
    assert log_e_harm(f + 1, n, limit) > log_e_harm(f, n, limit) > log_e_harm(f, n + 1, limit)


@untimed
@given(limit=rates, counts=counts)
def test_safety_falls_with_failures_and_rises_with_devices(limit, counts):
    f, n = counts
    assert log_e_safe(f + 1, n, limit) < log_e_safe(f, n, limit) < log_e_safe(f, n + 1, limit)


@untimed
@given(counts=counts, alpha=st.floats(0.001, 0.5))
def test_the_confidence_sequence_holds_what_was_observed_and_lies_between_zero_and_one(counts, alpha):
    f, n = counts
    low, high = confidence_sequence(f, n, alpha)
    assert 0.0 <= low <= f / n <= high <= 1.0


@untimed
@given(failures=st.integers(0, 50), p1=st.floats(0.01, 0.6), beta=st.floats(0.001, 0.2))
def test_the_devices_to_promote_are_the_fewest_that_do(failures, p1, beta):
    needed = devices_to_promote(failures, p1, beta)
    assert log_e_safe(failures, needed, p1) >= -log(beta)
    assert needed == failures + 1 or log_e_safe(failures, needed - 1, p1) < -log(beta)
