"""What is asked about a campaign that does not move, in one snapshot.

Sums of counters, and queues up to ``COUNTED`` entries; nothing is counted over rows of the fleet. Only the budget counts the
devices in flight, as every slice does. What slices obey is read by the functions that slices use.

Not here: what follows from it (``domain.explain``), the ETA's reading (``eta_reading``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import asyncpg

from orchestrator.adapters.sql import breaker, budget, campaigns, event_log, fleet_stop, rows, schedules
from orchestrator.adapters.sql.dispatch import halted_strata
from orchestrator.adapters.sql.eta_reading import read_eta
from orchestrator.adapters.sql.gate_reading import reading_of
from orchestrator.adapters.sql.pace import in_force
from orchestrator.adapters.sql.retrying import AT_ONCE, RETRY, RETRY_RANK
from orchestrator.adapters.sql.rules import CampaignRules, RulesCache
from orchestrator.adapters.sql.selection import attribute_names, value_columns
from orchestrator.app.explain import CampaignReading
from orchestrator.domain import pacing
from orchestrator.domain.assignment import ACTIVE, Assignment, State, due
from orchestrator.domain.budget import Candidate, Place, admit
from orchestrator.domain.campaign import Campaign, PhaseState
from orchestrator.domain.conflict import DEFAULT_PRIORITY
from orchestrator.domain.eta import Eta
from orchestrator.domain.explain import COUNTED, Evidence, Flow, FullPlace, Line, Oldest, Stop, View
from orchestrator.domain.running import FOREVER

DEADLINES: Final = 20_000
"""Deadlines of all campaigns among which the oldest one of this is looked for; beyond them it is left unsaid."""

OLDEST: Final = 2_000
"""Devices in flight that are looked at for the oldest one: all of them if they are no more, the next deadlines otherwise."""

_ROW: Final = ", ".join(f"a.{name}" for name in Assignment.__struct_fields__)

_LINE: Final = f"""SELECT device_no, rank, not_before FROM offer_queue
WHERE campaign_no = $1 AND phase <= $2 AND stratum <> ALL($3::smallint[]) AND withheld IS NULL
AND (rank < {RETRY_RANK} OR not_before <= $4)
ORDER BY phase, rank LIMIT {COUNTED}"""
_PAUSED: Final = f"""SELECT count(*) AS n, min(not_before) AS next FROM (SELECT not_before FROM offer_queue
WHERE campaign_no = $1 AND phase <= $2 AND stratum <> ALL($3::smallint[]) AND withheld IS NULL
AND rank >= {RETRY_RANK} AND not_before > $4
LIMIT {COUNTED}) q"""
_UNDECIDED: Final = f"""SELECT count(*) FROM (SELECT 1 FROM due_queue
WHERE due_at = {AT_ONCE} AND campaign_no = $1 AND what = '{RETRY}' LIMIT {COUNTED}) q"""
_WITHHELD: Final = f"""SELECT withheld, count(*) AS n FROM (SELECT withheld FROM offer_queue
WHERE campaign_no = $1 AND phase <= $2 AND withheld IS NOT NULL AND stratum <> ALL($3::smallint[]) LIMIT {COUNTED}) q GROUP BY 1"""
_BUSY: Final = """SELECT c.campaign_id, count(*) AS n FROM device_slot s JOIN campaign c USING (campaign_no)
WHERE s.device_no = ANY($1::int[]) AND s.campaign_no <> $2 GROUP BY 1"""
_OUTRANKED: Final = f"""SELECT c.campaign_id, count(DISTINCT q.device_no) AS n FROM unnest($1::int[]) u(d)
JOIN offer_queue q ON q.device_no = u.d JOIN campaign c USING (campaign_no)
WHERE q.campaign_no <> $2 AND c.state = 'running' AND q.phase <= c.phase AND q.not_before <= $4
AND coalesce((c.plan ->> 'priority')::int, {DEFAULT_PRIORITY}) > $3 GROUP BY 1"""
_UNDER_WAY: Final = """SELECT state, sum(n)::bigint AS n FROM counter WHERE campaign_no = $1 AND state = ANY($2::text[])
GROUP BY state HAVING sum(n) <> 0"""
# Materialized, so that no plan reads more of the assignments than these. A device that has ended leaves its deadline behind.
_NEXT: Final = f"""WITH near AS MATERIALIZED (SELECT device_no, attempt FROM
    (SELECT * FROM due_queue WHERE due_at > {AT_ONCE} ORDER BY due_at LIMIT {DEADLINES}) q
    WHERE campaign_no = $1 ORDER BY due_at LIMIT {OLDEST})
