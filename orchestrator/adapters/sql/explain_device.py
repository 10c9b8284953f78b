"""What is asked about a device, in one snapshot: the device, its slot, and its place in each campaign.

Looked up by keys, whatever the fleet's size; only where a device is neither offered nor queued the campaign's enrolment rows are read,
to tell who is held back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from orchestrator.adapters.sql import breaker, budget, owners, rows, schedules
from orchestrator.adapters.sql.campaigns import CampaignNotFoundError, stream_of
from orchestrator.adapters.sql.explain_campaign import read_campaign
from orchestrator.adapters.sql.rules import CampaignRules, RulesCache
from orchestrator.adapters.sql.selection import OUTDATED
from orchestrator.app.explain import DeviceReading
from orchestrator.app.registry import DeviceNotFoundError
from orchestrator.domain import explain, pacing
from orchestrator.domain.assignment import Assignment, State, due
from orchestrator.domain.budget import value_of
from orchestrator.domain.campaign import LIVE, CampaignState
from orchestrator.domain.conflict import goes_first
from orchestrator.domain.explain import Condition, FullPlace
from orchestrator.domain.explain.device import Entry, Holder, Seat, Subject
from orchestrator.domain.plan import Plan, parse_plan
from orchestrator.domain.running import FOREVER
from orchestrator.domain.selection import Target
from orchestrator.domain.visibility import Shown, shown

CAMPAIGNS: Final = 50
"""Campaigns that one answer looks at, the newest: more that are live at once are asked for one by one."""

EXPLAINED: Final = 3
"""Campaigns whose own condition is looked up: a device waits in few at once."""

_DEVICE: Final = f"""SELECT i.device_no, d.device_id, d.hardware_model, d.version, d.digest, d.attributes, d.registered_at,
    p.last_seen_at, {OUTDATED.replace("device.", "d.")} AS outdated
FROM device_identity i JOIN device d USING (device_no) LEFT JOIN presence p USING (device_no) WHERE i.device_id = $1"""
_CAMPAIGNS: Final = """SELECT c.campaign_no, c.campaign_id, c.state, c.phase, c.plan, c.enrolment IS NOT NULL AS enrolled,
    coalesce(r.version, '') AS version, coalesce(r.artifacts, '{}') AS artifacts, k.hold, k.held_at
FROM campaign c LEFT JOIN release r USING (release_id)
LEFT JOIN control k ON k.campaign_no = c.campaign_no AND k.stratum = -1
WHERE ($1::text IS NOT NULL AND c.campaign_id = $1) OR ($1 IS NULL AND c.state = ANY($2::text[]))
ORDER BY c.campaign_no DESC LIMIT $3"""
_COUNTED: Final = """SELECT max(coalesce((data ->> 'counted_at')::bigint, recorded_at)) FROM event_log
WHERE stream = $1 AND type = 'CampaignSubmitted'"""
_ROWS: Final = f"""SELECT {", ".join(Assignment.__struct_fields__)} FROM assignment
WHERE device_no = $1 AND campaign_no = ANY($2::int[])"""
_QUEUE: Final = """SELECT q.campaign_no, q.phase, q.rank, q.attempt, q.not_before, q.stratum, c.phase AS opened, c.state,
    c.campaign_id FROM offer_queue q JOIN campaign c USING (campaign_no) WHERE q.device_no = $1"""
_SLOT: Final = f"""SELECT c.campaign_id, {", ".join(f"a.{name}" for name in Assignment.__struct_fields__)}
FROM device_slot s JOIN campaign c USING (campaign_no) JOIN assignment a ON a.device_no = s.device_no
AND a.campaign_no = s.campaign_no WHERE s.device_no = $1"""
_ENROLLED: Final = """SELECT phase FROM decision_ledger
WHERE campaign_no = $1 AND kind = 'enrol' AND $2 = ANY(device_nos) ORDER BY position LIMIT 1"""
_HALTED: Final = "SELECT 1 FROM control WHERE campaign_no = $1 AND stratum = $2 AND state = 'halted'"
_STOPPED: Final = "SELECT 1 FROM control WHERE campaign_no = 0 AND state = 'stopped'"


@dataclass(frozen=True, slots=True)
class _Device:
    """What is the same for all campaigns."""

    no: int
    subject: Subject
    holder: Holder | None
    queue: Mapping[int, asyncpg.Record]
    """By campaign number."""
    rules: Mapping[int, CampaignRules]
    fleet_stopped: bool
    now: int


async def read_device(
    conn: asyncpg.Connection, cache: RulesCache, device_id: str, campaign_id: str | None, now: int
) -> DeviceReading:
    """The device in the caller's snapshot. Raises DeviceNotFoundError, CampaignNotFoundError."""
    row = await conn.fetchrow(_DEVICE, device_id)
    if row is None:
        raise DeviceNotFoundError(f"There is no device {device_id[:64]!r}.")
    campaigns = await conn.fetch(_CAMPAIGNS, campaign_id, sorted(LIVE), CAMPAIGNS)
    if campaign_id is not None and not campaigns:
        raise CampaignNotFoundError(f"There is no campaign {campaign_id[:64]!r}.")
    number: int = row["device_no"]
    queue = {each["campaign_no"]: each for each in await conn.fetch(_QUEUE, number)}
    rules = await cache.current(conn, {*(each["campaign_no"] for each in campaigns), *queue})
    slot = await conn.fetchrow(_SLOT, number)
    holder = None if slot is None else Holder(campaign_id=slot[0], row=rows.parse([list(slot)[1:]])[0])
    subject = Subject(
        device_id=row["device_id"],
        hardware_model=row["hardware_model"],
        version=row["version"],
        digest=row["digest"],
        outdated=row["outdated"],
        attributes=row["attributes"],
        registered_at=row["registered_at"],
        last_seen_at=row["last_seen_at"],
    )
    device = _Device(number, subject, holder, queue, rules, bool(await conn.fetchval(_STOPPED)), now)
    found = await conn.fetch(_ROWS, number, [each["campaign_no"] for each in campaigns])
    assignments = {each.campaign_no: each for each in rows.parse(found)}
    held = await _held(conn, cache, [each for each in campaigns if each["campaign_no"] in queue], now)
    seats = [
        await _seat(conn, device, each, assignments.get(each["campaign_no"]), held.get(each["campaign_no"]))
        for each in campaigns
    ]
    return DeviceReading(device_id=subject.device_id, last_seen_at=subject.last_seen_at, seats=seats)


