"""What owners want is honoured unless the plan overrides it, and each word does what it says and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.domain.owner import (
    NOTHING_SAID,
    OwnerPolicy,
    PostponementError,
    Reason,
    StateWill,
    Will,
    WillError,
    decide,
    evolve,
    fold,
    withheld,
)
from schemas.owner_events import Consent

NOW = 1_000_000
LONGEST = 500_000
times = st.integers(NOW - 1_000, NOW + LONGEST)
consents = st.lists(
    st.builds(Consent, release_id=st.sampled_from(["rel_1", "rel_2"]), until=st.none() | times)
    | st.builds(Consent, campaign_id=st.sampled_from(["cmp_1", "cmp_2"]), until=st.none() | times),
    max_size=3,
    unique_by=lambda consent: (consent.release_id, consent.campaign_id),
).map(tuple)
wills = st.builds(
    Will, version=st.just(1), opted_out=st.booleans(), postponed_until=st.none() | times, consents=consents
)
kept = st.sampled_from(["honoured", "overridden"])
policies = st.builds(
    lambda consent, opt_out, postpone: OwnerPolicy(consent=consent, opt_out=opt_out, postpone=postpone, reason="why"),
    st.sampled_from(["required", "not_required"]),
    kept,
    kept,
)


def asked(policy: OwnerPolicy, will: Will, *, meets: bool = True, now: int = NOW):
    return withheld(policy, will, "rel_1", "cmp_1", meets_preconditions=meets, now=now)


def stated(will: Will, **changes: Any) -> StateWill:
    said: dict[str, Any] = {
        "opted_out": will.opted_out,
        "postponed_until": will.postponed_until,
        "consents": will.consents,
    }
    about = {"device_no": 1, "device_id": "d1", "reason": "r", "on_behalf_of": None, "actor": "ann", "at": NOW}
    return StateWill(**{**said, **about, **changes})


@given(policies, wills, st.booleans())
def test_a_device_is_withheld_exactly_if_something_forbids_it(policy, will, meets):
    agrees = any(
        (c.release_id == "rel_1" or c.campaign_id == "cmp_1") and (c.until is None or c.until > NOW)
        for c in will.consents
    )
    forbids = {
        Reason.OPTED_OUT: will.opted_out and policy.opt_out == "honoured",
        Reason.POSTPONED: (will.postponed_until or 0) > NOW and policy.postpone == "honoured",
        Reason.CONSENT: policy.consent == "required" and not agrees,
        Reason.PRECONDITIONS: not meets,
    }
    found = asked(policy, will, meets=meets)
    assert (found is not None) == any(forbids.values())
    assert found is None or forbids[found.why]


@given(policies, wills, st.booleans(), st.integers(NOW, NOW + 10 * LONGEST))
def test_no_time_ends_an_opt_out_or_stands_for_a_consent(policy, will, meets, later):
    before, after = asked(policy, will, meets=meets), asked(policy, will, meets=meets, now=later)
    if before is not None and before.why is not Reason.POSTPONED:
        assert after is not None
    if before is None:
        assert after is None or after.why is Reason.CONSENT  # one may have ended


@given(policies, wills, st.booleans())
def test_it_is_looked_at_again_later_and_of_a_postponement_at_its_end(policy, will, meets):
    found = asked(policy, will, meets=meets)
    if found is None:
        return
    assert found.look_again(NOW) > NOW
    if found.why is Reason.POSTPONED:
        assert found.look_again(NOW) == will.postponed_until
        again = asked(policy, will, meets=meets, now=found.look_again(NOW))
        assert again is None or again.why is not Reason.POSTPONED


@given(policies, wills, st.booleans())
def test_overriding_and_consenting_never_withhold_more(policy, will, meets):
    if asked(policy, will, meets=meets) is None:
        freer = OwnerPolicy(consent="not_required", opt_out="overridden", postpone="overridden", reason="why")
        assert asked(freer, will, meets=meets) is None
        agreeing = replace(will, consents=(*will.consents, Consent(campaign_id="cmp_1")))
        assert asked(policy, agreeing, meets=meets) is None


@given(wills, wills)
def test_what_was_stated_holds_and_stating_it_again_is_no_event(before, after):
    if after.postponed_until is not None and after.postponed_until <= NOW:
        after = replace(after, postponed_until=before.postponed_until)
    events = decide(before, stated(after), LONGEST)
    will = before
    for event in events:
        will = evolve(will, event)
    assert (will.opted_out, will.postponed_until) == (after.opted_out, after.postponed_until)
    assert set(will.consents) == set(after.consents)
    assert decide(will, stated(after), LONGEST) == []
    assert will.version == before.version + len(events)


@given(st.lists(wills, max_size=4))
def test_the_last_statement_is_what_holds(said):
    events = [decide(replace(NOTHING_SAID, version=-1), stated(w, opted_out=True, at=0), 10**9)[0] for w in said]
    assert fold(events) == (
        evolve(replace(NOTHING_SAID, version=len(events) - 1), events[-1]) if events else NOTHING_SAID
    )


@pytest.mark.parametrize("until", [NOW, NOW - 1, NOW + LONGEST + 1])
def test_a_postponement_is_ahead_and_bounded(until):
    with pytest.raises(PostponementError):
        decide(NOTHING_SAID, stated(NOTHING_SAID, postponed_until=until), LONGEST)
    # What holds already may be stated again with something else.
    held = Will(version=1, postponed_until=until)
    assert decide(held, stated(held, opted_out=True), LONGEST)[0].postponed_until == until


@pytest.mark.parametrize(
    "wrong",
    [
        (Consent(),),
        (Consent(release_id="r", campaign_id="c"),),
        (Consent(release_id="r"), Consent(release_id="r", until=NOW + 1)),
        tuple(Consent(release_id=f"r{n}") for n in range(101)),
    ],
)
def test_a_consent_names_one_thing_once(wrong):
    with pytest.raises(WillError):
        decide(NOTHING_SAID, stated(NOTHING_SAID, consents=wrong), LONGEST)