SELECT i.device_id, {_ROW} FROM near JOIN assignment a ON a.device_no = near.device_no AND a.campaign_no = $1
AND a.attempt = near.attempt JOIN device_identity i ON i.device_no = near.device_no WHERE a.state = ANY($2::text[])"""
_ALL: Final = f"""WITH near AS MATERIALIZED (SELECT device_no FROM device_slot WHERE campaign_no = $1 LIMIT {OLDEST})
SELECT i.device_id, {_ROW} FROM near JOIN assignment a ON a.device_no = near.device_no AND a.campaign_no = $1
JOIN device_identity i ON i.device_no = near.device_no WHERE a.state = ANY($2::text[])"""

_STATES: Final = [state.value for state in State if state in ACTIVE]
"""In flight, in the order of their ranks."""


async def read_campaign(conn: asyncpg.Connection, cache: RulesCache, campaign_id: str, now: int) -> CampaignReading:
    """The campaign in the caller's snapshot. Raises CampaignNotFoundError."""
    campaign = await campaigns.load(conn, campaign_id)
    rules = (await cache.current(conn, [campaign.campaign_no])).get(campaign.campaign_no)
    halts = await campaigns.release_halts(conn, campaign.release_id, campaign.campaign_no)
    stop = await _fleet(conn)
    if rules is None:
        view = View(campaign=campaign, now=now, fleet=stop, release_halted_in=tuple(halts))
        return CampaignReading(view=view, eta=Eta(none_because=f"The campaign is {campaign.state}."))
    opened = max(campaign.phase, 0)
    line, devices = await _line(conn, rules, opened, now)
    found = await conn.fetch(_UNDER_WAY, campaign.campaign_no, _STATES)
    counted = {row["state"]: row["n"] for row in found}
    under_way = {state: counted[state] for state in _STATES if state in counted}
    reading = await reading_of(conn, rules, opened, now)
    full, unhindered = await _full(conn, rules, devices)
    view = View(
        campaign=campaign,
        now=now,
        fleet=stop,
        release_halted_in=tuple(halts),
        shut=schedules.shut(rules, now),
        line=line,
        flow=await _flow(conn, rules, opened, sum(under_way.values()), now),
        full=full,
        unhindered=unhindered,
        evidence=Evidence(
            matured=reading.matured,
            failures=reading.failures,
            uncovered=tuple(key for key, matured in reading.strata.items() if not matured),
            outstanding=reading.outstanding,
        ),
        under_way=under_way,
        oldest=await _oldest(conn, rules, campaign, sum(under_way.values())),
        waits_until=_waits_until(rules, campaign),
    )
    return CampaignReading(view=view, eta=await read_eta(conn, rules, view, reading))


def _waits_until(rules: CampaignRules, campaign: Campaign) -> int | None:
    """How long it waits for what is withheld, once its last phase is promoted."""
    last = campaign.phase == len(campaign.phases) - 1 and campaign.phase_state is PhaseState.PROMOTED
    return (campaign.promoted_at or 0) + rules.dossier.plan.owner.patience if last else None


async def _fleet(conn: asyncpg.Connection) -> Stop | None:
    if not await fleet_stop.withheld(conn):
        return None
    last = (await event_log.read_stream(conn, fleet_stop.STREAM))[-1]
    return Stop(by=last.event.actor, reason=last.event.reason)


