"""Conditions on the way to devices: breaker, schedule, pace, budget, and who else wants them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from orchestrator.domain import brake
from orchestrator.domain.breaker import Cause, Stage
from orchestrator.domain.campaign import CampaignState
from orchestrator.domain.explain.view import COUNTED, Found, View
from orchestrator.domain.window import written

OVERDUE_MS: Final = 300_000
"""Deadlines that are so long over and not dealt with say that no process looks after the campaign: sweeps come every second or so."""


def breaker_open(view: View) -> Found | None:
    held = view.campaign.breaker
    if held.stage is not Stage.OPEN or not view.live:
        return None
    data = {"cause": held.cause, "openings": held.openings, "since_at": held.at}
    if held.cause == Cause.STALE:
        return Found("The breaker is open: nothing is heard from devices, so every one of them looks silent.", data)
    detail = f"The breaker is open: infrastructure trouble holds offers. Probes go out from {written(held.until)} on."
    return Found(detail, data | {"until_at": held.until}, None, held.until)


def breaker_probing(view: View) -> Found | None:
    held = view.campaign.breaker
    if held.stage is not Stage.PROBING or not view.live:
        return None
    data = {"cause": held.cause, "openings": held.openings, "since_at": held.at}
    return Found(
        "The breaker is probing: a few offers are out, and their outcome decides whether the rest goes on.", data
    )


def unattended(view: View) -> Found | None:
    oldest = view.oldest
    if not view.live or view.campaign.breaker.held or oldest is None or view.now - oldest.due_at < OVERDUE_MS:
        return None
    return Found(
        f"The time of {oldest.device_id} was over at {written(oldest.due_at)} and nobody has dealt with it: no worker looks after the"
        " campaign, or what devices report is not being projected.",
        {"device_id": oldest.device_id, "due_at": oldest.due_at},
        "Look at the worker and the projector: `ota doctor`, /readyz, and Temporal's workflow campaign/"
        f"{view.campaign.campaign_id}.",
    )


def shut(view: View) -> Found | None:
    if view.shut is None or not view.live or not view.line.queued:
        return None
    ended = view.shut.until is None
    remedy = "Its schedule cannot be changed; a new campaign takes the rest." if ended else None
    return Found(view.shut.detail, {"why": str(view.shut.why)}, remedy, view.shut.until)


def enrolling(view: View) -> Found | None:
    if not view.live or view.campaign.enrolled:
        return None
    return Found("Its cohort has not been taken up yet; that takes seconds, and the worker does it.")


def opening(view: View) -> Found | None:
    campaign = view.campaign
    if not view.live or not campaign.enrolled or view.is_open or view.last:
        return None
    name = campaign.phases[campaign.phase + 1]["name"]
    return Found(f"Phase {name!r} opens next; the worker does it.", {"phase": campaign.phase + 1, "name": name})


def cap(view: View) -> Found | None:
    flow = view.flow
    if flow is None or not view.line.queued or not view.live or flow.in_flight < flow.cap:
        return None
    campaign = view.campaign
    limits = campaign.plan["max_in_flight"]
    least = brake.said(campaign.brake)
    how = f"it began at {limits['initial']}"
    how += f", doubled with {flow.promoted} phases" if flow.promoted else ""
    how += f", grew by {flow.growth}" if flow.growth else ""
    how += f", was halved {campaign.setbacks} times by the breaker" if campaign.setbacks else ""
    how += f", is at most {limits['maximum']}"
    how += f", with the brake at {least}" if campaign.brake.max_in_flight is not None else ""
    data = {
        "cap": flow.cap,
        "in_flight": flow.in_flight,
        "initial": limits["initial"],
        "maximum": limits["maximum"],
        "phase_maximum": view.phase.get("max_in_flight") if campaign.phase >= 0 else None,
        "promoted_phases": flow.promoted,
        "growth": flow.growth,
        "setbacks": campaign.setbacks,
        "brake": campaign.brake.max_in_flight,
        "under_way": dict(view.under_way),
        "frees_at": view.oldest and view.oldest.due_at,
    }
    remedy = None
    if campaign.brake.max_in_flight == flow.cap:
        remedy = f"ota campaign release-brake {campaign.campaign_id} --reason …"
    by_itself = f" The oldest one's time is over at {written(view.oldest.due_at)}." if view.oldest else ""
    detail = f"{flow.in_flight} devices are in flight and the cap is {flow.cap}: {how}.{by_itself}"
    return Found(detail, data, remedy, view.oldest and max(view.now, view.oldest.due_at))


def rate(view: View) -> Found | None:
    flow = view.flow
    if flow is None or not view.line.queued or not view.live or flow.tokens is None or flow.tokens > 0:
        return None
    campaign = view.campaign
    braked = campaign.brake.per_minute is not None and campaign.brake.per_minute == flow.per_minute
    return Found(
        f"The rate is {flow.per_minute} offers a minute{', by the brake' if braked else ''}, and they are used up.",
        {
            "per_minute": flow.per_minute,
            "tokens": flow.tokens,
            "token_at": flow.token_at,
            "brake": campaign.brake.per_minute,
        },
        f"ota campaign release-brake {campaign.campaign_id} --reason …" if braked else None,
        flow.token_at,
    )


def budget(view: View) -> Found | None:
    if not view.full or view.unhindered or not view.live:
        return None
    places = "; ".join(
        f"{each.label} {each.value!r} has {each.in_flight} of {each.limit} in flight, by {_counted(each.campaigns)}"
        for each in view.full[:3]
    )
    return Found(
        f"The exposure budget has no room for those who wait: {places}.",
        {
            "places": [
                {
                    "label": each.label,
                    "value": each.value,
                    "limit": each.limit,
                    "in_flight": each.in_flight,
                    "waiting": each.waiting,
                    "campaigns": dict(each.campaigns),
                }
                for each in view.full
            ]
        },
    )


def busy(view: View) -> Found | None:
    line = view.line
    if not view.live or not line.busy or sum(line.busy.values()) < line.looked_at:
        return None
    detail = f"Those who wait are in flight elsewhere: {_counted(line.busy)}."
    return Found(detail, {"campaigns": dict(line.busy), "looked_at": line.looked_at}, None, line.next_at)


def outranked(view: View) -> Found | None:
    line = view.line
    if not view.live or not line.outranked or sum((*line.outranked.values(), *line.busy.values())) < line.looked_at:
        return None
    detail = f"Those who wait are wanted by campaigns of higher priority: {_counted(line.outranked)}."
    return Found(detail, {"campaigns": dict(line.outranked), "looked_at": line.looked_at}, None, line.next_at)


def _counted(campaigns: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({n})" for name, n in sorted(campaigns.items(), key=lambda item: (-item[1], item[0])))


def offering(view: View) -> Found | None:
    line = view.line
    if view.campaign.state is not CampaignState.RUNNING or not line.queued:
        return None
    data = {"queued": line.queued, "ready": line.ready, "next_at": line.next_at}
    if line.ready:
        return Found(f"{least(line.queued)} devices wait for their offer; slices go out as there is room.", data)
    return Found(
        f"{least(line.queued)} devices wait for their offer, and none may be offered now: they are looked at again at their time.",
        data,
        None,
        line.next_at,
    )


def least(n: int) -> str:
    return f"At least {n}" if n >= COUNTED else str(n)
