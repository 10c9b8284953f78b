from __future__ import annotations

from itertools import product

import pytest

from orchestrator.domain.boundary import crosses, f_star, halt_horizons
from orchestrator.domain.halt_rule import (
    EProcessRule,
    HaltTable,
    ThresholdRule,
    false_alarm,
    false_halt_bound,
    halt_table,
    threshold_horizons,
)

FIVE_AFTER_100 = ThresholdRule(test="threshold", name="old", scope="campaign", share=0.05, after=100)
STRATA = {"a": 900, "b": 100, "gone": 0}


def single(**changes) -> EProcessRule:
    given = {"name": "revision", "scope": "stratum", "p0": 0.02, "alpha": 0.01, "halts": "stratum"}
    return EProcessRule.model_validate(given | changes)


def test_a_threshold_halts_at_its_share_of_the_started_devices():
    horizons = threshold_horizons(0.05, 100, 10_000)
    assert [f_star(horizons, n) for n in (100, 101, 120, 121, 10_000)] == [5, 6, 6, 7, 500]


def test_failures_that_would_halt_later_halt_a_threshold_at_once():
    horizons = threshold_horizons(0.05, 100, 10_000)
    assert not crosses(horizons, 20, 4)
    assert crosses(horizons, 20, 5)


def test_the_table_of_a_threshold_says_what_its_false_alarms_are():
    table = halt_table(FIVE_AFTER_100, 3, {"a": 10_000})
    assert (table.test, table.alpha, table.p0, table.min_failures) == ("threshold", None, 0.05, 5)
    # statistics of "5 % after 100", looked at after every device
    assert table.false_alarms == {
        "0.002": pytest.approx(0.0000, abs=1e-4),
        "0.005": pytest.approx(0.0002, abs=2e-4),
        "0.01": pytest.approx(0.004, abs=1e-3),
        "0.02": pytest.approx(0.065, abs=2e-3),
        "0.03": pytest.approx(0.26, abs=1e-2),
    }


def test_false_alarms_are_those_of_all_outcomes():
    horizons, p, devices = threshold_horizons(0.3, 4, 9), 0.2, 9
    crossed = 0.0
    for outcome in product((0, 1), repeat=devices):
        failures = [sum(outcome[:n]) for n in range(1, devices + 1)]
        if any(crosses(horizons, n, f) for n, f in enumerate(failures, 1)):
            crossed += p ** sum(outcome) * (1 - p) ** (devices - sum(outcome))
    assert false_alarm(horizons, p, devices) == pytest.approx(crossed, rel=1e-12)


def test_a_rule_that_halts_single_strata_has_a_table_for_every_number_of_them():
    table = halt_table(single(), 3, STRATA)
    assert (table.processes, table.alpha, len(table.levels)) == (2, 0.005, 1)
    assert table.horizons == halt_horizons(0.02, 0.005, 3, 900)
    assert table.levels[0] == halt_horizons(0.02, 0.01, 3, 900)


def test_other_rules_have_no_levels():
    assert halt_table(single(halts="campaign"), 3, STRATA).levels == ()


def test_a_table_of_an_earlier_version_is_an_e_process_that_halts_the_campaign():
    stored = {"name": "r", "scope": "phase", "p0": 0.02, "alpha": 0.01, "processes": 3, "min_failures": 3}
    table = HaltTable.model_validate(stored | {"horizons": [0, 0, 0, 9]})
    assert (table.test, table.halts, table.levels) == ("e-process", "campaign", ())


def test_resumes_cost_their_alpha_and_thresholds_none():
    rules = [{"alpha": 0.006}, {"alpha": 0.002}, {"test": "threshold", "share": 0.05}]
    assert [false_halt_bound(rules, epochs) for epochs in (0, 1, 2, 4)] == [0.008, 0.008, 0.016, 0.032]
    assert false_halt_bound([{"alpha": 0.3}], 9) == 1.0
