"""External gates: what their verdicts do to a campaign, and when they count."""

from __future__ import annotations

import msgspec
import pytest

from orchestrator.domain import campaign as c
from orchestrator.domain.external import MAX_VERDICTS, missing
from orchestrator.domain.gate import GateVerdict, Hold, Verdict
from orchestrator.domain.patience import outlasted
from orchestrator.domain.plan import parse_plan
from orchestrator.domain.plan_fields import PlanError
from tests.support.world import plan

LAB = {"name": "canary", "soak": 5, "external": [{"name": "lab", "patience": None}, {"name": "field", "patience": 50}]}
REST = {"name": "rest", "soak": 5, "external": [{"name": "lab", "patience": None}]}
PLAN = {"phases": [LAB, REST], "approvals": {"required": 1, "separation": True}}


def do(campaign: c.Campaign, *commands: c.Command) -> c.Campaign:
    for command in commands:
        for event in c.decide(campaign, command):
            campaign = c.evolve(campaign, event)
    return campaign


def says(verdict: str, gate: str = "lab", phase: int = 0, epoch: int | None = None) -> c.GiveVerdict:
    return c.GiveVerdict(
        phase=phase,
        gate=gate,
        verdict=verdict,
        reason=f"{gate} found it so",
        evidence="https://lab.example/7",
        gate_epoch=epoch,
        at=7,
        ledger_position=3,
        actor="key of the lab",
    )


@pytest.fixture
def running() -> c.Campaign:
    return do(
        c.Campaign(),
        c.Create(campaign_id="cmp_1", campaign_no=1, name="n", release_id="rel_1", plan=PLAN, actor="ann"),
        c.Submit(actor="ann", digest="sha256:d", dossier={}),
        c.Approve(actor="bob", digest="sha256:d"),
        c.Launch(actor="ann", ledger_position=0),
        c.OpenPhase(phase=0, devices=4, at=1, ledger_position=1),
        c.StartSoak(phase=0, at=1),
    )


def resumed(campaign: c.Campaign) -> c.Campaign:
    approve = c.Approve(actor="bob", digest="sha256:d")
    return do(campaign, approve, c.Resume(actor="ann", reason="fixed", ledger_position=4, at=90))


HALT = c.Halt(event=c.e.CampaignHalted(by="ann", reason="r", phase=0, gate_epoch=1, ledger_position=3))


def test_a_phase_waits_for_each_of_its_gates_and_the_last_verdict_counts(running):
    assert list(missing(LAB, 0, running.verdicts)) == ["lab", "field"]
    held = do(running, says("promote"), says("hold"))
    assert missing(LAB, 0, held.verdicts) == {
        "lab": "The external gate 'lab' says hold: lab found it so",
        "field": "The phase waits for the verdict of the external gate 'field'.",
    }
    assert missing(LAB, 0, do(held, says("promote"), says("promote", "field")).verdicts) == {}
    assert list(missing(REST, 1, do(held, says("promote")).verdicts)) == ["lab"], "a verdict is on one phase"


def test_a_verdict_says_everything_it_was_given_on(running):
    (event,) = c.decide(running, says("promote"))
    assert event == c.e.ExternalVerdictGiven(
        phase=0,
        gate="lab",
        verdict="promote",
        reason="lab found it so",
        evidence="https://lab.example/7",
        digest="sha256:d",
        gate_epoch=1,
        at=7,
        actor="key of the lab",
    )


def test_the_soak_says_whose_verdict_is_wanted(running):
    opened = do(resumed(do(running, HALT)), says("promote"))
    (event,) = c.decide(opened, c.StartSoak(phase=0, at=100))
    assert (event.gate_epoch, event.external) == (2, ["field"])


def test_a_verdict_that_halts_halts_in_the_name_of_the_gate(running):
    given, halt = c.decide(running, says("halt"))
    assert (given.verdict, halt.by, halt.reason, halt.ledger_position) == ("halt", "lab", "lab found it so", 3)
    assert do(running, says("halt")).state is c.CampaignState.HALTED
    paused = do(running, c.Pause(actor="ann", reason="r", ledger_position=2))
    assert do(paused, says("halt")).state is c.CampaignState.HALTED


def test_a_halt_is_taken_for_a_promoted_phase_and_a_past_epoch(running):
    promoted = do(
        running,
        c.Promote(phase=0, matured=4, failures=0, log_e=None, at=9, ledger_position=2, ledger_digest="sha256:l"),
    )
    assert do(promoted, says("halt")).state is c.CampaignState.HALTED
    again = resumed(do(running, HALT))
    assert do(again, says("halt", epoch=1)).state is c.CampaignState.HALTED


def test_a_halt_of_what_is_halted_or_over_halts_nothing_more(running):
    halted = do(running, HALT)
    assert [type(event).__name__ for event in c.decide(halted, says("halt"))] == ["ExternalVerdictGiven"]
    over = do(running, c.Abort(actor="ann", reason="r", ledger_position=4))
    assert c.decide(over, says("halt")) == []


def test_after_a_halt_and_its_resume_every_gate_speaks_anew(running):
    again = resumed(do(running, says("promote"), says("promote", "field"), HALT))
    assert (again.gate_epoch, again.verdicts) == (2, ())
    with pytest.raises(c.ExternalEpochError):
        c.decide(again, says("promote", epoch=1))
    assert list(missing(LAB, 0, do(again, says("promote", epoch=2)).verdicts)) == ["field"]
    paused = do(running, says("promote"), c.Pause(actor="ann", reason="r", ledger_position=2))
    assert resumed_from_pause(paused).verdicts, "a pause asks nobody again"


