"""Brake and revision of a campaign, decision by decision."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.domain import campaign as c
from orchestrator.domain.approval import DigestMismatchError, DuplicateApprovalError, SameActorError
from orchestrator.domain.brake import OFF, Brake, LoosensError
from orchestrator.domain.revision import StaleRevisionError
from schemas.campaign_events import CampaignHalted, RevisionApproved


def plan(maximum: int, required: int = 1) -> dict[str, Any]:
    return {
        "phases": [{"name": "all", "soak": 5, "rate": {"per_minute": 100}}],
        "approvals": {"required": required, "separation": True},
        "max_in_flight": {"initial": 10, "maximum": maximum},
    }


def after(campaign: c.Campaign, *commands: c.Command) -> c.Campaign:
    for command in commands:
        for event in c.decide(campaign, command):
            campaign = c.evolve(campaign, event)
    return campaign


def running(required: int = 1) -> c.Campaign:
    first = plan(50, required)
    return after(
        c.Campaign(),
        c.Create(campaign_id="cmp_1", campaign_no=1, name="n", release_id="rel_1", plan=first, actor="ann"),
        c.Submit(actor="ann", digest="d1", dossier={"plan": first}),
        *(c.Approve(actor=name, digest="d1") for name in ("bob", "cid")[:required]),
        c.Launch(actor="ann", ledger_position=0),
    )


def proposal(digest: str = "d2", actor: str = "bob", maximum: int = 80, replaces: str = "d1") -> c.Revise:
    return c.Revise(actor=actor, reason="r", replaces=replaces, digest=digest, dossier={"plan": plan(maximum)})


def halt(campaign: c.Campaign) -> c.Halt:
    event = CampaignHalted(by="eve", reason="r", phase=0, gate_epoch=campaign.gate_epoch, ledger_position=3)
    return c.Halt(event=event)


def test_a_brake_needs_a_campaign_that_goes_on():
    brake = c.ApplyBrake(actor="eve", reason="r", limits=Brake(per_minute=10), ledger_position=7)
    with pytest.raises(c.CampaignTransitionError):
        c.decide(c.Campaign(), brake)
    braked = after(running(), brake)
    assert braked.brake == Brake(per_minute=10)
    assert c.decide(braked, brake) == [], "it has taken effect already"
    with pytest.raises(LoosensError):
        c.decide(braked, c.ApplyBrake(actor="eve", reason="r", limits=Brake(per_minute=11), ledger_position=8))
    off = after(braked, c.ReleaseBrake(actor="ann", reason="r", left=OFF, ledger_position=9))
    assert off.brake == OFF


def test_a_brake_stays_through_a_halt_and_a_revision():
    campaign = after(running(), c.ApplyBrake(actor="eve", reason="r", limits=Brake(max_in_flight=5), ledger_position=7))
    campaign = after(campaign, proposal(), c.Approve(actor="cid", digest="d2"))
    assert campaign.digest == "d2"
    assert after(campaign, halt(campaign)).brake == Brake(max_in_flight=5)


def test_a_revision_that_waits_changes_nothing_and_an_approved_one_does():
    campaign = running()
    waiting = after(campaign, proposal())
    assert (waiting.plan, waiting.digest, waiting.approvals) == (campaign.plan, "d1", ("bob",))
    assert waiting.revision is not None
    done = after(waiting, c.Approve(actor="cid", digest="d2", ledger_position=9))
    assert (done.plan, done.digest, done.approvals) == (plan(80), "d2", ("cid",))
    assert done.dossier == {"plan": plan(80)}
    assert done.revision is None
    assert done.state is c.CampaignState.RUNNING


@pytest.mark.parametrize("actor", ["ann", "bob"])
def test_neither_the_author_nor_who_proposed_it_approves_a_revision(actor):
    with pytest.raises(SameActorError):
        c.decide(after(running(), proposal()), c.Approve(actor=actor, digest="d2"))


def test_a_revision_needs_as_many_approvals_as_the_plan():
    campaign = after(running(2), proposal(), c.Approve(actor="cid", digest="d2"))
    assert campaign.digest == "d1"
    with pytest.raises(DuplicateApprovalError):
        c.decide(campaign, c.Approve(actor="cid", digest="d2"))
    (event,) = c.decide(campaign, c.Approve(actor="dee", digest="d2", ledger_position=4))
    assert event == RevisionApproved(actor="dee", digest="d2", complete=True, ledger_position=4)


def test_a_newer_proposal_takes_the_place_of_the_one_that_waits_and_of_its_approvals():
    campaign = after(running(2), proposal(), c.Approve(actor="cid", digest="d2"), proposal("d3", "dee", 70))
    assert campaign.revision is not None
    assert (campaign.revision.digest, campaign.revision.approvals) == ("d3", ())
    with pytest.raises(DigestMismatchError):
        c.decide(campaign, c.Approve(actor="cid", digest="d2"))
    assert c.decide(campaign, proposal("d3", "eve", 70)) == [], "proposed already"


def test_a_proposal_made_from_a_plan_that_was_revised_meanwhile_is_refused():
    campaign = after(running(), proposal(), c.Approve(actor="cid", digest="d2"))
    with pytest.raises(StaleRevisionError):
        c.decide(campaign, proposal("d4"))
    assert after(campaign, proposal("d4", replaces="d2")).revision is not None


def test_a_halt_ends_a_proposal_and_its_end_is_approved_under_the_digest_in_force():
    campaign = after(running(), proposal())
    halted = after(campaign, halt(campaign))
    assert halted.revision is None
    with pytest.raises(DigestMismatchError):
        c.decide(halted, c.Approve(actor="cid", digest="d2"))
    with pytest.raises(c.CampaignTransitionError):
        c.decide(halted, proposal())
    assert after(halted, c.Approve(actor="cid", digest="d1")).resume_approved


def test_phases_are_approved_under_the_digest_in_force_and_not_by_its_last_editor():
    campaign = after(running(), proposal())
    assert after(campaign, c.ApprovePhase(actor="bob", phase=0, digest="d1")).phase_approvals == (0,)
    campaign = after(campaign, c.Approve(actor="cid", digest="d2"))
    with pytest.raises(DigestMismatchError):
        c.decide(campaign, c.ApprovePhase(actor="cid", phase=0, digest="d1"))
    with pytest.raises(SameActorError):
        c.decide(campaign, c.ApprovePhase(actor="bob", phase=0, digest="d2"))
    assert after(campaign, c.ApprovePhase(actor="cid", phase=0, digest="d2")).phase_approvals == (0,)
