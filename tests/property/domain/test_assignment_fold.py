"""The fold is a join: order and repetition of records, of both logs, change nothing."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.assignment import (
    ACTIVE,
    IN_TRIAL,
    RANK,
    SEEN,
    Assignment,
    Observation,
    Offer,
    State,
    cancel_requested,
    contributions,
    expiry,
    holds_slot,
    loss,
    maturity,
    observe,
    offered,
    offered_again,
    standing,
    start,
    withdrawal,
)
from schemas.ledger import Cause

ATTEMPTS = (1, 2, 3)
EPOCHS = {1: 1, 2: 1, 3: 2}
TIMES = st.integers(1_000, 1_020)

reports = st.builds(
    Observation,
    attempt=st.sampled_from(ATTEMPTS),
    state=st.sampled_from([state for state in State if state not in {State.OFFERED, State.UNKNOWN}]),
    at=TIMES,
    failure_class=st.sampled_from([None, "boot", "health", "transport", "integrity"]),
    reason=st.sampled_from([None, "a", "b"]),
)
decisions = st.one_of(
    st.builds(start, st.sampled_from(ATTEMPTS), TIMES),
    st.builds(
        expiry,
        st.sampled_from(ATTEMPTS),
        st.sampled_from([Cause.OFFER_TTL, Cause.SILENT, Cause.SILENT_TRIAL, Cause.LOG_LOSS]),
        TIMES,
    ),
    st.builds(loss, st.sampled_from(ATTEMPTS), st.sampled_from(sorted(SEEN)), TIMES),
    st.builds(
        withdrawal, st.sampled_from(ATTEMPTS), st.sampled_from([Cause.HALTED, Cause.ABORTED, Cause.SUPERSEDED]), TIMES
    ),
)
cancels = st.tuples(st.just("cancel"), st.sampled_from(ATTEMPTS), TIMES)
records = st.lists(st.one_of(reports, decisions, cancels), max_size=12)

OFFERS = {n: Offer(attempt=n, action_id=100 + n, gate_epoch=EPOCHS[n], at=500 + n) for n in ATTEMPTS}


def fold(items: list) -> Assignment:
    """Apply in the order given; an attempt's offer comes before the first record of that attempt."""
    row = offered(1, 7, 0, 0, OFFERS[1])
    for item in items:
        attempt = item[1] if isinstance(item, tuple) else item.attempt
        row = offered_again(row, OFFERS[attempt])
        if isinstance(item, tuple):
            row = cancel_requested(row, attempt, item[2])
        else:
            known = Observation(
                attempt=item.attempt,
                state=item.state,
                at=item.at,
                failure_class=item.failure_class,
                reason=item.reason,
                gate_epoch=EPOCHS[item.attempt],
                progress=item.progress,
            )
            row = observe(row, known)
    return offered_again(row, OFFERS[3])


@given(records, st.randoms(use_true_random=False))
def test_any_order_gives_the_same_row(items, random):
    shuffled = list(items)
    random.shuffle(shuffled)
    assert fold(shuffled) == fold(items)


@given(records, st.data())
def test_repeating_records_changes_nothing(items, data):
    again = data.draw(st.lists(st.sampled_from(items), max_size=6)) if items else []
    assert fold(items + again) == fold(items)


@given(records)
def test_counters_of_a_row_are_one_state_and_at_most_one_start_and_one_failure(items):
    row = fold(items)
    kinds = Counter(kind for kind, *_ in contributions(row))
    assert kinds["state"] == 1
    assert kinds["started"] == int(row.first_started_at is not None)
    assert kinds["failed"] <= kinds["started"]
    assert (maturity(row, 250) is None) == (row.first_started_at is None)


@given(records)
def test_a_release_failure_is_never_forgotten(items):
    failing = [
        item
        for item in items
        if isinstance(item, Observation)
        and (
            item.state is State.REVERTED
            or (item.state is State.FAILED and item.failure_class not in {"transport", "integrity"})
            or item.failure_class == "silence"
        )
    ]
    row = fold(items)
    assert (row.failed_at is not None) == bool(failing)
    if failing:
        assert row.failed_at == min(item.at for item in failing)


@given(records, reports)
def test_the_state_of_an_attempt_only_rises(items, more):
    row = fold(items)
    after = observe(row, more)
    assert standing(after.state, after.progress) >= standing(row.state, row.progress)


@given(records)
def test_a_slot_is_held_exactly_in_flight_or_in_an_unresolved_trial(items):
    row = fold(items)
    unresolved = row.state in {State.EXPIRED, State.SUPERSEDED} and row.progress in IN_TRIAL
    assert holds_slot(row) == (row.state in ACTIVE or unresolved)


@given(records, st.sampled_from(sorted(SEEN)), TIMES)
def test_a_loss_leaves_a_device_unknown_exactly_until_it_says_more_than_was_known(items, progress, at):
    items = [*items, loss(3, progress, at)]
    own = [item for item in items if isinstance(item, Observation) and item.attempt == 3]
    known = max((RANK[item.state] for item in own if item.state is not State.UNKNOWN), default=RANK[State.OFFERED])
    lost = max(RANK[item.progress] for item in own if item.state is State.UNKNOWN)
    assert (fold(items).state is State.UNKNOWN) == (known <= lost)


@given(records, st.sampled_from(ATTEMPTS), st.sampled_from(sorted(SEEN)), TIMES)
def test_a_loss_counts_no_start_and_no_failure(items, attempt, progress, at):
    before, after = fold(items), fold([*items, loss(attempt, progress, at)])
    assert [key for key in contributions(after) if key[0] != "state"] == [
        key for key in contributions(before) if key[0] != "state"
    ]