async def _line(conn: asyncpg.Connection, rules: CampaignRules, phase: int, now: int) -> tuple[Line, Sequence[int]]:
    """Who waits, and the first devices of the line."""
    scope = rules.campaign_no, phase, await halted_strata(conn, rules.campaign_no), now
    entries = await conn.fetch(_LINE, *scope)
    paused = await conn.fetchrow(_PAUSED, *scope)
    assert paused is not None
    undecided: Any = await conn.fetchval(_UNDECIDED, rules.campaign_no)
    withheld = await conn.fetch(_WITHHELD, *scope[:3])
    devices = [row["device_no"] for row in entries]
    later = [row["not_before"] for row in entries if row["not_before"] > now]
    busy = await conn.fetch(_BUSY, devices, rules.campaign_no) if devices else []
    priority = rules.dossier.plan.priority
    outranked = await conn.fetch(_OUTRANKED, devices, rules.campaign_no, priority, now) if devices else []
    nexts = [*later, *([] if paused["next"] is None else [paused["next"]])]
    line = Line(
        queued=len(entries),
        ready=len(entries) - len(later),
        retries=min(COUNTED, paused["n"] + undecided),
        next_at=min(nexts, default=None),
        looked_at=len(devices),
        withheld={row["withheld"]: row["n"] for row in withheld},
        busy={row["campaign_id"]: row["n"] for row in busy},
        outranked={row["campaign_id"]: row["n"] for row in outranked},
    )
    return line, devices


async def _flow(conn: asyncpg.Connection, rules: CampaignRules, phase: int, in_flight: int, now: int) -> Flow:
    """The pace as the next slice will find it."""
    pace = await in_force(conn, rules, phase)
    tokens = token_at = None
    if pace.per_minute is not None:
        held = await conn.fetchrow("SELECT * FROM pacing WHERE campaign_no = $1", rules.campaign_no)
        bucket = pacing.full_bucket(pace.per_minute, now)
        if held is not None and held["phase"] == phase:
            bucket = pacing.Bucket(held["credit"], held["bucket_at"])
        tokens = pacing.tokens(bucket, pace.per_minute, now)
        token_at = pacing.next_token(bucket, pace.per_minute, now)
    return Flow(
        cap=pace.cap,
        per_minute=pace.per_minute,
        promoted=pace.promoted,
        growth=pace.growth,
        in_flight=in_flight,
        tokens=tokens,
        token_at=token_at,
    )


async def _full(
    conn: asyncpg.Connection, rules: CampaignRules, devices: Sequence[int]
) -> tuple[tuple[FullPlace, ...], int]:
    """Places of the budget that turn devices of the line away, and how many devices it lets pass."""
    limits = rules.dossier.budget
    if not limits or not devices:
        return (), 0
    labels = [each.label for each in limits]
    columns = value_columns(labels, 2)
    found = await conn.fetch(
        f"SELECT device_no, {', '.join(columns)} FROM device WHERE device_no = ANY($1::int[])"
        " AND NOT EXISTS (SELECT 1 FROM device_slot s WHERE s.device_no = device.device_no)",
        list(devices),
        *attribute_names(labels),
    )
    usage = await budget.usage(conn, limits)
    candidates = [Candidate(device, tuple(values)) for device, *values in found]
    admission = admit(candidates, usage, limits, COUNTED)
    waiting: Mapping[Place, int] = Counter(admission.refused.values())
    places: list[FullPlace] = []
    for number, limit in enumerate(limits):
        values = [value for at, value in waiting if at == number]
        by = await budget.holders(conn, limit.label, values) if values else {}
        places += [
            FullPlace(
                label=limit.label,
                value=value,
                limit=limit.limit(value),
                in_flight=usage.in_flight.get((number, value), 0),
                waiting=waiting[number, value],
                campaigns=by.get(value, {}),
            )
            for value in values
        ]
    return tuple(sorted(places, key=lambda place: (-place.waiting, place.label, place.value))), len(admission.admitted)


async def _oldest(conn: asyncpg.Connection, rules: CampaignRules, campaign: Campaign, in_flight: int) -> Oldest | None:
    """The device whose time is over first; None while time stands still."""
    if not in_flight:
        return None
    pauses = await breaker.pauses(conn, campaign.campaign_no)
    found = await conn.fetch(_ALL if in_flight < OLDEST else _NEXT, campaign.campaign_no, _STATES)
    parsed = rows.parse(list(record)[1:] for record in found)
    ends = [
        Oldest(device_id=record["device_id"], state=str(row.state), due_at=what[1])
        for record, row in zip(found, parsed, strict=True)
        if (what := due(row, rules.offer_ttl, rules.confirm_deadline, pauses)) is not None and what[1] < FOREVER
    ]
    return min(ends, key=lambda end: end.due_at, default=None)
