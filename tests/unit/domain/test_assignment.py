"""What single records do to a row."""

from __future__ import annotations

import pytest

from orchestrator.domain.assignment import (
    Observation,
    Offer,
    State,
    due,
    expiry,
    holds_slot,
    is_release_failure,
    loss,
    maturity,
    observe,
    offered,
    offered_again,
    overdue,
    start,
)
from orchestrator.domain.campaign import CampaignState
from orchestrator.domain.visibility import Shown, shown
from schemas.ledger import Cause

TTL, DEADLINE = 1_000, 500


def row(*seen: Observation):
    made = offered(1, 7, 0, 0, Offer(attempt=1, action_id=9, gate_epoch=1, at=100))
    for item in seen:
        made = observe(made, item)
    return made


def seen(state: State, at: int = 200, attempt: int = 1, failure_class: str | None = None) -> Observation:
    return Observation(attempt=attempt, state=state, at=at, failure_class=failure_class)


def test_any_later_fact_implies_the_start():
    made = row(seen(State.TRIAL, 300))
    assert (made.started_at, made.first_started_at, made.first_started_epoch) == (300, 300, 1)


def test_a_rejection_does_not_imply_a_start():
    assert row(seen(State.REJECTED)).first_started_at is None


def test_a_late_confirmation_shows_but_the_silence_stays_counted():
    made = row(start(1, 200), seen(State.TRIAL, 250), expiry(1, Cause.SILENT_TRIAL, 700), seen(State.CONFIRMED, 800))
    assert (made.state, made.failed_at, made.failed_class) == (State.CONFIRMED, 700, "silence")


def test_silence_before_the_installation_does_not_blame_the_release():
    made = row(start(1, 200), expiry(1, Cause.SILENT, 700))
    assert (made.state, made.failed_at) == (State.EXPIRED, None)


def test_a_further_offer_keeps_what_feeds_the_gate():
    failed = row(start(1, 200), seen(State.REVERTED, 250, failure_class="health"))
    again = offered_again(failed, Offer(attempt=2, action_id=10, gate_epoch=2, at=900))
    assert (again.state, again.action_id, again.started_at) == (State.OFFERED, 10, None)
    assert (again.first_started_epoch, again.failed_at) == (1, 250)


@pytest.mark.parametrize(
    ("state", "failure_class", "blames"),
    [
        (State.REVERTED, "transport", True),
        (State.FAILED, None, True),
        (State.FAILED, "boot", True),
        (State.FAILED, "transport", False),
        (State.FAILED, "integrity", False),
        (State.EXPIRED, "silence", True),
        (State.EXPIRED, None, False),
        (State.REJECTED, None, False),
        (State.UNKNOWN, None, False),
        (State.CONFIRMED, None, False),
    ],
)
def test_which_ends_blame_the_release(state, failure_class, blames):
    assert is_release_failure(state, failure_class) is blames


@pytest.mark.parametrize(
    ("records", "now", "cause"),
    [
        ([], 1_099, None),
        ([], 1_100, Cause.OFFER_TTL),
        ([start(1, 200)], 699, None),
        ([start(1, 200)], 700, Cause.SILENT),
        ([start(1, 200), seen(State.INSTALLED, 300)], 700, Cause.SILENT_TRIAL),
        ([start(1, 200), seen(State.CONFIRMED, 300)], 10_000, None),
        ([loss(1, State.OFFERED, 300)], 1_100, Cause.OFFER_TTL),
        ([start(1, 200), seen(State.TRIAL, 300), loss(1, State.TRIAL, 400)], 700, Cause.LOG_LOSS),
        ([start(1, 200), loss(1, State.ACCEPTED, 300), seen(State.TRIAL, 400)], 700, Cause.SILENT_TRIAL),
    ],
)
def test_when_and_why_an_attempt_is_overdue(records, now, cause):
    assert overdue(row(*records), now, TTL, DEADLINE) is cause