def resumed_from_pause(campaign: c.Campaign) -> c.Campaign:
    return do(campaign, c.Resume(actor="ann", reason="r", ledger_position=2, at=50))


def test_verdicts_that_cannot_count_are_refused(running):
    for unknown in (says("promote", "nobody"), says("promote", phase=2), says("halt", phase=-1)):
        with pytest.raises(c.ExternalGateNotFoundError):
            c.decide(running, unknown)
    promote = c.Promote(phase=0, matured=4, failures=0, log_e=None, at=9, ledger_position=2, ledger_digest="l")
    for campaign in (do(running, promote), do(running, HALT)):
        with pytest.raises(c.CampaignTransitionError):
            c.decide(campaign, says("promote"))


def test_what_a_gate_says_again_is_no_event_and_no_other_reason_is_lost(running):
    held = do(running, says("hold"))
    assert c.decide(held, says("hold")) == []
    other = msgspec.structs.replace(says("hold"), reason="one run left")
    assert [event.reason for event in c.decide(held, other)] == ["one run left"]


def test_a_gate_that_never_stops_talking_can_still_promote_and_halt(running):
    for number in range(MAX_VERDICTS):
        running = do(running, msgspec.structs.replace(says("hold"), reason=f"look {number}"))
    with pytest.raises(c.TooManyVerdictsError):
        c.decide(running, says("hold"))
    assert do(running, says("hold", "field")).version == running.version + 1, "of another gate nothing is refused"
    promoted = do(running, says("promote"))
    assert list(missing(LAB, 0, promoted.verdicts)) == ["field"]
    for again in (says("hold"), msgspec.structs.replace(says("promote"), reason="still")):
        with pytest.raises(c.TooManyVerdictsError):
            c.decide(promoted, again)
    halted = do(promoted, says("halt"))
    assert halted.state is c.CampaignState.HALTED
    assert do(resumed(halted), says("hold")).verdicts, "after a halt it is asked anew"


def test_plans_of_before_have_no_external_gates():
    assert missing({"name": "canary", "soak": 5}, 0, ()) == {}


@pytest.mark.parametrize(
    ("external", "pointer", "code"),
    [
        ([{"name": "gate"}], "/phases/0/external/0/name", "plan.external.name"),
        ([{"name": "lab"}, {"name": "lab"}], "/phases/0/external", "plan.name.duplicate"),
        ([{"name": "lab", "patience": "0s"}], "/phases/0/external/0/patience", "plan.duration.range"),
        ([{"name": "a b"}], "/phases/0/external/0/name", "plan.field.value"),
        ([{"nam": "lab"}], "/phases/0/external/0/name", "plan.field.missing"),
    ],
)
def test_what_is_wrong_with_an_external_gate_is_named(external, pointer, code):
    phases = [{"name": "all", "percent": 100.0, "soak": "5s", "external": external}]
    with pytest.raises(PlanError) as caught:
        parse_plan(plan(phases=phases))
    assert (pointer, code) in {(each["pointer"], each["code"]) for each in caught.value.errors}


# ---- patience


def held(reason: Hold | None) -> GateVerdict:
    return GateVerdict(Verdict.HOLD if reason else Verdict.PROMOTE, reason, 40, 2, 1.5, 3.0, "as counted")


def tells(phase, reason, now, waiting=None):
    return list(outlasted(phase, 0, held(reason), waiting or {}, gate_epoch=1, since=100, now=now))


def test_a_hold_is_told_from_its_patience_on_with_its_numbers():
    phase = {"patience": 50}
    assert tells(phase, Hold.EVIDENCE, 149) == []
    (told,) = tells(phase, Hold.EVIDENCE, 150)
    assert (told.reason, told.detail, told.since, told.at, told.patience) == ("evidence", "as counted", 100, 150, 50)
    assert (told.matured, told.failures, told.log_e, told.limit, told.gate) == (40, 2, 1.5, 3.0, None)


@pytest.mark.parametrize("reason", [Hold.STALE, Hold.INFRASTRUCTURE, Hold.SOAK, None])
def test_only_what_people_can_change_wears_patience_out(reason):
    assert tells({"patience": 50}, reason, 10_000) == []
    assert tells({}, Hold.APPROVAL, 10_000) == []


def test_an_external_gate_has_a_patience_of_its_own_or_the_phases():
    waiting = {"lab": "lab is waited for", "field": "field is waited for"}
    phase = LAB | {"patience": 80}
    assert [hold.gate for hold in tells(phase, Hold.EXTERNAL, 150, waiting)] == ["field"]
    assert [(hold.gate, hold.detail) for hold in tells(phase, Hold.EXTERNAL, 180, waiting)] == [
        ("lab", "lab is waited for"),
        ("field", "field is waited for"),
    ]
    assert [hold.gate for hold in tells(LAB, Hold.EXTERNAL, 10**9, waiting)] == ["field"]


def test_the_same_hold_is_told_once_in_an_epoch(running):
    (hold,) = tells({"patience": 50}, Hold.EVIDENCE, 150)
    after = do(running, c.OutlastHold(event=hold))
    assert after.outlasted == (hold,)
    assert c.decide(after, c.OutlastHold(event=hold)) == []
    assert c.decide(do(running, HALT), c.OutlastHold(event=hold)) == []
    assert c.decide(resumed(do(running, HALT)), c.OutlastHold(event=hold)) == [], "it is of an epoch that has ended"


def test_time_counts_from_the_end_of_the_soak_or_from_a_later_resume(running):
    assert running.promotable_since == 6
    paused = do(running, c.Pause(actor="ann", reason="r", ledger_position=2))
    assert resumed_from_pause(paused).promotable_since == 50
