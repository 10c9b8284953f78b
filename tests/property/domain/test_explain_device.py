"""Devices: who is no member is told why exactly where the selection leaves it out, and nobody is left without an answer."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.assignment import Assignment, State
from orchestrator.domain.campaign import CampaignState
from orchestrator.domain.explain.device import Entry, Holder, Seat, Subject, explain_device
from orchestrator.domain.plan import parse_plan
from orchestrator.domain.query import failing, matches, parse
from orchestrator.domain.selection import Target, select
from tests.support.world import plan

T0 = 1_790_000_000_000
NO_MEMBER = {"model", "excluded", "not_included", "selector", "current"}
TARGET = Target(version="2.0", artifacts={"aa": "d1", "bb": "d2"})
IDS = ("d1", "d2", "d3")
SELECTORS = (
    None,
    "attribute.region=in=(eu,us)",
    "attribute.region==eu;version=lt=2.0",
    "attribute.region==eu,(version=ge=2.0;attribute.ring!=late)",
    "attribute.battery=gt=50 or hardware_model==b*",
    "attribute.ring=exists=false",
)
subjects = st.builds(
    Subject,
    device_id=st.sampled_from(IDS),
    hardware_model=st.sampled_from(("aa", "bb", "cc")),
    version=st.none() | st.sampled_from(("1.9", "2.0", "dev")),
    digest=st.none() | st.sampled_from(("d1", "d0")),
    outdated=st.booleans(),
    attributes=st.fixed_dictionaries(
        {},
        optional={
            "region": st.sampled_from(("eu", "us", "cn")),
            "ring": st.sampled_from(("early", "late")),
            "battery": st.sampled_from(("7", "90", "full")),
        },
    ),
    registered_at=st.integers(T0 - 5, T0 + 5),
)
cohorts = st.fixed_dictionaries(
    {"selector": st.sampled_from(SELECTORS), "hardware_models": st.sampled_from(((), ("aa",), ("aa", "bb")))},
    optional={"include": st.just(("d1", "d2")), "exclude": st.just(("d3",))},
)


class Candidate(Subject, frozen=True, kw_only=True):
    device_no: int = 1


def seat(device: Subject, cohort: dict[str, Any], **more: Any) -> Seat:
    base: dict[str, Any] = {
        "device": device,
        "now": T0,
        "campaign_id": "cmp_1",
        "state": CampaignState.RUNNING,
        "phase": 0,
        "enrolled": True,
        "plan": parse_plan(plan(cohort=cohort)),
        "target": TARGET,
        "counted_at": T0,
    }
    return Seat(**base | more)


@given(subjects, cohorts)
def test_a_device_is_told_why_it_is_no_member_exactly_where_the_selection_leaves_it_out(device, cohort):
    asked = seat(device, cohort)
    candidate = Candidate(**{name: getattr(device, name) for name in device.__struct_fields__})
    chosen = any(select(asked.plan, [candidate], TARGET))
    told = {each.code.removeprefix("why.device.") for each in explain_device(asked)} & NO_MEMBER
    assert bool(told) != chosen


@given(subjects, st.sampled_from([text for text in SELECTORS if text]))
def test_a_comparison_fails_exactly_where_the_selector_does_not_match(device, text):
    query = parse(text)
    parts = failing(query, device)
    assert bool(parts) != matches(query, device)
    for part in parts:
        assert not matches(parse(part.comparison), device)


rows = st.builds(
    Assignment,
    campaign_no=st.just(1),
    device_no=st.just(1),
    phase=st.just(0),
    stratum=st.just(0),
    attempt=st.integers(1, 3),
    action_id=st.just(1),
    gate_epoch=st.just(1),
    offered_at=st.just(T0),
    state=st.sampled_from(State),
    progress=st.sampled_from((State.OFFERED, State.DOWNLOADING, State.TRIAL)),
    started_at=st.none() | st.just(T0),
)
entries = st.builds(
    Entry, phase=st.integers(0, 1), rank=st.just(0), attempt=st.integers(1, 2), not_before=st.integers(T0 - 1, T0 + 1)
)


@given(
    subjects,
    cohorts,
    st.none() | rows,
    st.none() | entries,
    st.none() | rows,
    st.sampled_from(CampaignState),
    st.booleans(),
    st.sampled_from((None, -1, 0)),
)
def test_nobody_is_left_without_an_answer(device, cohort, row, entry, other, state, enrolled, phase):
    holder = None if other is None else Holder(campaign_id="cmp_2", row=other)
    asked = seat(
        device, cohort, row=row, entry=entry, holder=holder, state=state, enrolled=enrolled, phase_enrolled=phase
    )
    found = explain_device(asked)
    assert found
    assert all(each.detail for each in found)
    if asked.member:
        assert found[0].code.removeprefix("why.device.") not in NO_MEMBER
