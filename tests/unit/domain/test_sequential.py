from __future__ import annotations

from collections.abc import Callable
from math import exp, inf, lgamma, log, log1p

import pytest

from orchestrator.domain import sequential
from orchestrator.domain.boundary import f_star, halt_horizons
from orchestrator.domain.sequential import (
    NotConvergedError,
    clean_devices_needed,
    confidence_sequence,
    devices_to_promote,
    log_beta_inc,
    log_e_harm,
    log_e_safe,
)


def mean_e(test: Callable[[int, int, float], float], n: int, p: float, limit: float) -> float:
    """E[E_n] at true rate p, by enumeration of every failure count."""

    def log_binomial(f: int) -> float:
        return lgamma(n + 1) - lgamma(f + 1) - lgamma(n - f + 1) + f * log(p) + (n - f) * log1p(-p)

    return sum(exp(log_binomial(f) + test(f, n, limit)) for f in range(n + 1))


def probability_of_halting(halts_from: list[int], p: float) -> float:
    """Exact probability that failures reach the limit at some n, by dynamic programming; entry n - 1 is the limit at n."""
    alive, halted = [1.0], 0.0
    for limit in halts_from:
        alive = [(1.0 - p) * stay + p * step for stay, step in zip([*alive, 0.0], [0.0, *alive], strict=True)]
        halted += sum(alive[limit:])
        del alive[limit:]
    return halted


def probability_of_promoting(promotes_up_to: list[int], p: float) -> float:
    """Exact probability that failures are few enough at some n; entry n - 1 is the most that promote at n."""
    alive, promoted = {0: 1.0}, 0.0
    for limit in promotes_up_to:
        grown: dict[int, float] = {}
        for f, mass in alive.items():
            if mass > 1e-18:
                grown[f] = grown.get(f, 0.0) + mass * (1.0 - p)
                grown[f + 1] = grown.get(f + 1, 0.0) + mass * p
        promoted += sum(mass for f, mass in grown.items() if f <= limit)
        alive = {f: mass for f, mass in grown.items() if f > limit}
    return promoted


@pytest.mark.parametrize("limit", [0.01, 0.02, 0.05])
@pytest.mark.parametrize("n", [1, 17, 200])
def test_the_mean_of_e_is_exactly_one_at_the_limit_and_less_inside_the_hypothesis(limit, n):
    assert mean_e(log_e_harm, n, limit, limit) == pytest.approx(1.0, abs=1e-9)
    assert mean_e(log_e_safe, n, limit, limit) == pytest.approx(1.0, abs=1e-9)
    assert mean_e(log_e_harm, n, limit / 2, limit) < 1.0
    assert mean_e(log_e_safe, n, limit * 2, limit) < 1.0


def test_no_data_is_no_evidence():
    assert log_e_harm(0, 0, 0.02) == pytest.approx(0.0, abs=1e-12)
    assert log_e_safe(0, 0, 0.05) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("p", "minimum", "horizon", "expected"),
    [(0.02, 1, 10_000, 0.0031), (0.02, 3, 10_000, 0.0021), (0.01, 1, 10_000, 0.0004), (0.01, 3, 2_000, 0.0001)],
)
def test_a_healthy_release_is_halted_as_rarely_as_published(p, minimum, horizon, expected):
    horizons = halt_horizons(0.02, 0.01, minimum, horizon)
    halts_from = [f_star(horizons, n) or n + 1 for n in range(1, horizon + 1)]
    halted = probability_of_halting(halts_from, p)
    assert halted == pytest.approx(expected, abs=0.00005)
    assert halted <= 0.01


def test_a_harmful_release_is_halted():
    horizons = halt_horizons(0.02, 0.01, 3, 2_000)
    halts_from = [f_star(horizons, n) or n + 1 for n in range(1, 2_001)]
    assert probability_of_halting(halts_from, 0.06) > 0.9999


def test_a_release_at_the_limit_is_promoted_with_probability_at_most_beta():
    limit, most, promotes_up_to = log(20), -1, []
    for n in range(1, 2_001):
        while most + 1 <= n and log_e_safe(most + 1, n, 0.05) >= limit:
            most += 1
        promotes_up_to.append(most)
    assert probability_of_promoting(promotes_up_to, 0.05) <= 0.05
    assert probability_of_promoting(promotes_up_to, 0.01) > 0.999


