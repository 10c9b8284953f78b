from __future__ import annotations

from orchestrator.domain.coverage import coverage
from orchestrator.domain.dossier import freeze
from orchestrator.domain.plan import parse_plan


def dossier_of(sizes: dict[str, int], *, holdback: float = 0.0, canary: int = 2):
    plan = parse_plan(
        {
            "release": "rel_1",
            "cohort": {"holdback_percent": holdback},
            "phases": [
                {"name": "canary", "count": canary, "soak": 0},
                {"name": "half", "percent": 50, "soak": 0},
                {"name": "all", "percent": 100, "soak": 0},
            ],
            "confirm_deadline": "10m",
            "offer_ttl": "1h",
            "halt": [
                {"name": "fleet", "scope": "campaign", "p0": 0.02, "alpha": 0.005},
                {"name": "revision", "scope": "stratum", "p0": 0.02, "alpha": 0.005},
            ],
            "max_in_flight": {"initial": 50, "maximum": 80},
        }
    )
    return freeze(plan, strata_sizes=sizes, release_digest="sha256:1")


def test_strata_that_the_canary_misses_are_named_with_the_phase_that_has_them():
    assert coverage(dossier_of({"a": 500, "b": 400, "c": 3})).untried == {"c": "half"}
    assert coverage(dossier_of({"a": 500, "b": 400, "c": 3}, canary=3)).untried == {}


def test_a_stratum_that_cannot_halt_if_all_of_it_fails_is_too_small():
    found = coverage(dossier_of({"a": 500, "b": 2, "c": 3}))
    assert found.unjudged == {"revision": ["b"]}  # three failures are the fewest that halt


def test_a_stratum_that_is_large_enough_has_a_verdict_of_its_own():
    assert coverage(dossier_of({"a": 500, "b": 400})).unjudged == {}
