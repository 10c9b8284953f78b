from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.domain.blast import phase_bounds
from orchestrator.domain.campaign import Campaign, CampaignState, CampaignTransitionError, PhaseState, decide, evolve
from orchestrator.domain.cohort import HOLDBACK, Member
from orchestrator.domain.commands import Join
from orchestrator.domain.dossier import Dossier, freeze, validate_against
from orchestrator.domain.membership import LONGEST_PAUSE_MS, PAUSE_MS, Refusal, admit, is_open, pause_ms, place
from orchestrator.domain.plan import parse_plan
from orchestrator.domain.plan_fields import PlanError
from schemas.campaign_events import CohortEnrolled, JoinCut

PLAN: dict[str, Any] = {
    "release": "rel_1",
    "cohort": {
        "holdback_percent": 10.0,
        "salt": "salt",
        "membership": "continuous",
        "max_members": 1_200,
        "groups": {"lab": "attribute.site==lab"},
    },
    "phases": [
        {"name": "lab", "group": "lab", "soak": 0},
        {"name": "canary", "percent": 10, "soak": 0},
        {"name": "all", "percent": 100, "soak": 0},
    ],
    "confirm_deadline": "10m",
    "offer_ttl": "1h",
    "halt": [{"name": "failures", "scope": "campaign", "p0": 0.02, "alpha": 0.01}],
    "max_in_flight": {"initial": 10, "maximum": 100},
}
SIZES = {"a": 600, "b": 400, "c": 5}
NAMED = {0: {"a": 5, "c": 5}}


def dossier_of(**cohort: Any) -> Dossier:
    plan = parse_plan(PLAN | {"cohort": PLAN["cohort"] | cohort})
    return freeze(plan, strata_sizes=SIZES, named=NAMED, release_digest="sha256:1")


@pytest.mark.parametrize("cohort", [{"membership": "snapshot"}, {"max_members": None}])
def test_most_members_go_with_a_continuous_membership_and_only_with_it(cohort):
    with pytest.raises(PlanError) as caught:
        parse_plan(PLAN | {"cohort": PLAN["cohort"] | cohort})
    assert caught.value.code == "plan.cohort.max_members"


def test_a_cohort_that_is_larger_than_its_limit_is_refused():
    plan = parse_plan(PLAN | {"cohort": PLAN["cohort"] | {"max_members": 900}})
    (problem,) = validate_against(plan, strata_sizes=SIZES, named=NAMED, release_models=["m"])
    assert problem.code == "plan.cohort.max_members"


def test_halt_tables_and_blast_radius_are_made_for_the_most_members():
    dossier, alone = dossier_of(), dossier_of(membership="snapshot", max_members=None)
    assert dossier.room == 195
    assert dossier.rules[0].horizons[-1] == 1_200
    assert alone.rules[0].horizons[-1] == 1_005
    bounds = zip(phase_bounds(dossier), phase_bounds(alone), strict=True)
    assert all(ours.failures >= without.failures for ours, without in bounds)


@settings(deadline=None)
@given(number=st.integers(0, 10**6), stratum=st.sampled_from("abc"))
def test_a_late_device_has_its_place_whoever_else_comes(number, stratum):
    dossier, member = dossier_of(), Member(f"late-{number}", stratum, number)
    assert place(dossier, member) in {1, 2, HOLDBACK}
    assert place(dossier, member._replace(named=0)) == 0
    admission = admit(dossier, [Member(f"x-{n}", "a", n) for n in range(9)] + [member], present=1_005, halted=())
    assert member.device_no in admission.joined[place(dossier, member), stratum]


def test_late_devices_are_shared_out_like_the_cohort():
    dossier = dossier_of()
    places = [place(dossier, Member(f"late-{n}", "a", n)) for n in range(4_000)]
    shares = [dossier.phases[1].strata["a"], dossier.phases[2].strata["a"], dossier.holdback["a"]]
    for phase, share in zip((1, 2, HOLDBACK), shares, strict=True):
        assert abs(places.count(phase) / 4_000 - share / sum(shares)) < 0.03


def test_nobody_joins_beyond_the_limit_or_into_a_stratum_that_was_not_approved_or_is_halted():
    members = [Member(f"late-{n}", "abz"[n % 3], n) for n in range(9)]
    admission = admit(dossier_of(), members, present=1_198, halted=["b"])
    assert sorted(no for devices in admission.joined.values() for no in devices) == [0, 3]
    assert admission.refused == {
        **dict.fromkeys((1, 4, 7), Refusal.HALTED_STRATUM),
        **dict.fromkeys((2, 5, 8), Refusal.UNKNOWN_STRATUM),
        6: Refusal.FULL,
    }


def running(**fields: Any) -> Campaign:
    enrolment = CohortEnrolled(members=10, holdback=1, strata={"a": 10}, phases=[4, 5], ledger_position=3)
    campaign = Campaign(
        state=CampaignState.RUNNING, enrolled=True, enrolment=enrolment, plan={"phases": [{}, {}]}, phase=0
    )
    return replace(campaign, **fields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"phase": -1}, True),
        ({"phase_state": PhaseState.OPEN}, True),
        ({"phase_state": PhaseState.SOAKING, "soak_until": 101}, True),
        ({"phase_state": PhaseState.SOAKING, "soak_until": 100}, False),
        ({"phase_state": PhaseState.PROMOTED}, True),
        ({"phase_state": PhaseState.PROMOTED, "phase": 1}, False),
        ({"enrolled": False}, False),
        *(({"state": state}, False) for state in CampaignState if state is not CampaignState.RUNNING),
    ],
)
def test_devices_join_while_the_campaign_runs_and_no_phase_waits_for_its_end(fields, expected):
    assert is_open(running(**fields), 100) is expected


def test_the_pause_grows_so_that_the_stream_stays_short():
    assert [pause_ms(joins) for joins in (0, 49, 50, 100)] == [PAUSE_MS, PAUSE_MS, 2 * PAUSE_MS, 4 * PAUSE_MS]
    assert pause_ms(10**6) == LONGEST_PAUSE_MS
    elapsed = sum(pause_ms(joins) for joins in range(500))
    assert elapsed > 3 * 24 * 3_600_000


def test_late_members_are_added_to_what_was_enrolled():
    command = Join(
        members=3,
        holdback=1,
        strata={"b": 3},
        phases=[2, 0],
        refused={},
        cut=JoinCut(events=9, facts={}),
        at=5,
        ledger_position=8,
    )
    campaign = running()
    (event,) = decide(campaign, command)
    after = evolve(evolve(campaign, event), event)
    assert after.enrolment is not None
    assert (after.enrolment.members, after.enrolment.holdback, after.enrolment.phases) == (16, 3, [8, 5])
    assert after.enrolment.strata == {"a": 10, "b": 6}
    assert (after.joined, after.joins) == (6, 2)
    with pytest.raises(CampaignTransitionError):
        decide(running(enrolled=False), command)
    with pytest.raises(CampaignTransitionError):
        decide(running(state=CampaignState.HALTED), command)