async def _held(
    conn: asyncpg.Connection, cache: RulesCache, campaigns: list[asyncpg.Record], now: int
) -> dict[int, Condition]:
    """What holds the campaigns in whose queues the device stands."""
    return {
        each["campaign_no"]: explain.explain((await read_campaign(conn, cache, each["campaign_id"], now)).view)[0]
        for each in campaigns[:EXPLAINED]
    }


async def _seat(
    conn: asyncpg.Connection,
    device: _Device,
    campaign: asyncpg.Record,
    row: Assignment | None,
    held: Condition | None,
) -> Seat:
    number: int = campaign["campaign_no"]
    rules = device.rules.get(number)
    plan = parse_plan(campaign["plan"]) if rules is None else rules.dossier.plan
    queued = device.queue.get(number)
    entry = None
    if queued is not None:
        entry = Entry(
            phase=queued["phase"], rank=queued["rank"], attempt=queued["attempt"], not_before=queued["not_before"]
        )
    enrolled: Any = None
    if row is None and entry is None and campaign["enrolled"]:
        enrolled = await conn.fetchval(_ENROLLED, number, device.no)
    stratum = queued["stratum"] if queued is not None else None if row is None else row.stratum
    alone = bool(stratum is not None and await conn.fetchval(_HALTED, number, stratum))
    at = None if row is None or rules is None else await _due_at(conn, rules, row)
    waits = None if queued is None else rules
    return Seat(
        device=device.subject,
        now=device.now,
        campaign_id=campaign["campaign_id"],
        state=CampaignState(campaign["state"]),
        phase=campaign["phase"],
        enrolled=campaign["enrolled"],
        plan=plan,
        target=Target(campaign["version"], campaign["artifacts"]),
        counted_at=await conn.fetchval(_COUNTED, stream_of(campaign["campaign_id"])),
        phase_enrolled=enrolled,
        holder=device.holder,
        row=row,
        due_at=at,
        shown=_shown(device, campaign, row, alone=alone),
        withheld=None
        if rules is None
        else (await owners.withheld(conn, rules, [device.no], device.now)).get(device.no),
        starts_at=_starts_at(plan, row),
        entry=entry,
        stratum_halted=rules.strata[stratum] if alone and rules is not None and stratum is not None else None,
        shut=schedules.own(waits, device.subject.attributes.get("timezone"), device.now) if waits else None,
        full=await _full(conn, waits, device) if waits and device.holder is None else None,
        outranked=_outranked(device, number, plan) if waits else (),
        campaign=held,
    )


async def _due_at(conn: asyncpg.Connection, rules: CampaignRules, row: Assignment) -> int | None:
    pauses = await breaker.pauses(conn, rules.campaign_no)
    what = due(row, rules.offer_ttl, rules.confirm_deadline, pauses)
    return None if what is None or what[1] >= FOREVER else what[1]


def _shown(device: _Device, campaign: asyncpg.Record, row: Assignment | None, *, alone: bool) -> Shown:
    """As the gateways decide it; reports that are not projected yet left out."""
    if row is None:
        return Shown.NOTHING
    control = CampaignState(campaign["state"])
    hold = campaign["hold"] == "open" or (campaign["hold"] == "probing" and row.offered_at <= campaign["held_at"])
    if control is CampaignState.RUNNING and (hold or device.fleet_stopped):
        control = CampaignState.PAUSED
    if alone:
        control = CampaignState.HALTED
    return shown(row.state, control, cancel_requested=row.cancel_requested_at is not None, progress=row.progress)


def _starts_at(plan: Plan, row: Assignment | None) -> int | None:
    jitter = None if row is None or row.state is not State.OFFERED else plan.phases[row.phase].jitter
    if row is None or jitter is None:
        return None
    return row.offered_at + pacing.start_offset(plan.salt, row.device_no, row.attempt, jitter)


def _outranked(device: _Device, number: int, plan: Plan) -> tuple[str, ...]:
    """Running campaigns of higher priority whose slices would take the device now."""
    return tuple(
        sorted(
            each["campaign_id"]
            for no, each in device.queue.items()
            if no != number
            and each["state"] == CampaignState.RUNNING
            and each["phase"] <= each["opened"]
            and each["not_before"] <= device.now
            and no in device.rules
            and goes_first(device.rules[no].dossier.plan.priority, plan.priority)
        )
    )


async def _full(conn: asyncpg.Connection, rules: CampaignRules, device: _Device) -> FullPlace | None:
    """The first place of the budget that has no room for the device."""
    limits = rules.dossier.budget
    if not limits:
        return None
    usage = await budget.usage(conn, limits)
    for number, each in enumerate(limits):
        value = value_of(each.label, device.subject.hardware_model, device.subject.attributes)
        n = usage.in_flight.get((number, value), 0)
        if n >= each.limit(value):
            return FullPlace(label=each.label, value=value, limit=each.limit(value), in_flight=n, waiting=1)
    return None
