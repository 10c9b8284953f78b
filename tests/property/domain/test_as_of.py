"""A moment's state is what folding the records up to it gives, by the domain's fold and by the highest place alike."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.as_of import Member, Ran, Released, Reported, Source, folded, place, ran, state_at
from orchestrator.domain.assignment import (
    RANK,
    SEEN,
    Observation,
    Offer,
    State,
    loss,
    observe,
    offered,
    offered_again,
)

MEMBER = Member(campaign_no=1, device_no=2, phase=0, stratum=3)
STATES = [state for state in RANK if state is not State.OFFERED]

records = st.lists(
    st.one_of(
        st.builds(
            lambda attempt, state, at, blame: Observation(attempt=attempt, state=state, at=at, failure_class=blame),
            st.integers(1, 3),
            st.sampled_from(STATES),
            st.integers(1, 40),
            st.sampled_from([None, "boot", "transport"]),
        ),
        st.builds(loss, st.integers(1, 3), st.sampled_from(sorted(SEEN)), st.integers(1, 40)),
    ),
    max_size=12,
)
attempts = st.integers(1, 3)


def offers(count: int) -> list[Offer]:
    return [Offer(attempt=i, action_id=i, gate_epoch=1, at=i) for i in range(1, count + 1)]


def of(attempts: int, said: list[Observation]) -> list[Observation]:
    return [record for record in said if record.attempt <= attempts]


@given(attempts, records, st.randoms(use_true_random=False))
def test_the_order_in_which_records_are_given_does_not_matter(count, said, dice):
    told, made = list(said), offers(count)
    dice.shuffle(told)
    dice.shuffle(made)
    assert folded(MEMBER, made, told) == folded(MEMBER, offers(count), said)


@given(attempts, records, st.integers(0, 40))
def test_it_is_the_live_row_of_the_records_up_to_the_moment(count, said, moment):
    until = [record for record in of(count, said) if record.at <= moment]
    live = offered(1, 2, 0, 3, offers(1)[0])
    for offer in offers(count):  # as a live row would see them: every offer before what is said of it
        live = offered_again(live, offer)
        for record in until:
            if record.attempt == offer.attempt:
                live = observe(live, record)
    assert folded(MEMBER, offers(count), [record for record in said if record.at <= moment]) == live


@given(attempts, records)
def test_the_highest_place_is_the_state_of_the_fold(count, said):
    places = [place(offer.attempt, State.OFFERED) for offer in offers(count)]
    places += [place(record.attempt, record.state, record.progress) for record in of(count, said)]
    row = folded(MEMBER, offers(count), said)
    assert row is not None
    # The fold shows as unknown also what is raised beyond it by rank only; both must name the same state.
    assert state_at(max(places)) is row.state
    assert max(places) // place(1, State.OFFERED) >= 1
    assert folded(MEMBER, [], said) is None


OLD = Released(release_id="rel_1", version="1.0", digest="d1")
NEW = Released(release_id="rel_2", version="2.0", digest="d2")
KNOWN = {"d1": OLD, "d2": NEW}
reports = st.builds(
    lambda version, version_at, digest, digest_at: Reported(
        version=version,
        version_at=version_at if version else 0,
        digest=digest,
        digest_at=digest_at if digest else 0,
    ),
    st.sampled_from([None, "1.0", "2.0", "3.0"]),
    st.integers(1, 9),
    st.sampled_from([None, "d1", "d2", "d3"]),
    st.integers(1, 9),
)


@given(reports, st.integers(0, 9))
def test_what_was_reported_before_the_confirmation_does_not_count(report, moment):
    news = report.after(moment)
    assert news.version is None or news.version_at > moment
    assert news.digest is None or news.digest_at > moment
    if max(report.version_at, report.digest_at) <= moment:
        assert ran(NEW, news, KNOWN) == ran(NEW, Reported(), KNOWN)


@given(st.sampled_from([None, OLD, NEW]), reports)
def test_the_answer_is_one_of_what_was_said(confirmed, report):
    found = ran(confirmed, report, KNOWN)
    match found.source:
        case Source.CONFIRMED:
            assert confirmed is not None
            assert found.release_id == confirmed.release_id
            assert report.version in {None, confirmed.version}
        case Source.UNKNOWN:
            assert (confirmed, report.version, report.digest) == (None, None, None)
        case Source.REPORTED:
            assert found.digest in {None, report.digest}
            assert found.release_id == (KNOWN[found.digest].release_id if found.digest in KNOWN else None)


def test_later_reports_overrule_and_reports_that_agree_do_not():
    confirmed = Ran(source=Source.CONFIRMED, release_id="rel_2", version="2.0", digest="d2")
    assert ran(NEW, Reported(), KNOWN) == confirmed
    assert ran(NEW, Reported(version="2.0", version_at=5), KNOWN) == confirmed
    assert ran(NEW, Reported(digest="d2", digest_at=5), KNOWN) == confirmed
    assert ran(NEW, Reported(version="1.0", version_at=5), KNOWN) == Ran(source=Source.REPORTED, version="1.0")
    reverted = ran(NEW, Reported(digest="d1", digest_at=5), KNOWN)
    assert (reverted.source, reverted.release_id, reverted.version) == (Source.REPORTED, "rel_1", "1.0")
    # A digest that is older than the version and belongs to another one says nothing any more.
    stale = Reported(version="3.0", version_at=9, digest="d1", digest_at=2)
    assert ran(None, stale, KNOWN) == Ran(source=Source.REPORTED, version="3.0")
    assert ran(None, Reported(), KNOWN) == Ran(source=Source.UNKNOWN)
