"""The rules on health, evaluated from the devices' reports by the process manager's step, and not by the projector.

A report counts by the time it was recorded, once everything recorded before a cut has been projected; it is then never read again. The
arms are made when reports are counted, from rows that are equal after every rebuild: devices of the campaign from their first start in
the running gate epoch on, and the holdback that the enrolment froze into the ledger from the epoch's opening on. What a device
reports after it started in a later campaign says nothing about this one.

What has been counted is scratch: without it, everything since the epoch opened is counted again. It differs then only by reports
that came later than ``LATE_MS`` after their time, which the first count has missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import failpoints
from orchestrator.adapters.sql import campaigns
from orchestrator.adapters.sql.dispatch import control_state, halted_strata
from orchestrator.adapters.sql.engine import driver, transaction
from orchestrator.adapters.sql.locks import HEALTH
from orchestrator.adapters.sql.rules import CampaignRules, RulesCache
from orchestrator.app.ports import Meta, Standing
from orchestrator.domain import campaign as c
from orchestrator.domain.health_rule import HELD, Cell, HealthGate, Reading, counted, standings
from orchestrator.domain.health_rule import Standing as Stand
from orchestrator.telemetry.propagation import current_traceparent
from schemas.campaign_events import CampaignHalted

LATE_MS: Final = 10_000
"""From a report's time to the broker's acknowledgement, at most, the clocks of gateway and worker included. A later one is not
counted: it is lost as evidence, and nothing else."""

WINDOW_MS: Final = 3_600_000
"""Reports counted in one transaction, by their time: after a stop of the worker there may be days of them."""

STATEMENT_S: Final = 540.0
"""Longest statement, seconds: a window of a million devices that report by the minute."""

_OPENED: Final = """SELECT min(recorded_at) FROM event_log
WHERE stream = $1 AND type IN ('CampaignLaunched', 'CampaignResumed') AND (data ->> 'gate_epoch')::int = $2"""

_SAVE: Final = """INSERT INTO health_reading (campaign_no, gate_epoch, rule, counted) VALUES ($1, $2, $3, $4::jsonb)
ON CONFLICT (campaign_no, gate_epoch, rule) DO UPDATE SET counted = excluded.counted"""

_ELSEWHERE: Final = """EXISTS (SELECT 1 FROM assignment o WHERE o.device_no = r.device_no AND o.campaign_no <> $1
    AND o.first_started_at > {since} AND o.first_started_at <= r.recorded_at)"""

_REPORTED: Final = "r.signal = $2 AND r.recorded_at >= $3 AND r.recorded_at < $4"

_TREATED: Final = f"""FROM health_report r JOIN assignment a ON a.device_no = r.device_no AND a.campaign_no = $1
WHERE {_REPORTED} AND a.first_started_epoch = $5 AND r.recorded_at - r.exposure_ms >= a.first_started_at
    AND NOT {_ELSEWHERE.format(since="a.first_started_at")}"""

_HELD: Final = f"""FROM (SELECT unnest(device_nos) AS device_no, stratum, greatest(at, $6) AS since FROM decision_ledger
    WHERE campaign_no = $1 AND kind = 'enrol' AND phase = -1) h JOIN health_report r ON r.device_no = h.device_no
WHERE {_REPORTED} AND r.recorded_at - r.exposure_ms >= h.since AND NOT {_ELSEWHERE.format(since="h.since")}"""

_EXPOSED: Final = f"""SELECT a.phase, a.stratum, 0::bigint AS span, sum(r.events)::bigint AS events,
    sum(r.exposure_ms)::bigint AS exposure_ms {_TREATED} GROUP BY a.phase, a.stratum"""

# A device is watched until its first event since the epoch opened, in whichever arm it was then (``health_rule``).
_COMPARED: Final = f"""WITH arms AS MATERIALIZED (
    SELECT r.device_no, r.recorded_at, r.period, r.events, r.exposure_ms, a.phase, a.stratum {_TREATED}
    UNION ALL
    SELECT r.device_no, r.recorded_at, r.period, r.events, r.exposure_ms, {HELD}::smallint AS phase, h.stratum {_HELD})
SELECT w.phase, w.stratum, w.recorded_at / $7 AS span, count(*) FILTER (WHERE w.events > 0) AS events,
    sum(w.exposure_ms)::bigint AS exposure_ms
FROM arms w WHERE NOT EXISTS (SELECT 1 FROM health_report e WHERE e.device_no = w.device_no AND e.signal = $2 AND e.events > 0
    AND e.recorded_at >= $6 AND (e.recorded_at, e.period) < (w.recorded_at, w.period))
