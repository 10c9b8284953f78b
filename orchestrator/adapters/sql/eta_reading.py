"""What the ETA of a campaign rests on: devices left by phase, the pace to come, and how long devices took so far.

The sample is of the first devices in the order of their numbers, which has nothing to do with who was offered first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg

from orchestrator.adapters import zones
from orchestrator.adapters.sql.dispatch import halted_strata
from orchestrator.adapters.sql.rules import CampaignRules
from orchestrator.app.ports import GateReading
from orchestrator.domain import pacing
from orchestrator.domain.campaign import CampaignState, PhaseState
from orchestrator.domain.eta import Eta, Load, Range, Times, estimate, measured
from orchestrator.domain.explain import View
from orchestrator.domain.external import missing
from orchestrator.domain.gate import soak_goal
from orchestrator.domain.open_time import OpenTime
from orchestrator.domain.plan import Phase, Plan
from orchestrator.domain.retry import Outcome
from orchestrator.domain.sequential import clean_devices_needed, devices_to_promote
from orchestrator.domain.window import DEVICE, Schedule

SAMPLE: Final = 1_000
"""Devices whose times are looked at."""

_TIMES: Final = """SELECT changed_at - offered_at AS taken FROM
(SELECT state, changed_at, offered_at FROM assignment WHERE campaign_no = $1 ORDER BY device_no LIMIT $2) a
WHERE state = 'confirmed'"""
_ROWS: Final = """SELECT phase, state, sum(n)::bigint AS n FROM counter
WHERE campaign_no = $1 AND stratum <> ALL($2::smallint[]) GROUP BY phase, state"""


async def read_eta(conn: asyncpg.Connection, rules: CampaignRules, view: View, reading: GateReading) -> Eta:
    """The ETA in the caller's snapshot; ``reading`` is of the open phase, or of the first one."""
    campaign = view.campaign
    if campaign.state is not CampaignState.RUNNING:
        return Eta(none_because=f"The campaign is {campaign.state}.")
    if view.fleet is not None:
        return Eta(none_because="The whole fleet is stopped.")
    halted = await halted_strata(conn, campaign.campaign_no)
    counts: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for row in await conn.fetch(_ROWS, campaign.campaign_no, halted):
        counts[row["phase"]][row["state"]] = row["n"]
    taken = await conn.fetch(_TIMES, campaign.campaign_no, SAMPLE)
    plan = rules.dossier.plan
    times = Times(
        offer_ttl=plan.offer_ttl,
        confirm_deadline=plan.confirm_deadline,
        longest=_longest(plan),
        sample=measured([row["taken"] for row in taken]),
    )
    schedule = plan.schedule
    named = schedule.fallback_timezone if schedule.timezone == DEVICE else schedule.timezone
    zone = zones.zone(named, schedule.fallback_timezone)
    loads = _loads(rules, view, reading, [rules.strata[number] for number in halted], counts)
    clock = OpenTime(schedule, zone, view.now).after
    return estimate(loads, times, clock, view.now, schedule=_said(schedule), owners=_owners(plan, view))


def _loads(
    rules: CampaignRules,
    view: View,
    reading: GateReading,
    halted: Sequence[str],
    counts: Mapping[int, Mapping[str, int]],
) -> list[Load]:
    campaign, plan = view.campaign, rules.dossier.plan
    first = campaign.phase + (campaign.phase_state is PhaseState.PROMOTED) if campaign.phase >= 0 else 0
    found: list[Load] = []
    for number in range(first, len(plan.phases)):
        phase, share = plan.phases[number], rules.dossier.phases[number]
        size = share.size - sum(share.strata.get(key, 0) for key in halted)
        offered = counts.get(number, {})
        is_open = number == campaign.phase
        remaining = max(0, size - sum(offered.values()))
        under_way = 0
        if number == first:
            # Next attempts come on top, and count with the phase that is open, whichever they belong to.
            remaining -= sum(view.line.withheld.values())
            remaining = max(remaining, view.line.queued) + view.line.retries
            under_way = sum(view.under_way.values())
        wanted, enough = _wanted(phase, reading if is_open else None, size)
        people = _people(view, number, phase)
        if not enough:
            people += (f"{share.name}: people, because the phase is too small for its test",)
        if number == first and campaign.breaker.held:
            people += ("the breaker",)
        found.append(
            Load(
                phase=number,
                name=share.name,
                remaining=remaining,
                under_way=under_way,
                cap=_cap(rules, view, number, size),
                per_minute=_rate(view, phase, offered, size),
                soak=phase.soak,
                soak_until=campaign.soak_until if is_open and campaign.phase_state is PhaseState.SOAKING else None,
                ripening=reading.ripening if is_open else 0,
                wanted=wanted,
                waits_for_all=phase.promote is None or number == len(plan.phases) - 1,
                people=people,
            )
        )
    return found


