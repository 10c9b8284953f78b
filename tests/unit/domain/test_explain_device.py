"""Devices: what comes before what, where several things hold at once."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.domain.assignment import Assignment, State
from orchestrator.domain.campaign import CampaignState
from orchestrator.domain.explain import Condition, FullPlace
from orchestrator.domain.explain.device import DEVICE_CONDITIONS, Entry, Holder, Seat, Subject, explain_device
from orchestrator.domain.owner import Reason, Withheld
from orchestrator.domain.plan import parse_plan
from orchestrator.domain.selection import Target
from orchestrator.domain.visibility import Shown
from orchestrator.domain.window import Closed, Shut
from tests.support.world import T0, plan

DEVICE = Subject(
    device_id="d1",
    hardware_model="aa",
    version="1.0",
    attributes={"battery": "7"},
    registered_at=T0 - 9,
    last_seen_at=T0,
)
PLAN = parse_plan(plan(preconditions="attribute.battery=gt=50;hardware_model==aa"))
ROW = Assignment(
    campaign_no=1, device_no=1, phase=0, stratum=0, attempt=1, action_id=1, gate_epoch=1, offered_at=T0, changed_at=T0
)
ENTRY = Entry(phase=0, rank=3, attempt=1, not_before=0)
LATER = Entry(phase=0, rank=3, attempt=1, not_before=T0 + 9)


def row(**changes: Any) -> Assignment:
    return Assignment(**{name: getattr(ROW, name) for name in ROW.__struct_fields__} | changes)


TRIAL = row(campaign_no=2, action_id=2, state=State.TRIAL)


def seat(**more: Any) -> Seat:
    base: dict[str, Any] = {
        "device": DEVICE,
        "now": T0,
        "campaign_id": "cmp_1",
        "state": CampaignState.RUNNING,
        "phase": 0,
        "enrolled": True,
        "plan": PLAN,
        "target": Target("2.0", {"aa": "ff"}),
        "counted_at": T0,
    }
    return Seat(**base | more)


CASES: list[tuple[str, dict[str, Any]]] = [
    ("model", {"target": Target("2.0", {"bb": "ff"})}),
    ("excluded", {"plan": parse_plan(plan(cohort={"exclude": ["d1"]}))}),
    ("not_included", {"plan": parse_plan(plan(cohort={"include": ["d2"]}))}),
    ("selector", {"plan": parse_plan(plan(cohort={"selector": "version==2.0"}))}),
    ("current", {"target": Target("1.0", {"aa": "ff"})}),
    ("late", {"counted_at": T0 - 10}),
    ("not_enrolled", {"enrolled": False}),
    ("not_taken_up", {}),
    ("held_back", {"phase_enrolled": -1}),
    ("superseded", {"row": row(state=State.SUPERSEDED)}),
    ("in_trial", {"entry": ENTRY, "holder": Holder(campaign_id="cmp_2", row=TRIAL)}),
    ("cancelling", {"row": row(cancel_requested_at=T0, started_at=T0, state=State.ACCEPTED)}),
    ("started", {"row": row(started_at=T0, state=State.DOWNLOADING), "withheld": Withheld(Reason.OPTED_OUT, None)}),
    ("withheld", {"row": row(), "withheld": Withheld(Reason.OPTED_OUT, None)}),
    ("withheld", {"entry": ENTRY, "withheld": Withheld(Reason.PRECONDITIONS, None)}),
    ("jitter", {"row": row(), "starts_at": T0 + 5}),
    ("offered", {"row": row(), "shown": Shown.DEPLOYMENT}),
    ("ended", {"row": row(state=State.FAILED, failure_class="boot")}),
    ("over", {"entry": ENTRY, "state": CampaignState.ABORTED}),
    ("stratum_halted", {"entry": ENTRY, "stratum_halted": "C"}),
    ("busy", {"entry": ENTRY, "holder": Holder(campaign_id="cmp_2", row=row(state=State.DOWNLOADING))}),
    ("phase", {"entry": Entry(phase=1, rank=0, attempt=1, not_before=0)}),
    ("outranked", {"entry": ENTRY, "outranked": ("cmp_9",)}),
    ("window", {"entry": LATER, "shut": Shut(Closed.WINDOW, T0 + 9, "Outside its windows.")}),
    ("budget", {"entry": LATER, "full": FullPlace(label="l", value="v", limit=1, in_flight=1, waiting=1)}),
    ("retry", {"row": row(state=State.EXPIRED), "entry": Entry(phase=0, rank=3, attempt=2, not_before=T0 + 9)}),
    ("put_off", {"entry": LATER}),
    ("campaign", {"entry": ENTRY, "campaign": Condition(code="why.paused", detail="Paused.")}),
    ("queued", {"entry": ENTRY}),
    ("left", {"phase_enrolled": 0}),
]


@pytest.mark.parametrize(("code", "changes"), CASES)
def test_a_condition_is_the_first_where_it_holds(code, changes):
    assert explain_device(seat(**changes))[0].code == f"why.device.{code}"


def test_every_code_has_a_case_in_the_order_of_the_table():
    assert list(dict.fromkeys(f"why.device.{code}" for code, _ in CASES)) == [rule.code for rule in DEVICE_CONDITIONS]


def test_preconditions_that_are_not_met_are_named():
    found = explain_device(seat(entry=ENTRY, withheld=Withheld(Reason.PRECONDITIONS, None)))[0]
    assert found.data["failing"] == [
        {"comparison": "attribute.battery=gt='50'", "field": "attribute.battery", "found": "7"}
    ]


def test_what_would_hold_next_stands_below():
    found = explain_device(
        seat(entry=LATER, outranked=("cmp_9",), campaign=Condition(code="why.paused", detail="Paused."))
    )
    assert [each.code.removeprefix("why.device.") for each in found] == ["outranked", "put_off", "campaign"]


def test_a_late_device_joins_a_campaign_that_is_open_to_it_and_no_other():
    late, taken = plan(), {"membership": "continuous", "max_members": 500}
    found = [
        explain_device(seat(counted_at=T0 - 10, plan=parse_plan(each)))[0].remedy
        for each in (late, late | {"cohort": late["cohort"] | taken})
    ]
    assert "later campaign" in (found[0] or "")
    assert "It joins" in (found[1] or "")
