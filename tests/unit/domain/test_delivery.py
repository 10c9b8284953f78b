"""What an assignment says about the infrastructure, and where it is filed."""

from __future__ import annotations

import pytest

from orchestrator.domain import breaker as b
from orchestrator.domain.assignment import Observation, Offer, State, expiry, observe, offered, offered_again, start
from orchestrator.domain.delivery import delivered, delivery
from schemas.ledger import Cause

OFFER = Offer(attempt=1, action_id=7, gate_epoch=1, at=1_000)


def row(*seen: Observation):
    made = offered(1, 2, 0, 0, OFFER)
    for item in seen:
        made = observe(made, item)
    return made


def said(state: State, failure_class: str | None = None, at: int = 2_000) -> Observation:
    return Observation(attempt=1, state=state, at=at, failure_class=failure_class)


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        ([], None),
        ([start(1, 1_500)], None),
        ([said(State.DOWNLOADING)], None),
        ([said(State.INSTALLED)], "delivered"),
        ([said(State.TRIAL)], "delivered"),
        ([said(State.CONFIRMED)], "delivered"),
        ([said(State.REVERTED, "boot")], "delivered"),
        ([said(State.FAILED, "transport")], "transport"),
        ([said(State.FAILED, "integrity")], "integrity"),
        ([said(State.FAILED, "compatibility")], "delivered"),
        ([said(State.FAILED)], "delivered"),
        ([said(State.FAILED, "operator")], None),
        ([said(State.REJECTED)], None),
        ([said(State.CANCELLED)], None),
        ([said(State.NOT_APPLICABLE)], None),
        ([start(1, 1_500), expiry(1, Cause.SILENT, 9_000)], "silence"),
        ([said(State.TRIAL), expiry(1, Cause.SILENT_TRIAL, 9_000)], "delivered"),
        ([expiry(1, Cause.OFFER_TTL, 9_000)], None),
        ([start(1, 1_500), expiry(1, Cause.LOG_LOSS, 9_000)], None),
    ],
)
def test_outcome_of_a_row(seen, outcome):
    found = row(*seen)
    assert delivered(found) == outcome
    assert delivery(found, 500) == (None if outcome is None else (found.changed_at // 500, outcome))
    assert delivery(found, None) is None


def test_a_further_attempt_takes_back_what_the_earlier_one_said():
    failed = row(said(State.FAILED, "transport"))
    again = offered_again(failed, Offer(attempt=2, action_id=9, gate_epoch=1, at=3_000))
    assert delivered(again) is None


@pytest.mark.parametrize(
    ("seen", "heard", "outcome"),
    [
        ([], 10**9, None),
        ([start(1, 1_500)], 2_499, None),
        ([start(1, 1_500)], 2_500, "silence"),
        ([said(State.INSTALLED)], 0, "delivered"),
        ([said(State.FAILED, "integrity")], 0, "integrity"),
        ([said(State.CANCELLED)], 0, ""),
        ([expiry(1, Cause.OFFER_TTL, 9_000)], 0, ""),
    ],
)
def test_outcome_of_a_probe(seen, heard, outcome):
    assert b.probe_outcome(row(*seen), 1, heard, 1_000) == outcome


def test_a_probe_that_was_offered_again_had_failed():
    again = offered_again(row(), Offer(attempt=2, action_id=9, gate_epoch=1, at=3_000))
    assert b.probe_outcome(again, 1, 0, 1_000) == "transport"
