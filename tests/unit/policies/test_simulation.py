"""The simulation behind ``deploy/docs/halting.md`` plays by the product's rules."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.gate import Cell, evaluate_halt, tally
from orchestrator.domain.halt_rule import EProcessRule, halt_table
from tests.bench.policies.policy import FLEET, NEVER, PHASES, RULES, make, policies
from tests.bench.policies.simulate import Release, campaign

DEFAULT = policies()[0]
TABLES = [halt_table(EProcessRule.model_validate(rule), len(PHASES), {"all": FLEET}) for rule in RULES]


def ends(release: Release, cap: int, runs: int) -> list[tuple[str, int]]:
    outcomes = [campaign(DEFAULT, release, cap, Random(f"ends {run}")) for run in range(runs)]
    return [(outcome.end, outcome.started) for outcome in outcomes]


@given(st.integers(1, FLEET), st.integers(0, 300))
def test_the_bounds_are_those_of_the_gate(n, f):
    f = min(f, n)
    crossed = evaluate_halt(tally(TABLES, [Cell(0, "all", n, f)])) is not None
    assert crossed == (f >= DEFAULT.campaign[n] or f >= DEFAULT.phase[n])


def test_a_run_can_be_repeated_from_its_seed():
    assert ends(Release(0.01, 60.0), 500, 3) == ends(Release(0.01, 60.0), 500, 3)


def test_a_healthy_release_goes_through_to_the_end():
    assert ends(Release(0.0, 60.0), FLEET, 3) == [("completed", FLEET)] * 3


def test_a_terrible_release_halts_in_the_canary():
    assert {end for end, _ in ends(Release(0.5, 5.0), FLEET, 20)} == {"halted"}
    assert max(started for _, started in ends(Release(0.5, 5.0), FLEET, 20)) <= FLEET / 100


def test_a_silent_release_halts_when_its_canaries_deadline_has_passed():
    outcome = campaign(DEFAULT, Release(1.0, 0.0), FLEET, Random(1))
    assert (outcome.end, outcome.started) == ("halted", FLEET // 100)
    assert 240.0 <= outcome.minutes < 241.0


def test_a_mediocre_release_is_held_rather_than_promoted():
    nothing = make(
        "hold", ({"name": "all", "percent": 100, "soak": "1h", "promote": {"p1": 0.001, "beta": 0.05}},), RULES
    )
    assert set(nothing.campaign[:2]) == {NEVER}
    outcome = campaign(nothing, Release(0.01, 60.0), FLEET, Random(3))
    assert (outcome.end, outcome.started) == ("held", FLEET)
