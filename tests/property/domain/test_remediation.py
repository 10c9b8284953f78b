"""Whom a remediation is for: by what the logs say in any order, and never more than were counted."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.domain.assignment import (
    Assignment,
    Observation,
    Offer,
    State,
    expiry,
    observe,
    offered,
    start,
    withdrawal,
)
from orchestrator.domain.dossier import validate_against
from orchestrator.domain.plan import parse_plan
from orchestrator.domain.plan_fields import PlanError
from orchestrator.domain.remediation import (
    Run,
    derived_plan,
    dismissal,
    earlier_release,
    is_lost,
    is_updated,
    may_run,
)
from schemas.ledger import Cause
from tests.support.world import plan

PARENT = 5
LIFE = [State.ACCEPTED, State.DOWNLOADING, State.INSTALLED, State.TRIAL]
times = st.integers(1_000, 1_020)


def row(campaign_no: int, *records: Observation) -> Assignment:
    made = offered(campaign_no, 7, 0, 0, Offer(attempt=1, action_id=1, gate_epoch=1, at=500))
    for record in records:
        made = observe(made, record)
    return made


def said(state: State, at: int, failure_class: str | None = None) -> Observation:
    return Observation(attempt=1, state=state, at=at, failure_class=failure_class)


observations = st.one_of(
    st.builds(
        said,
        st.sampled_from([state for state in State if state not in {State.OFFERED, State.UNKNOWN}]),
        times,
        st.sampled_from([None, "boot", "health", "install", "transport"]),
    ),
    st.builds(start, st.just(1), times),
    st.builds(expiry, st.just(1), st.sampled_from([Cause.SILENT, Cause.SILENT_TRIAL, Cause.OFFER_TTL]), times),
    st.builds(withdrawal, st.just(1), st.just(Cause.HALTED), times),
)
histories = st.lists(
    st.tuples(st.sampled_from(["rel_1", "rel_2", "rel_3"]), st.lists(observations, max_size=6)), min_size=1, max_size=5
)


@given(histories, st.randoms(use_true_random=False))
def test_any_order_of_records_and_of_campaigns_gives_the_same_members(history, random):
    runs = [Run(release, row(no, *records)) for no, (release, records) in enumerate(history, PARENT)]
    shuffled = [
        Run(release, row(no, *random.sample(records, len(records))))
        for no, (release, records) in enumerate(history, PARENT)
    ]
    random.shuffle(shuffled)
    assert is_updated(shuffled, PARENT) == is_updated(runs, PARENT)
    assert earlier_release(shuffled, PARENT) == earlier_release(runs, PARENT)


@given(st.integers(0, 4), st.data())
def test_once_the_campaign_is_stopped_nobody_joins(reached, data):
    """A device goes on from where the halt found it, to any end; unstarted ones are withdrawn."""
    halted = row(PARENT, *([start(1, 1_000)] if reached else []), *(said(s, 1_001) for s in LIFE[:reached]))
    further = data.draw(st.integers(reached, 4)) if reached else 0
    later = [said(s, 1_002) for s in LIFE[reached:further]]
    ends = [State.CONFIRMED, State.REVERTED, State.FAILED, State.CANCELLED, State.REJECTED]
    end = data.draw(st.sampled_from(ends)) if reached else None
    blame = data.draw(st.sampled_from([None, "boot", "install", "transport"]))
    silent = Cause.SILENT_TRIAL if further > 2 else Cause.SILENT
    records = [*later, expiry(1, silent, 1_003)] if data.draw(st.booleans()) and reached else later
    records += [said(end, 1_004, blame)] if end else [withdrawal(1, Cause.HALTED, 1_004)]
    member = may_run(halted)
    now = halted
    for record in records:
        now = observe(now, record)
        assert member or not may_run(now)
        member = may_run(now)


@pytest.mark.parametrize(
    ("records", "member", "let_go"),
    [
        ([], False, Cause.NOT_UPDATED),
        ([start(1, 1), said(State.CONFIRMED, 2)], True, None),
        ([start(1, 1), said(State.TRIAL, 2)], True, None),
        ([start(1, 1), said(State.DOWNLOADING, 2)], True, None),
        ([start(1, 1), said(State.TRIAL, 2), said(State.REVERTED, 3)], False, Cause.NOT_UPDATED),
        ([start(1, 1), said(State.FAILED, 2, "install")], False, Cause.NOT_UPDATED),
        ([start(1, 1), said(State.INSTALLED, 2), said(State.FAILED, 3, "install")], True, None),
        ([start(1, 1), said(State.FAILED, 2, "health")], True, None),
        ([start(1, 1), said(State.CANCELLED, 2)], False, Cause.NOT_UPDATED),
        ([start(1, 1), expiry(1, Cause.SILENT, 2)], True, None),
        ([start(1, 1), said(State.TRIAL, 2), expiry(1, Cause.SILENT_TRIAL, 3)], True, Cause.SILENT_TRIAL),
        ([withdrawal(1, Cause.HALTED, 2)], False, Cause.NOT_UPDATED),
    ],
)
def test_what_became_of_a_device_says_whether_it_is_a_member(records, member, let_go):
    made = row(PARENT, *records)
    assert (may_run(made), dismissal(made)) == (member, let_go)
    assert is_lost(made) == (let_go is Cause.SILENT_TRIAL)
    assert dismissal(None) is Cause.NOT_UPDATED


def test_a_device_that_another_campaign_has_confirmed_on_since_is_no_member():
    own = Run("rel_2", row(PARENT, start(1, 10), said(State.CONFIRMED, 20)))
    before = Run("rel_1", row(3, start(1, 1), said(State.CONFIRMED, 5)))
    since = Run("rel_1", row(6, start(1, 30), said(State.CONFIRMED, 40)))
    assert is_updated([before, own], PARENT)
    assert not is_updated([before, own, since], PARENT)
    assert not is_updated([before], PARENT)


def test_the_release_before_is_the_last_other_one_that_was_confirmed():
    own = Run("rel_3", row(PARENT, start(1, 100), said(State.CONFIRMED, 120)))
    first = Run("rel_1", row(2, start(1, 1), said(State.CONFIRMED, 10)))
    second = Run("rel_2", row(1, start(1, 20), said(State.CONFIRMED, 30)))
    same = Run("rel_3", row(3, start(1, 40), said(State.CONFIRMED, 50)))
    failed = Run("rel_4", row(4, start(1, 60), said(State.FAILED, 70, "boot")))
    assert earlier_release([own, first, second, same, failed], PARENT) == "rel_2"
    assert earlier_release([own, same, failed], PARENT) is None
    assert earlier_release([first], PARENT) is None


@given(st.integers(1, 2_000), st.booleans())
def test_a_derived_plan_fits_as_many_devices_as_it_was_made_for(devices, tests):
    parent = parse_plan(plan() if tests else plan(phases=[{"name": "all", "percent": 100.0, "soak": "5s"}])).canonical()
    made = parse_plan(derived_plan(parent, devices) | {"release": "rel_9"})
    assert validate_against(made, strata_sizes={"a": devices}, release_models={"m"}) == []
    assert made.cohort.holdback_percent == 0.0
    assert [phase.name for phase in made.phases] == (["rest"] if devices == 1 else ["canary", "rest"])
    assert made.canonical()["halt"] == parent["halt"]
    assume(devices > 200)
    assert (made.phases[0].promote is not None) == tests


@pytest.mark.parametrize(
    ("changes", "pointer", "code"),
    [
        ({"remediation": {"kind": "fallback"}}, "/remediation", "plan.remediation.release"),
        ({"remediation": {"kind": "revert", "release": "rel_0"}}, "/remediation", "plan.remediation.release"),
        ({"remediation": {"kind": "fallback", "release": "rel_1"}}, "/remediation/release", "plan.remediation.release"),
        ({"remediation": {"kind": "pray"}}, "/remediation/kind", "plan.field.value"),
        ({"cohort": {"previously": "rel_0"}}, "/cohort/previously", "plan.cohort.previously"),
    ],
)
def test_what_cannot_be_meant_is_refused_where_it_stands(changes, pointer, code):
    with pytest.raises(PlanError) as caught:
        parse_plan(plan(**changes))
    assert [(error["pointer"], error["code"]) for error in caught.value.errors] == [(pointer, code)]
