from __future__ import annotations

import random
from fractions import Fraction
from math import exp, inf, lgamma, log, perm

import pytest

from orchestrator.domain.exposure import HOUR_MS, events_to_halt, log_e_exposure, log_upper_gamma
from orchestrator.domain.sequential import NotConvergedError

ALPHA = 0.002


def exact(events: int, hours: int, per_hour: Fraction) -> float:
    """E by its finite sum: with integer counts, ``Gamma(N + 1, x) e^x = N! sum of x^k / k!``."""
    x = per_hour * hours + Fraction(1, 2)
    total = sum((Fraction(perm(events, j)) / x**j for j in range(events + 1)), Fraction(0)) / (2 * x)
    return log(total.numerator) - log(total.denominator)


@pytest.mark.parametrize("hours", [0, 1, 90, 1_000, 30_000])
@pytest.mark.parametrize("events", [0, 1, 2, 10, 60, 240])
def test_the_evidence_is_what_its_finite_sum_gives(events, hours):
    found = log_e_exposure(events, hours * HOUR_MS, 0.01)
    assert found == pytest.approx(exact(events, hours, Fraction("0.01")), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("mean", [0.01, 0.5, 2.0, 7.0])
def test_its_mean_is_one_at_the_acceptable_rate(mean):
    # The tail beyond N is at most that of the mixture: E P(N) integrates r^N e^-mr m^N / N!, whose r beyond 60 weigh e^-29.
    total = 0.0
    for events in range(int(60 * mean) + 400):
        evidence = log_e_exposure(events, round(mean * HOUR_MS), 1.0)
        total += exp(evidence + events * log(mean) - mean - lgamma(events + 1))
    assert total == pytest.approx(1.0, abs=1e-9)


def test_its_mean_is_below_one_at_half_the_acceptable_rate():
    mean = 4.0
    total = sum(
        exp(log_e_exposure(n, round(mean * HOUR_MS), 1.0) + n * log(mean / 2) - mean / 2 - lgamma(n + 1))
        for n in range(400)
    )
    assert total < 0.7


def test_it_stands_at_the_size_of_a_large_fleet():
    # A million events in a hundred million hours, and what crosses or never will.
    assert log_e_exposure(10**6, 10**8 * HOUR_MS, 0.01) == pytest.approx(-7.375, abs=1e-3)
    assert -inf < log_e_exposure(0, 10**9 * HOUR_MS, 0.01) < -10
    assert log_e_exposure(10**6, 10**7 * HOUR_MS, 0.01) > 10**6
    assert log_e_exposure(10_464, 10**6 * HOUR_MS, 0.01) >= -log(ALPHA) > log_e_exposure(10_463, 10**6 * HOUR_MS, 0.01)


def test_what_does_not_converge_is_no_number():
    # The series needs some sqrt(a) terms: more than there are allowed at ten billion.
    with pytest.raises(NotConvergedError):
        log_upper_gamma(1e11, 1e11)


def test_nonsense_is_refused():
    for wrong in ((-1, 1, 0.1), (1, -1, 0.1), (1, 1, 0.0), (1, 1, float("nan"))):
        with pytest.raises(ValueError, match="need counts"):
            log_e_exposure(*wrong)


def test_the_bound_is_the_fewest_events_that_halt():
    assert [events_to_halt(h * HOUR_MS, 0.01, ALPHA, 3) for h in (1, 10, 100, 1_000, 10_000)] == [4, 5, 8, 25, 144]
    assert events_to_halt(HOUR_MS, 0.01, ALPHA, 50) == 50


def test_false_halts_stay_below_alpha_however_often_it_looks():
    """4,000 campaigns of 2,000 hours at the acceptable rate, looked at after every event."""
    dice, alpha, rate, campaigns = random.Random(20), 0.05, 0.05, 4_000
    needed = [-1.0]  # longest exposure at which so many events halt
    for events in range(1, 400):
        low, high = 0.0, 10_000.0
        while high - low > 1e-3:
            middle = (low + high) / 2
            crossed = log_e_exposure(events, round(middle * HOUR_MS), rate) >= -log(alpha)
            low, high = (middle, high) if crossed else (low, middle)
        needed.append(low)
    halted = 0
    for _ in range(campaigns):
        at, events = 0.0, 0
        while (at := at + dice.expovariate(rate)) < 2_000 and events < 399:
            events += 1
            if at <= needed[events]:
                halted += 1
                break
    # At alpha itself 200 are expected; the rule spends less of it because time is finite.
    assert 0 < halted <= alpha * campaigns
