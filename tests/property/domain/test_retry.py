"""Retries stay within the plan: never too many, never too early, never to a device that may be in trial."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.domain.assignment import IN_TRIAL, SEEN, Assignment, Offer, State, holds_slot, offered_again
from orchestrator.domain.plan import parse_plan
from orchestrator.domain.plan_fields import PlanError
from orchestrator.domain.retry import (
    ENDED,
    GENERAL,
    MAX_ATTEMPTS,
    SPREAD,
    Backoff,
    ClassRule,
    Outcome,
    PerClass,
    RetryPolicy,
    again,
    outcome,
    spread,
    stands,
)
from schemas.ledger import Cause
from tests.support.world import plan

TTL = 60_000
attempts = st.integers(1, MAX_ATTEMPTS)
backoffs = st.builds(
    lambda initial, factor, more: Backoff(initial=initial, factor=factor, maximum=initial + more),
    st.integers(1, 10**7),
    st.floats(1.0, 10.0),
    st.integers(0, 10**8),
)
rules = st.builds(ClassRule, max_attempts=st.none() | attempts, backoff=st.none() | backoffs)
policies = st.builds(
    RetryPolicy,
    max_attempts=attempts,
    backoff=st.none() | backoffs,
    per_class=st.builds(PerClass, **{str(each): st.none() | rules for each in Outcome}),
)
rows = st.builds(
    Assignment,
    campaign_no=st.integers(1, 99),
    device_no=st.integers(1, 10**7),
    phase=st.just(0),
    stratum=st.just(0),
    attempt=attempts,
    action_id=st.just(1),
    gate_epoch=st.just(1),
    offered_at=st.just(0),
    changed_at=st.just(5),
    state=st.sampled_from(State),
    progress=st.sampled_from(sorted(SEEN)),
    failure_class=st.sampled_from(["transport", "integrity", "boot", "operator", "silence", "new", None]),
    reason=st.sampled_from([*map(str, Cause), "device says", None]),
    cancel_requested_at=st.sampled_from([None, None, 3]),
    failed_at=st.sampled_from([None, 4]),
    failed_class=st.just(None),
    first_started_at=st.just(2),
    first_started_epoch=st.just(1),
)


@given(policies, rows, st.integers(0, 10**13))
def test_a_retry_is_the_next_attempt_within_the_plan_and_not_before_now(policy, row, now):
    retry = again(policy, row, now, TTL)
    if retry is None:
        return
    found = outcome(row)
    assert found is not None
    limit, backoff = policy.rule(found)
    assert retry.attempt == row.attempt + 1 <= limit <= MAX_ATTEMPTS
    assert now < retry.not_before <= now + (TTL if backoff is None else backoff.maximum)
    assert (retry.cause is None) == (backoff is None)


@given(policies, rows)
def test_nothing_is_offered_to_what_holds_its_slot_or_was_asked_to_stop(policy, row):
    wanted = again(policy, row, 0, TTL) is not None
    if holds_slot(row) or row.state not in ENDED or row.cancel_requested_at is not None:
        assert not wanted
    if row.state is State.EXPIRED and (row.progress in IN_TRIAL or row.reason == Cause.LOG_LOSS):
        assert not wanted
    if row.state in {State.CONFIRMED, State.TRIAL, State.UNKNOWN}:
        assert not stands(policy, row)


@given(backoffs, st.integers(1, 99), st.integers(1, 10**7), st.integers(0, 10**13))
def test_pauses_grow_and_are_capped_for_every_device(backoff, campaign, device, now):
    pauses = [backoff.pause(attempt) for attempt in range(1, MAX_ATTEMPTS)]
    assert pauses == sorted(pauses)
    assert pauses[0] == backoff.initial
    assert pauses[-1] <= backoff.maximum
    own = [spread(now, now + pause, campaign, device) - now for pause in pauses]
    assert own == sorted(own)
    assert all(pause - pause // SPREAD - 1 <= mine <= pause for pause, mine in zip(pauses, own, strict=True))


def test_devices_that_failed_together_come_back_apart():
    assert len({spread(0, 600_000, 1, device) for device in range(1_000)}) > 900


@given(rows, attempts)
def test_old_plans_try_again_what_expired_unstarted_and_nothing_else(row, most):
    policy = RetryPolicy(max_attempts=most)
    retry = again(policy, row, 7, TTL)
    expected = outcome(row) is Outcome.OFFER and row.attempt < most
    assert (retry is not None) == expected
    if retry is not None:
        assert (retry.not_before, retry.cause) == (7 + TTL, None)


@given(rows, attempts, backoffs)
def test_release_failures_are_tried_again_only_if_the_plan_names_them(row, most, backoff):
    policy = RetryPolicy(max_attempts=most, backoff=backoff)
    if again(policy, row, 0, TTL) is not None:
        assert outcome(row) in GENERAL | {Outcome.OFFER}


@given(policies, rows)
def test_another_attempt_keeps_what_was_counted(policy, row):
    retry = again(policy, row, 0, TTL)
    if retry is not None:
        new = offered_again(row, Offer(attempt=retry.attempt, action_id=9, gate_epoch=2, at=9))
        counted = ("first_started_at", "first_started_epoch", "failed_at", "failed_class")
        assert [getattr(new, name) for name in counted] == [getattr(row, name) for name in counted]


@given(policies, rows)
def test_an_offer_that_a_halt_took_back_is_made_again_whatever_the_plan_says(policy, row):
    withdrawn = replace(row, state=State.CANCELLED, failure_class="operator", reason=str(Cause.HALTED))
    assert stands(policy, withdrawn)
    assert not stands(policy, replace(withdrawn, reason=str(Cause.ABORTED)))


@given(policies)
def test_the_pauses_shown_are_those_that_are_kept(policy):
    for each in Outcome:
        pauses = policy.pauses(each, TTL)
        assert len(pauses) == policy.rule(each)[0] - 1


FULL = {
    "max_attempts": 3,
    "backoff": {"initial": "10m", "factor": 2.0, "maximum": "6h"},
    "per_class": {
        "transport": {"max_attempts": 5, "backoff": {"initial": "1m"}},
        "integrity": {},
        "install": {"max_attempts": 1},
    },
}


def test_a_plan_says_how_often_for_each_class():
    policy = parse_plan(plan(retry=FULL)).retry
    assert policy.pauses(Outcome.TRANSPORT, TTL) == [60_000, 120_000, 240_000, 480_000]
    assert policy.pauses(Outcome.INTEGRITY, TTL) == policy.pauses(Outcome.SILENCE, TTL) == [600_000, 1_200_000]
    assert policy.pauses(Outcome.OFFER, TTL) == [TTL, TTL]
    assert policy.pauses(Outcome.INSTALL, TTL) == policy.pauses(Outcome.BOOT, TTL) == []


@pytest.mark.parametrize(
    ("change", "pointer", "code"),
    [
        ({"backoff": {"initial": "1h", "maximum": "1m"}}, "/retry/backoff", "plan.retry.backoff"),
        ({"backoff": {"factor": 0.5}}, "/retry/backoff/factor", "plan.field.value"),
        ({"backoff": {"initial": 0}}, "/retry/backoff/initial", "plan.duration.range"),
        ({"per_class": {"weather": {}}}, "/retry/per_class/weather", "plan.field.unknown"),
        ({"per_class": {"boot": {"max_attempts": 11}}}, "/retry/per_class/boot/max_attempts", "plan.field.value"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(change, pointer, code):
    with pytest.raises(PlanError) as raised:
        parse_plan(plan(retry=change))
    assert [(each["pointer"], each["code"]) for each in raised.value.errors] == [(pointer, code)]


def test_a_plan_reads_back_as_itself():
    parsed = parse_plan(plan(retry=FULL))
    assert parse_plan(parsed.canonical()) == parsed