GROUP BY w.phase, w.stratum, w.recorded_at / $7"""


async def judge_health(engine: AsyncEngine, cache: RulesCache, campaign_no: int, until: int) -> bool:
    """Count what was reported up to ``until`` (ms), judge, and halt the campaign if a rule says so. True if this call did."""
    async with driver(engine) as conn:
        rules = (await cache.get(conn, [campaign_no])).get(campaign_no)
    if rules is None or not rules.dossier.health:
        return False
    behind = True
    while behind:
        async with transaction(engine) as conn:
            # Of two workers the second waits, and then counts on from where the first one came.
            await conn.execute("SELECT pg_advisory_xact_lock($1, $2)", HEALTH, campaign_no)
            state, _, epoch = await control_state(conn, campaign_no)
            if state not in {c.CampaignState.RUNNING, c.CampaignState.PAUSED}:
                return False
            readings, behind = await _count(conn, rules, epoch, until - LATE_MS)
            found = await _crossing(conn, rules, readings)
            if found is not None:
                return await _halt(conn, rules, epoch, found)
    return False


async def readings(conn: asyncpg.Connection, campaign_no: int, epoch: int) -> dict[str, Reading]:
    """What the rules have counted in a gate epoch, by rule."""
    rows = await conn.fetch(
        "SELECT rule, counted FROM health_reading WHERE campaign_no = $1 AND gate_epoch = $2", campaign_no, epoch
    )
    return {row["rule"]: msgspec.convert(row["counted"], Reading) for row in rows}


async def _count(
    conn: asyncpg.Connection, rules: CampaignRules, epoch: int, until: int
) -> tuple[dict[str, Reading], bool]:
    """Count on, one window at most; also whether there is more to count."""
    known = await readings(conn, rules.campaign_no, epoch)
    opened: Any = await conn.fetchval(_OPENED, campaigns.stream_of(rules.campaign_id), epoch)
    behind = False
    for gate in rules.dossier.health:
        before = known.get(gate.name) or Reading(until=opened)
        span = gate.span or 1
        end = until // span * span
        upto = min(end, (before.until + max(WINDOW_MS, span)) // span * span)
        if upto > before.until:
            cells = await _cells(conn, rules, gate, epoch, opened, before.until, upto)
            known[gate.name] = counted(gate, before, cells, upto)
            text = msgspec.json.encode(known[gate.name]).decode()
            await conn.execute(_SAVE, rules.campaign_no, epoch, gate.name, text)
        behind = behind or upto < end
    return known, behind


async def _cells(
    conn: asyncpg.Connection, rules: CampaignRules, gate: HealthGate, epoch: int, opened: int, start: int, end: int
) -> list[Cell]:
    args: Sequence[Any] = (rules.campaign_no, gate.signal, start, end, epoch)
    if gate.span is None:
        rows = await conn.fetch(_EXPOSED, *args, timeout=STATEMENT_S)
    else:
        rows = await conn.fetch(_COMPARED, *args, opened, gate.span, timeout=STATEMENT_S)
    return [
        Cell(
            phase=row["phase"],
            stratum=rules.strata[row["stratum"]],
            events=row["events"],
            exposure_ms=row["exposure_ms"],
            span=row["span"],
        )
        for row in rows
    ]


async def _crossing(conn: asyncpg.Connection, rules: CampaignRules, known: dict[str, Reading]) -> Stand | None:
    alone = {rules.strata[number] for number in await halted_strata(conn, rules.campaign_no)}
    for gate in rules.dossier.health:
        for stand in standings(gate, known[gate.name], alone) if gate.name in known else ():
            if stand.halts:
                return stand
    return None


async def _halt(conn: asyncpg.Connection, rules: CampaignRules, epoch: int, stand: Stand) -> bool:
    def build(campaign: c.Campaign, standing: Standing) -> c.Command:
        return c.Halt(
            event=CampaignHalted(
                by="gate",
                reason=stand.detail,
                phase=campaign.phase if campaign.phase >= 0 else None,
                gate_epoch=epoch,
                ledger_position=standing.ledger_position,
                rule=stand.rule,
                scope=stand.scope_key,
                log_e=stand.log_e,
                alpha=stand.alpha,
                signal=stand.signal,
                events=stand.events,
                exposure_ms=stand.exposure_ms,
                held_events=stand.held_events,
                held_exposure_ms=stand.held_exposure_ms,
                expected=stand.expected,
            )
        )

    done = await campaigns.execute(
        conn,
        rules.campaign_id,
        build,
        command_id=f"halt/{rules.campaign_id}/{stand.scope_key}/{epoch}",
        meta=Meta(actor="gate", reason=stand.detail, traceparent=current_traceparent()),
    )
    if done.events:
        failpoints.hit("halt.before_commit")
    return bool(done.events)
