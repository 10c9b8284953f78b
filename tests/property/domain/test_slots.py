"""Whose a device's slot is: a function of its rows, of all campaigns, whatever the order in which they became what they are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.assignment import (
    ACTIVE,
    IN_TRIAL,
    Assignment,
    Observation,
    Offer,
    State,
    claim,
    expiry,
    holds_slot,
    loss,
    observe,
    offered,
    offered_again,
    start,
    withdrawn,
)
from orchestrator.domain.retry import ENDED, Backoff, ClassRule, Outcome, PerClass, RetryPolicy, again, stands
from schemas.ledger import Cause

CAMPAIGNS = (1, 2, 3)
TIMES = st.integers(1_000, 1_020)
CAUSES = st.sampled_from([Cause.HALTED, Cause.ABORTED, Cause.SUPERSEDED])
REPORTS = [state for state in State if state not in {State.OFFERED, State.UNKNOWN, State.EXPIRED, State.SUPERSEDED}]
GENEROUS = RetryPolicy(
    max_attempts=10,
    backoff=Backoff(),
    per_class=PerClass(**{str(each): ClassRule(max_attempts=10) for each in Outcome}),
)


def said(state: State, at: int, failure_class: str | None = None) -> Observation:
    return Observation(attempt=1, state=state, at=at, failure_class=failure_class, gate_epoch=1)


reports = st.builds(said, st.sampled_from(REPORTS), TIMES, st.sampled_from([None, "boot", "transport"]))
records = st.one_of(
    reports,
    st.builds(start, st.just(1), TIMES),
    st.builds(expiry, st.just(1), st.sampled_from([Cause.OFFER_TTL, Cause.SILENT, Cause.SILENT_TRIAL]), TIMES),
    st.builds(loss, st.just(1), st.sampled_from([State.OFFERED, State.TRIAL]), TIMES),
    st.tuples(CAUSES, TIMES),
    st.builds(Offer, attempt=st.just(2), action_id=st.integers(10, 20), gate_epoch=st.just(1), at=TIMES),
)
histories = st.lists(st.tuples(st.sampled_from(CAMPAIGNS), records), max_size=15)


def changed(row: Assignment, record: Observation | Offer | tuple[Cause, int]) -> Assignment:
    if isinstance(record, Offer):
        # Action ids are given once: campaigns never share one.
        own = Offer(attempt=2, action_id=record.action_id * 10 + row.campaign_no, gate_epoch=1, at=record.at)
        return offered_again(row, own)
    return observe(row, record) if isinstance(record, Observation) else withdrawn(row, 1, *record)


def first(campaign: int) -> Assignment:
    return offered(campaign, 7, 0, 0, Offer(attempt=1, action_id=campaign, gate_epoch=1, at=500))


def owner(rows: dict[int, Assignment]) -> int | None:
    claims = {claimed: no for no, row in rows.items() if (claimed := claim(row)) is not None}
    assert len(claims) == sum(map(holds_slot, rows.values()))  # no two are equal
    return claims[max(claims)] if claims else None


@given(histories)
def test_the_slot_is_free_or_of_a_row_that_holds_it_and_in_trial_goes_first(items):
    rows = {no: first(no) for no in CAMPAIGNS}
    for no, record in items:
        rows[no] = changed(rows[no], record)
        whose = owner(rows)
        assert (whose is None) == (not any(map(holds_slot, rows.values())))
        if any(holds_slot(row) and row.progress in IN_TRIAL for row in rows.values()):
            assert whose is not None
            assert rows[whose].progress in IN_TRIAL


@given(histories)
def test_a_slot_changes_hands_only_where_a_claim_changes_and_a_raised_one_never_takes_it_from_its_own_row(items):
    rows = {no: first(no) for no in CAMPAIGNS}
    for no, record in items:
        whose, before = owner(rows), claim(rows[no])
        rows[no] = changed(rows[no], record)
        after = claim(rows[no])
        if before == after:
            assert owner(rows) == whose
        elif before is not None and after is not None and before < after:
            assert owner(rows) in {whose, no}  # so nothing has to be looked at where it is the row's own


@given(histories, st.randoms(use_true_random=False))
def test_any_order_of_the_records_gives_the_slot_to_the_same_campaign(items, random):
    told = [(no, record) for no, record in items if not isinstance(record, Offer)]
    shuffled = list(told)
    random.shuffle(shuffled)
    ends: list[int | None] = []
    for order in (told, shuffled):
        rows = {no: first(no) for no in CAMPAIGNS}
        for no, record in order:
            rows[no] = changed(rows[no], record)
        ends.append(owner(rows))
    assert ends[0] == ends[1]


@given(st.lists(reports, max_size=6), TIMES)
def test_a_device_that_was_taken_over_is_its_older_campaigns_only_in_trial_and_never_again(items, at):
    row = withdrawn(first(1), 1, Cause.SUPERSEDED, at)
    assert (row.state, claim(row)) == (State.SUPERSEDED, None)
    for record in items:
        row = observe(row, record)
        assert row.state not in ACTIVE
        assert holds_slot(row) == (row.state is State.SUPERSEDED and row.progress in IN_TRIAL)
        # Whatever it ends in, and however generous the plan is.
        assert again(GENEROUS, row, 2_000, 1) is None
        assert not stands(GENEROUS, row)


def test_without_a_takeover_such_a_plan_tries_every_such_end_again():
    """What the test before this one leans on."""
    for state in ENDED - {State.EXPIRED}:
        assert again(GENEROUS, observe(first(1), said(state, 1_000, "boot")), 2_000, 1) is not None
