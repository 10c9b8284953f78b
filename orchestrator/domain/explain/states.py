"""Conditions of a campaign that does not run: not approved, not launched, stopped by people or by a gate."""

from __future__ import annotations

from orchestrator.domain.approval import approvals_missing
from orchestrator.domain.campaign import CampaignState
from orchestrator.domain.explain.view import Found, View
from orchestrator.domain.halt_rule import false_halt_bound


def draft(view: View) -> Found | None:
    if view.campaign.state is not CampaignState.DRAFT:
        return None
    return Found("The campaign is a draft.", {}, f"ota campaign submit {view.campaign.campaign_id}")


def submitted(view: View) -> Found | None:
    campaign = view.campaign
    if campaign.state is not CampaignState.SUBMITTED:
        return None
    rules = campaign.plan["approvals"]
    authors = {campaign.author} if rules["separation"] else set[str]()
    barred = sorted(authors.union(campaign.approvals))
    left = approvals_missing(campaign.approvals, rules["required"])
    return Found(
        f"{left} of {rules['required']} approvals are missing{'; not by ' + ' or '.join(barred) if barred else ''}.",
        {"missing": left, "approvals": list(campaign.approvals), "may_not": barred, "digest": campaign.digest},
        f"ota campaign approve {campaign.campaign_id}",
    )


def quarantine(view: View) -> Found | None:
    campaign, halts = view.campaign, view.release_halted_in
    if campaign.state is not CampaignState.APPROVED or len(halts) <= campaign.release_halts:
        return None
    found = list(dict.fromkeys(halts[campaign.release_halts :]))
    return Found(
        f"Its release was halted in {', '.join(found)} after the approval, so it cannot be launched.",
        {"campaigns": found},
        f"Look at that halt, then somebody else approves anew: ota campaign approve {campaign.campaign_id}",
    )


def not_launched(view: View) -> Found | None:
    if view.campaign.state is not CampaignState.APPROVED:
        return None
    return Found("The campaign is approved and not launched.", {}, f"ota campaign launch {view.campaign.campaign_id}")


def aborted(view: View) -> Found | None:
    if view.campaign.state is not CampaignState.ABORTED:
        return None
    return Found("The campaign was aborted; nothing is offered any more.")


def fleet(view: View) -> Found | None:
    if view.fleet is None or not view.live:
        return None
    said = f"The whole fleet is stopped by {view.fleet.by}: {view.fleet.reason}"
    return Found(said, {"by": view.fleet.by, "reason": view.fleet.reason}, "ota fleet release --reason …")


def halted(view: View) -> Found | None:
    campaign, halt = view.campaign, view.campaign.halt
    if campaign.state is not CampaignState.HALTED or halt is None:
        return None
    rules = campaign.plan["halt"]
    before, after = (false_halt_bound(rules, epochs) for epochs in (campaign.gate_epoch, campaign.gate_epoch + 1))
    left = (
        0
        if campaign.resume_approved
        else approvals_missing(campaign.resume_approvals, campaign.plan["approvals"]["required"])
    )
    step = f"ota campaign resume {campaign.campaign_id} --reason …"
    if not campaign.resume_approved:
        other = campaign.editor or campaign.author
        step = f"Somebody else than {other} runs ota campaign approve {campaign.campaign_id}, then: {step}"
    data = {
        "by": halt.by,
        "reason": halt.reason,
        "rule": halt.rule,
        "scope": halt.scope,
        "n": halt.n,
        "f": halt.f,
        "bound": halt.bound,
        "p0": halt.p0,
        "alpha": halt.alpha,
        "approvals_missing": left,
        "resume_approvals": list(campaign.resume_approvals),
        "false_halt_at_most": before,
        "false_halt_after_resume": after,
    }
    cost = f"A resume raises the probability of a false halt from {before:.3g} to at most {after:.3g}."
    return Found(f"Halted by {halt.by}: {halt.reason} {cost}", data, step)


def paused(view: View) -> Found | None:
    if view.campaign.state is not CampaignState.PAUSED:
        return None
    step = f"ota campaign resume {view.campaign.campaign_id} --reason …"
    return Found("The campaign is paused by people: nothing is offered, what has started goes on.", {}, step)
