from __future__ import annotations

import random
from itertools import product
from math import exp, log

import pytest

from orchestrator.domain.versus import Score, failures_to_halt, log_e_versus, scored, total


@pytest.mark.parametrize("rhos", [(0.5,) * 6, (0.9,) * 8, (0.1, 0.99, 0.5, 0.75, 0.2, 0.9), (0.999,) * 5])
def test_its_mean_is_one_where_both_arms_are_alike(rhos):
    mean = 0.0
    for outcome in product((0, 1), repeat=len(rhos)):
        score, chance = Score(), 1.0
        for treated, rho in zip(outcome, rhos, strict=True):
            exposed = round(rho * 1_000)
            score = scored(score, treated, 1 - treated, exposed, 1_000 - exposed)
            chance *= rho if treated else 1.0 - rho
        mean += chance * exp(log_e_versus(score))
    assert mean == pytest.approx(1.0, abs=1e-9)


def test_its_mean_is_below_one_where_the_treated_fail_less():
    mean = 0.0
    for outcome in product((0, 1), repeat=6):
        score = scored(Score(), sum(outcome), 6 - sum(outcome), 500, 500)
        mean += exp(log_e_versus(score)) * 0.3 ** sum(outcome) * 0.7 ** (6 - sum(outcome))
    assert mean < 0.5


def test_a_span_without_one_of_the_arms_says_nothing():
    for cell in ((5, 0, 1_000, 0), (0, 5, 0, 1_000), (0, 0, 1_000, 1_000)):
        assert scored(Score(), *cell) == Score()
    assert log_e_versus(Score()) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ValueError, match="need counts"):
        scored(Score(), 1, -1, 10, 10)


def test_an_incident_that_hits_both_arms_is_no_evidence():
    score = Score()
    for _ in range(20):
        score = scored(score, 450, 50, 9_000, 1_000)
    assert log_e_versus(score) < -20
    assert score.expected == pytest.approx(score.treated)


def test_failures_of_the_treated_alone_halt():
    assert failures_to_halt(0.5, 0.002) == 12
    assert failures_to_halt(0.9, 0.002) == 73
    score = scored(Score(), 12, 0, 10, 10)
    assert log_e_versus(score) >= -log(0.002) > log_e_versus(scored(Score(), 11, 0, 10, 10))


def test_it_stands_with_very_many_failures():
    score = scored(Score(), 900_000, 100_000, 10**12, 10**12)
    assert log_e_versus(score) == pytest.approx(900_000 * log(10) - 1_000_000 * log(5.5), rel=1e-3)
    assert log_e_versus(scored(Score(), 1_000, 1_000_000, 10**12, 10**12)) < -10_000


def test_the_score_of_several_strata_is_that_of_all_their_cells():
    parts = [scored(Score(), k, 3, 100 * k, 70) for k in range(1, 5)]
    whole = Score()
    for k in range(1, 5):
        whole = scored(whole, k, 3, 100 * k, 70)
    assert log_e_versus(total(parts)) == pytest.approx(log_e_versus(whole))


def test_false_halts_stay_below_alpha_however_often_it_looks():
    """400 campaigns of 200 failures whose share of exposure moves, both arms alike, looked at after each."""
    dice, alpha, campaigns = random.Random(7), 0.05, 400
    halted = 0
    for _ in range(campaigns):
        score = Score()
        for step in range(200):
            rho = 0.05 + 0.9 * step / 200
            treated = dice.random() < rho
            exposed = round(rho * 10**6)
            score = scored(score, int(treated), int(not treated), exposed, 10**6 - exposed)
            if log_e_versus(score) >= -log(alpha):
                halted += 1
                break
    assert 0 < halted <= alpha * campaigns
