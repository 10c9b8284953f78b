from __future__ import annotations

from typing import Any

import pytest

from orchestrator.domain.blast import blast_bound, phase_bounds
from orchestrator.domain.boundary import halt_horizons
from orchestrator.domain.dossier import freeze
from orchestrator.domain.plan import parse_plan


def bounds_of(*rules: dict[str, Any], sizes: dict[str, int], phases: list[dict[str, Any]] | None = None):
    plan = parse_plan(
        {
            "release": "rel_1",
            "phases": phases
            or [{"name": "canary", "percent": 10, "soak": "0s"}, {"name": "all", "percent": 100, "soak": "0s"}],
            "confirm_deadline": "10m",
            "offer_ttl": "1h",
            "halt": [{"p0": 0.02, "alpha": 0.01, **rule} for rule in rules],
            "max_in_flight": {"initial": 50, "maximum": 80},
        }
    )
    return phase_bounds(freeze(plan, strata_sizes=sizes, release_digest="sha256:1"))


@pytest.mark.parametrize(("n_end", "in_flight", "bound"), [(100, 50, 59), (1_000, 100, 140), (10_000, 500, 763)])
def test_the_bound_is_the_published_one(n_end, in_flight, bound):
    assert blast_bound(halt_horizons(0.02, 0.01, 3, 10_000), 3, n_end, in_flight) == bound


def test_no_more_devices_can_fail_than_may_start():
    horizons = halt_horizons(0.02, 0.01, 3, 10_000)
    assert blast_bound(horizons, 3, 20, 50) == 20
    assert blast_bound(horizons, 3, 2, 1) == 2


def test_a_guard_above_the_table_loosens_the_bound():
    assert blast_bound(halt_horizons(0.02, 0.01, 20, 1_000), 20, 100, 10) == 29


def test_each_phase_has_its_bound_with_the_cap_it_may_have_grown_to():
    canary, everyone = bounds_of({"name": "r", "scope": "campaign"}, sizes={"a": 1_000})
    assert (canary.phase, canary.reached, canary.in_flight, canary.failures) == ("canary", 100, 50, 59)
    assert (everyone.phase, everyone.reached, everyone.in_flight, everyone.failures) == ("all", 1_000, 80, 120)


def test_the_tightest_rule_gives_the_bound():
    loose, tight = {"name": "l", "scope": "campaign", "p0": 0.2}, {"name": "t", "scope": "campaign"}
    assert bounds_of(loose, tight, sizes={"a": 1_000}) == bounds_of(tight, sizes={"a": 1_000})


def test_a_rule_per_phase_lets_every_phase_come_close():
    (canary, everyone) = bounds_of({"name": "r", "scope": "phase"}, sizes={"a": 1_000})
    halves = halt_horizons(0.02, 0.005, 3, 1_000)
    assert canary.failures == blast_bound(halves, 3, 100, 50)
    assert everyone.failures == blast_bound(halves, 3, 100, 1) + blast_bound(halves, 3, 900, 1) + 80 - 2


def test_a_rule_per_stratum_lets_every_stratum_come_close():
    (_, everyone) = bounds_of({"name": "r", "scope": "stratum"}, sizes={"a": 600, "b": 400})
    halves = halt_horizons(0.02, 0.005, 3, 1_000)
    assert everyone.failures == blast_bound(halves, 3, 600, 1) + blast_bound(halves, 3, 400, 1) + 80 - 2


def test_stragglers_of_a_phase_with_a_higher_cap_still_count():
    phases = [
        {"name": "canary", "percent": 10, "soak": "0s"},
        {"name": "all", "percent": 100, "soak": "0s", "max_in_flight": 5},
    ]
    (_, everyone) = bounds_of({"name": "r", "scope": "campaign"}, sizes={"a": 1_000}, phases=phases)
    assert everyone.in_flight == 5
    assert everyone.failures == 41 + 50 - 1