@pytest.mark.parametrize(
    ("p1", "needed"),
    [(0.01, (297, 377, 556)), (0.02, (148, 188, 277)), (0.05, (59, 74, 109)), (0.10, (29, 36, 53))],
)
def test_the_clean_devices_that_promote_are_the_published_ones(p1, needed):
    assert tuple(clean_devices_needed(p1, beta) for beta in (0.1, 0.05, 0.01)) == needed


def test_every_failure_costs_more_devices_to_promote():
    needed = [devices_to_promote(failures, 0.05, 0.05) for failures in range(6)]
    assert needed[0] == clean_devices_needed(0.05, 0.05)
    assert needed == sorted(set(needed))
    assert log_e_safe(5, needed[5], 0.05) >= log(20) > log_e_safe(5, needed[5] - 1, 0.05)


@pytest.mark.parametrize(
    ("failures", "devices", "low", "high"),
    [(0, 50, 0, 0.105), (0, 1_000, 0, 0.0070), (5, 500, 0.0012, 0.0348), (100, 5_000, 0.0133, 0.0286)],
)
def test_the_confidence_sequence_is_the_published_one(failures, devices, low, high):
    found = confidence_sequence(failures, devices, 0.05)
    assert found == pytest.approx((low, high), abs=0.0005)


def test_the_confidence_sequence_knows_nothing_without_devices_and_reaches_one_when_all_fail():
    assert confidence_sequence(0, 0, 0.05) == (0.0, 1.0)
    low, high = confidence_sequence(20, 20, 0.05)
    assert 0.5 < low < 1.0
    assert high == 1.0


def test_the_incomplete_beta_function_has_its_closed_forms():
    assert log_beta_inc(1.0, 1.0, 0.3) == pytest.approx(log(0.3))
    assert log_beta_inc(3.0, 1.0, 0.9) == pytest.approx(3 * log(0.9))
    assert log_beta_inc(1.0, 3.0, 0.9) == pytest.approx(log(1 - 0.1**3))
    assert log_beta_inc(2.0, 2.0, 0.0) == -inf
    assert log_beta_inc(2.0, 2.0, 1.0) == 0.0


def test_a_tail_far_below_a_double_is_still_a_number():
    assert log_beta_inc(1_000.0, 1.0, 1e-3) == pytest.approx(1_000 * log(1e-3))


def test_the_lower_tail_survives_where_one_minus_the_upper_one_is_zero():
    # 0 of 100,000 at p0 = 2 %: about 2,000 were allowed, so E is astronomically small and must still fall.
    assert -inf < log_e_harm(0, 100_001, 0.02) < log_e_harm(0, 100_000, 0.02) < -10


def test_evidence_beyond_the_range_of_a_double_stays_finite_in_logs():
    assert 709 < log_e_harm(2_000, 2_000, 0.02) < inf


@pytest.mark.parametrize("n", [1_000_000, 10_000_000])
def test_the_fraction_converges_at_the_mean_of_large_fleets(n):
    assert -20 < log_e_harm(n // 50, n, 0.02) < 0
    assert -20 < log_e_safe(n // 2, n, 0.5) < 0


def test_a_fraction_that_does_not_settle_is_an_error_and_never_a_number(monkeypatch):
    monkeypatch.setattr(sequential, "MAX_TERMS", 50)
    with pytest.raises(NotConvergedError) as caught:
        log_e_harm(20_000, 1_000_000, 0.02)
    assert caught.value.code == "statistics.not_converged"


@pytest.mark.parametrize(("failures", "devices"), [(-1, 5), (6, 5)])
def test_impossible_counts_are_refused(failures, devices):
    with pytest.raises(ValueError, match="failures"):
        log_e_harm(failures, devices, 0.02)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.1])
def test_rates_outside_the_open_interval_are_refused(rate):
    with pytest.raises(ValueError, match="rate"):
        log_e_safe(0, 5, rate)
