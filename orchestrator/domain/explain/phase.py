"""Conditions of the open phase: its soak, its gate, and the last devices that are under way."""

from __future__ import annotations

from typing import Any

from orchestrator.domain import gate
from orchestrator.domain.campaign import CampaignState, PhaseState
from orchestrator.domain.durations import format_duration
from orchestrator.domain.explain.offers import least
from orchestrator.domain.explain.view import Found, View
from orchestrator.domain.external import missing
from orchestrator.domain.sequential import devices_to_promote
from orchestrator.domain.window import written


def retries(view: View) -> Found | None:
    line = view.line
    waits_for_all = view.last or (view.campaign.phase >= 0 and not view.phase.get("promote"))
    if not view.live or not line.retries or not waits_for_all:
        return None
    return Found(
        f"{least(line.retries)} devices pause before their next attempt.",
        {"retries": line.retries, "next_at": line.next_at},
        None,
        line.next_at,
    )


def soak(view: View) -> Found | None:
    campaign = view.campaign
    if not view.live or not view.is_open:
        return None
    if campaign.phase_state is PhaseState.OPEN:
        soak = view.phase["soak"]
        return (
            Found(f"The phase soaks for {format_duration(soak)} once all its offers are out.", {"soak": soak})
            if soak
            else None
        )
    assert campaign.soak_until is not None
    if view.now >= campaign.soak_until:
        return None
    return Found(
        f"The phase soaks until {written(campaign.soak_until)}.",
        {"until_at": campaign.soak_until},
        None,
        campaign.soak_until,
    )


def soak_devices(view: View) -> Found | None:
    campaign, evidence = view.campaign, view.evidence
    if not view.live or not view.is_open or campaign.soak_ended_at is not None:
        return None
    goal = gate.soak_goal(view.phase.get("soak_devices"), evidence.matured, evidence.outstanding)
    if evidence.matured >= goal:
        return None
    data = {"matured": evidence.matured, "wanted": goal, "outstanding": evidence.outstanding}
    return Found(f"The soak waits for {goal} matured devices, and there are {evidence.matured}.", data)


def approval(view: View) -> Found | None:
    campaign = view.campaign
    if (
        not view.live
        or not view.is_open
        or not view.phase.get("approval")
        or campaign.phase in campaign.phase_approvals
    ):
        return None
    barred = [campaign.author] if campaign.plan["approvals"]["separation"] else []
    return Found(
        f"The phase promotes only after an approval{', by somebody else than ' + campaign.author if barred else ''}.",
        {"phase": campaign.phase, "may_not": barred, "outlasted_at": told_at(view, "approval")},
        f"ota campaign approve {campaign.campaign_id} --phase {campaign.phase}",
    )


def external(view: View) -> Found | None:
    campaign = view.campaign
    if not view.live or not view.is_open:
        return None
    waiting = missing(view.phase, campaign.phase, campaign.verdicts)
    if not waiting:
        return None
    data = {"phase": campaign.phase, "gates": list(waiting), "outlasted_at": told_at(view, "external")}
    first = next(iter(waiting))
    step = f"ota campaign gate {campaign.campaign_id} {campaign.phase} {first} --verdict promote --reason …"
    return Found(" ".join(waiting.values()), data, f"The party outside says: {step}")


def strata(view: View) -> Found | None:
    if not view.live or not view.is_open or not view.phase.get("promote") or not view.evidence.uncovered:
        return None
    found = list(view.evidence.uncovered)
    return Found(f"No device has matured of {'; '.join(found[:5])}.", {"strata": found})


def evidence(view: View) -> Found | None:
    test = view.phase.get("promote") if view.live and view.is_open else None
    if not test:
        return None
    seen = view.evidence
    needed = devices_to_promote(seen.failures, test["p1"], test["beta"])
    if seen.matured >= needed:
        return None
    enough = needed <= seen.matured + seen.outstanding
    told = told_at(view, "evidence")
    data = {
        "matured": seen.matured,
        "failures": seen.failures,
        "needed": needed,
        "outstanding": seen.outstanding,
        "p1": test["p1"],
        "beta": test["beta"],
        "outlasted_at": told,
    }
    detail = (
        f"{seen.failures} of {seen.matured} matured devices failed; ruling out a failure rate of {test['p1']:g} takes {needed}"
        " matured devices if no more fail."
    )
    if enough:
        return Found(detail, data)
    short = f" The phase can have {seen.matured + seen.outstanding} at most, so people have to decide."
    return Found(
        detail + short,
        data,
        f"ota campaign abort {view.campaign.campaign_id} --reason …, and a plan with a larger phase.",
    )


def told_at(view: View, reason: str) -> int | None:
    """Since when people know that this hold has outlasted the plan's patience."""
    holds = (hold.at for hold in view.campaign.outlasted if (hold.phase, hold.reason) == (view.campaign.phase, reason))
    return min(holds, default=None)


def under_way(view: View) -> Found | None:
    campaign = view.campaign
    devices = sum(view.under_way.values())
    if campaign.phase < 0 or not devices or campaign.state is CampaignState.COMPLETED:
        return None
    ends = campaign.state is CampaignState.ABORTED or view.last or not view.phase.get("promote")
    if not ends:
        return None
    states = ", ".join(f"{n} {state}" for state, n in view.under_way.items())
    oldest = view.oldest
    data: dict[str, Any] = {"states": dict(view.under_way)}
    if oldest is None:
        return Found(f"{devices} devices are under way: {states}.", data)
    data |= {"oldest": oldest.device_id, "state": oldest.state, "due_at": oldest.due_at}
    detail = f"{devices} devices are under way: {states}. The time of {oldest.device_id} is over first, at {written(oldest.due_at)}."
    return Found(detail, data, f"ota device why {oldest.device_id}", max(view.now, oldest.due_at))


def withheld(view: View) -> Found | None:
    reasons = view.line.withheld
    if not view.live or not reasons or view.waits_until is None or view.now >= view.waits_until:
        return None
    said = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))
    detail = f"Devices are withheld by their owners or the preconditions: {said}. It waits until {written(view.waits_until)}."
    return Found(detail, {"reasons": dict(reasons), "until_at": view.waits_until}, None, view.waits_until)


def completed(view: View) -> Found | None:
    return Found("The campaign is completed.") if view.campaign.state is CampaignState.COMPLETED else None