def test_nothing_falls_due_once_an_attempt_has_ended():
    assert due(row(seen(State.FAILED)), TTL, DEADLINE) is None


def test_only_confirmed_without_any_failure_is_good_for_the_promote_test():
    assert maturity(row(seen(State.CONFIRMED)), 250) == ((0, 0, 1, 0), (1, 1, 0))
    assert maturity(row(seen(State.REVERTED), seen(State.CONFIRMED)), 250) == ((0, 0, 1, 0), (1, 0, 0))
    assert maturity(row(seen(State.ACCEPTED), seen(State.CANCELLED)), 250) == ((0, 0, 1, 0), (1, 0, 1))
    assert maturity(row(), 250) is None


def test_silence_that_a_loss_of_the_log_explains_counts_neither_for_nor_against_the_release():
    unheard = row(start(1, 200), seen(State.TRIAL, 300), loss(1, State.TRIAL, 400))
    assert (unheard.state, unheard.progress, unheard.reason) == (State.UNKNOWN, State.TRIAL, "log_loss")
    expired = observe(unheard, expiry(1, Cause.LOG_LOSS, 700))
    assert (expired.state, expired.failed_at, holds_slot(expired)) == (State.EXPIRED, None, True)
    assert maturity(unheard, 250) == maturity(expired, 250) == ((0, 0, 1, 0), (1, 0, 1))


def test_a_failure_that_was_heard_counts_whatever_was_lost_with_it():
    failed = offered_again(row(seen(State.REVERTED)), Offer(attempt=2, action_id=10, gate_epoch=1, at=900))
    assert maturity(observe(failed, loss(2, State.OFFERED, 950)), 250) == ((0, 0, 1, 0), (1, 0, 0))


@pytest.mark.parametrize(
    ("state", "control", "cancel", "what"),
    [
        (State.OFFERED, CampaignState.RUNNING, False, Shown.DEPLOYMENT),
        (State.OFFERED, CampaignState.PAUSED, False, Shown.NOTHING),
        (State.OFFERED, CampaignState.HALTED, False, Shown.NOTHING),
        (State.DOWNLOADING, CampaignState.PAUSED, False, Shown.DEPLOYMENT),
        (State.DOWNLOADING, CampaignState.HALTED, False, Shown.CANCEL),
        (State.ACCEPTED, CampaignState.ABORTED, False, Shown.CANCEL),
        (State.ACCEPTED, CampaignState.RUNNING, True, Shown.CANCEL),
        (State.INSTALLED, CampaignState.HALTED, True, Shown.DEPLOYMENT),
        (State.TRIAL, CampaignState.ABORTED, False, Shown.DEPLOYMENT),
        (State.CONFIRMED, CampaignState.RUNNING, False, Shown.NOTHING),
        (State.EXPIRED, CampaignState.RUNNING, False, Shown.NOTHING),
    ],
)
def test_what_a_device_is_shown(state, control, cancel, what):
    assert shown(state, control, cancel_requested=cancel) is what


@pytest.mark.parametrize(
    ("progress", "control", "cancel", "what"),
    [
        (State.OFFERED, CampaignState.RUNNING, False, Shown.DEPLOYMENT),
        (State.OFFERED, CampaignState.PAUSED, False, Shown.NOTHING),
        (State.DOWNLOADING, CampaignState.RUNNING, False, Shown.DEPLOYMENT),
        (State.DOWNLOADING, CampaignState.PAUSED, False, Shown.NOTHING),
        (State.DOWNLOADING, CampaignState.HALTED, False, Shown.NOTHING),
        (State.DOWNLOADING, CampaignState.RUNNING, True, Shown.NOTHING),
        (State.TRIAL, CampaignState.HALTED, True, Shown.DEPLOYMENT),
    ],
)
def test_what_a_device_is_shown_that_may_have_gone_on_unheard(progress, control, cancel, what):
    assert shown(State.UNKNOWN, control, cancel_requested=cancel, progress=progress) is what
