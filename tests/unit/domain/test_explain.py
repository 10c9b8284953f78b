"""The table of conditions: each is found where it holds, in the order that is promised, and every code stands on the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from orchestrator.domain.brake import Brake
from orchestrator.domain.breaker import Breaker, Cause, Stage
from orchestrator.domain.campaign import Campaign, CampaignState, PhaseState
from orchestrator.domain.explain import (
    CONDITIONS,
    MOVING,
    Evidence,
    Flow,
    FullPlace,
    Line,
    Oldest,
    Stop,
    View,
    explain,
)
from orchestrator.domain.explain.device import DEVICE_CONDITIONS
from orchestrator.domain.plan import parse_plan
from orchestrator.domain.window import Closed, Shut
from schemas.campaign_events import CampaignHalted, HoldOutlasted
from tests.support.world import plan as raw_plan

T0 = 1_790_000_000_000
PHASES = [
    {
        "name": "canary",
        "percent": 2.0,
        "soak": "1h",
        "soak_devices": 5,
        "approval": True,
        "external": [{"name": "lab"}],
        "promote": {"p1": 0.1, "beta": 0.05},
        "rate": {"per_minute": 60},
    },
    {"name": "rest", "percent": 100.0, "soak": "5s"},
]
PLAN = parse_plan(raw_plan(phases=PHASES)).canonical()
RUNNING = Campaign(
    campaign_id="cmp_1",
    author="ann",
    plan=PLAN,
    state=CampaignState.RUNNING,
    enrolled=True,
    gate_epoch=1,
    phase=0,
    phase_state=PhaseState.SOAKING,
    soak_until=T0 - 1,
    soak_ended_at=T0 - 1,
    phase_approvals=(0,),
)
GIVEN = replace(RUNNING, plan=PLAN | {"phases": [PLAN["phases"][0] | {"external": []}, PLAN["phases"][1]]})
QUIET = View(campaign=GIVEN, now=T0, evidence=Evidence(matured=100), flow=Flow(cap=60))
LINE = Line(queued=3, ready=3, looked_at=3)
HALT = CampaignHalted(
    by="gate", reason="3 of 20 failed.", phase=0, gate_epoch=1, ledger_position=9, rule="r", n=20, f=3, bound=3
)


def campaign(**changes: Any) -> dict[str, Any]:
    return {"campaign": replace(GIVEN, **changes)}


OPEN = {"phase_state": PhaseState.OPEN, "soak_until": None, "soak_ended_at": None}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("why.draft", campaign(state=CampaignState.DRAFT, enrolled=False, phase=-1)),
    ("why.submitted", campaign(state=CampaignState.SUBMITTED, enrolled=False, phase=-1)),
    ("why.quarantine", campaign(state=CampaignState.APPROVED, phase=-1) | {"release_halted_in": ("cmp_0",)}),
    (
        "why.not_launched",
        campaign(state=CampaignState.APPROVED, phase=-1, release_halts=1) | {"release_halted_in": ("cmp_0",)},
    ),
    ("why.aborted", campaign(state=CampaignState.ABORTED)),
    ("why.fleet_stopped", {"fleet": Stop(by="eve", reason="smoke")}),
    ("why.halted", campaign(state=CampaignState.HALTED, halt=HALT)),
    ("why.paused", campaign(state=CampaignState.PAUSED)),
    ("why.breaker.open", campaign(breaker=Breaker(stage=Stage.OPEN, cause=Cause.FAILURES, at=T0, until=T0 + 9))),
    ("why.breaker.probing", campaign(breaker=Breaker(stage=Stage.PROBING, cause=Cause.FAILURES, at=T0))),
    ("why.unattended", {"oldest": Oldest(device_id="d1", state="offered", due_at=T0 - 300_000)}),
    ("why.enrolling", campaign(enrolled=False, phase=-1, phase_state=PhaseState.WAITING)),
    ("why.schedule", {"line": LINE, "shut": Shut(Closed.FROZEN, T0 + 5, "Frozen.")}),
    ("why.opening", campaign(phase_state=PhaseState.PROMOTED)),
    ("why.in_flight", {"line": LINE, "flow": Flow(cap=60, in_flight=60)}),
    ("why.rate", {"line": LINE, "flow": Flow(cap=60, per_minute=60, tokens=0, token_at=T0 + 1_000)}),
    ("why.budget", {"line": LINE, "full": (FullPlace(label="l", value="v", limit=1, in_flight=1, waiting=3),)}),
    ("why.busy", {"line": replace(LINE, busy={"cmp_2": 3})}),
    ("why.outranked", {"line": replace(LINE, outranked={"cmp_2": 2}, busy={"cmp_3": 1})}),
    ("why.offering", {"line": LINE}),
    ("why.retries", campaign(phase=1) | {"line": Line(retries=2, next_at=T0 + 9)}),
    ("why.soak", campaign(**OPEN)),
    ("why.soak", campaign(soak_until=T0 + 7)),
    ("why.soak_devices", campaign(soak_ended_at=None) | {"evidence": Evidence(matured=4, outstanding=9)}),
    ("why.approval", campaign(phase_approvals=())),
    ("why.external", {"campaign": RUNNING}),
    ("why.strata", {"evidence": Evidence(matured=100, uncovered=("C",))}),
    ("why.evidence", {"evidence": Evidence(matured=10, failures=1, outstanding=90)}),
    ("why.under_way", campaign(phase=1) | {"under_way": {"trial": 1}}),
    (
        "why.withheld",
        campaign(phase=1, phase_state=PhaseState.PROMOTED)
        | {"line": Line(withheld={"opted_out": 2}), "waits_until": T0 + 9},
    ),
    ("why.completed", campaign(state=CampaignState.COMPLETED, phase=1, phase_state=PhaseState.PROMOTED)),
    (MOVING, {}),
]


def view(**changes: Any) -> View:
    return replace(QUIET, **changes)


@pytest.mark.parametrize(("code", "changes"), CASES)
def test_a_condition_is_the_first_where_it_holds(code, changes):
    first = explain(view(**changes))[0]
    assert first.code == code
    assert first.detail.endswith(".") or first.detail.endswith(":") or "reason" in first.data


def test_every_code_has_a_case():
    assert {code for code, _ in CASES} == {rule.code for rule in CONDITIONS} | {MOVING}


def test_the_order_is_a_contract():
    assert [rule.code.removeprefix("why.") for rule in CONDITIONS] == [
        "draft",
        "submitted",
        "quarantine",
        "not_launched",
        "aborted",
        "fleet_stopped",
        "halted",
        "paused",
        "breaker.open",
        "breaker.probing",
        "unattended",
        "enrolling",
        "schedule",
        "opening",
        "in_flight",
        "rate",
        "budget",
        "busy",
        "outranked",
        "offering",
        "retries",
        "soak",
        "soak_devices",
        "approval",
        "external",
        "strata",
        "evidence",
        "under_way",
        "withheld",
        "completed",
    ]


def test_what_would_hold_next_stands_below_in_the_order_of_the_table():
    halted = replace(RUNNING, state=CampaignState.HALTED, halt=HALT, phase_approvals=())
    everything = view(
        campaign=halted,
        fleet=Stop(by="eve", reason="smoke"),
        line=LINE,
        shut=Shut(Closed.FROZEN, T0 + 5, "Frozen."),
        flow=Flow(cap=60, in_flight=60, per_minute=6, tokens=0, token_at=T0 + 1),
        evidence=Evidence(matured=1, outstanding=99),
    )
    found = [each.code.removeprefix("why.") for each in explain(everything)]
    assert found == ["fleet_stopped", "halted", "schedule", "in_flight", "rate", "approval", "external", "evidence"]


def test_a_halt_says_its_numbers_what_a_resume_costs_and_who_may_not_approve_it():
    first = explain(view(**campaign(state=CampaignState.HALTED, halt=HALT)))[0]
    assert first.data | {"rule": "r", "n": 20, "f": 3, "bound": 3, "approvals_missing": 1} == first.data
    assert first.data["false_halt_at_most"] == pytest.approx(0.01)
    assert first.data["false_halt_after_resume"] == pytest.approx(0.02)
    assert first.remedy is not None
    assert "Somebody else than ann" in first.remedy
    approved = explain(view(**campaign(state=CampaignState.HALTED, halt=HALT, resume_approved=True)))[0]
    assert approved.data["approvals_missing"] == 0
    assert approved.remedy == "ota campaign resume cmp_1 --reason …"


def test_whoever_has_approved_and_the_author_may_not_approve_again():
    plan = PLAN | {"approvals": {"required": 2, "separation": True}}
    found = explain(view(**campaign(state=CampaignState.SUBMITTED, plan=plan, approvals=("bob",), phase=-1)))[0]
    assert (found.data["missing"], found.data["may_not"]) == (1, ["ann", "bob"])


def test_a_full_cap_by_the_brake_is_remedied_by_releasing_it():
    braked = campaign(brake=Brake(max_in_flight=5), setbacks=1)
    found = explain(view(**braked, line=LINE, flow=Flow(cap=5, in_flight=7, promoted=2, growth=4)))[0]
    assert found.remedy == "ota campaign release-brake cmp_1 --reason …"
    assert found.data | {"cap": 5, "growth": 4, "promoted_phases": 2, "setbacks": 1, "brake": 5} == found.data


def test_evidence_that_the_phase_cannot_have_needs_people_and_patience_is_named():
    outlasted = HoldOutlasted(
        phase=0,
        reason="evidence",
        detail="…",
        gate=None,
        gate_epoch=1,
        since=T0 - 9,
        at=T0 - 5,
        patience=4,
        matured=10,
        failures=1,
        log_e=0.1,
        limit=3.0,
    )
    short = view(**campaign(outlasted=(outlasted,)), evidence=Evidence(matured=10, failures=1, outstanding=1))
    found = explain(short)[0]
    assert found.remedy is not None
    assert "people have to decide" in found.detail
    assert found.data["outlasted_at"] == T0 - 5


def test_the_page_lists_every_code_with_its_meaning_in_order():
    page = (Path(__file__).parents[3] / "deploy" / "docs" / "why.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(why\.[a-z_.]+)` \| (.+?) \|$", page, re.MULTILINE)
    table = [(rule.code, rule.meaning) for rule in CONDITIONS]
    assert listed == [*table, (MOVING, "nothing holds it"), *((rule.code, rule.meaning) for rule in DEVICE_CONDITIONS)]