def _wanted(phase: Phase, reading: GateReading | None, size: int) -> tuple[int, bool]:
    """Further matured devices that the phase needs, and whether it can have them; of a phase to come, without any failure."""
    matured = 0 if reading is None else reading.matured
    test = 0
    if phase.promote is not None:
        p1, beta = phase.promote.p1, phase.promote.beta
        test = clean_devices_needed(p1, beta) if reading is None else devices_to_promote(reading.failures, p1, beta)
    outstanding = size if reading is None else reading.outstanding
    soak = soak_goal(phase.soak_devices, matured, outstanding)
    return max(0, test - matured, soak - matured), test <= matured + outstanding


def _people(view: View, number: int, phase: Phase) -> tuple[str, ...]:
    campaign = view.campaign
    waits: list[str] = []
    if phase.approval and number not in campaign.phase_approvals:
        waits.append(f"{phase.name}: an approval")
    given = campaign.verdicts
    waits += [f"{phase.name}: the external gate {gate}" for gate in missing(campaign.phases[number], number, given)]
    return tuple(waits)


def _cap(rules: CampaignRules, view: View, number: int, size: int) -> Range:
    """The in-flight cap to come: grown by all that the phase confirms at best, as it is now at worst."""
    limits, phase = rules.dossier.plan.max_in_flight, rules.dossier.plan.phases[number]
    campaign, flow = view.campaign, view.flow
    assert flow is not None
    later = max(0, number - max(campaign.phase, 0))

    def cap(promoted: int, growth: int, setbacks: int) -> int:
        found = pacing.in_flight_cap(
            limits.initial, limits.maximum, promoted, phase.max_in_flight, growth=growth, setbacks=setbacks
        )
        return pacing.lowest(found, campaign.brake.max_in_flight)

    setbacks = 0 if later else campaign.setbacks
    growth = 0 if later else flow.growth
    worst = cap(flow.promoted, 0, campaign.setbacks)
    likely = max(worst, cap(flow.promoted + later, growth, setbacks))
    return Range(low=max(likely, cap(flow.promoted + later, limits.growth(size), setbacks)), likely=likely, high=worst)


def _rate(view: View, phase: Phase, offered: Mapping[str, int], size: int) -> Range | None:
    """Offers a minute to come: a growing rate is fully grown at best, and does not grow at worst."""
    braked = view.campaign.brake.per_minute
    if phase.rate is None:
        return None if braked is None else Range(low=braked, likely=braked, high=braked)
    sofar, confirmed = sum(offered.values()), offered.get("confirmed", 0)
    now = phase.rate.now(confirmed=confirmed, offered=sofar)
    middle = max(now, phase.rate.now(confirmed=(confirmed + size) // 2, offered=(sofar + size) // 2))
    grown = max(middle, phase.rate.now(confirmed=size, offered=size))
    low, likely, high = (pacing.lowest(each, braked) for each in (grown, middle, now))
    return Range(low=low, likely=likely, high=high)


def _owners(plan: Plan, view: View) -> int:
    """How long the end may wait for devices that are withheld, ms."""
    if not view.line.withheld:
        return 0
    return plan.owner.patience if view.waits_until is None else max(0, view.waits_until - view.now)


def _longest(plan: Plan) -> int:
    """From a device's first offer to the end of its last attempt, ms."""
    attempt = plan.offer_ttl + plan.confirm_deadline
    pauses = (plan.retry.pauses(outcome, plan.offer_ttl) for outcome in Outcome)
    return max(attempt * (len(each) + 1) + sum(each) for each in pauses)


def _said(schedule: Schedule) -> str:
    if schedule.per_device:
        return "Each device's own windows are not counted, so it may take longer."
    if schedule.windows:
        return "Only time inside the windows counts for offers."
    if schedule.freezes or schedule.start_at is not None:
        return "Freezes and the start are counted."
    return ""
