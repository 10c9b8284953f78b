"""Campaign streams, their row and their control row, kept together in one transaction per command."""

from __future__ import annotations

from typing import Any

import asyncpg
import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import failpoints
from orchestrator.adapters.clock import now_ms
from orchestrator.adapters.sql import event_log, ledger
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.locks import own_control
from orchestrator.app.ports import Build, Executed, Meta, Recorded, Standing, VersionConflictError
from orchestrator.domain import campaign as c
from orchestrator.domain.brake import OFF
from orchestrator.errors import NotFoundError
from schemas import campaign_events as e


class CampaignNotFoundError(NotFoundError):
    """There is no such campaign."""

    code = "campaign.not_found"


def stream_of(campaign_id: str) -> str:
    return f"campaign/{campaign_id}"


async def load(conn: asyncpg.Connection, campaign_id: str) -> c.Campaign:
    """Fold the stream. Campaign streams stay below a few hundred events, so there is no snapshot."""
    recorded = await event_log.read_stream(conn, stream_of(campaign_id))
    if not recorded:
        raise CampaignNotFoundError(f"There is no campaign {campaign_id}.")
    return c.fold([r.event for r in recorded])


async def execute(
    conn: asyncpg.Connection,
    campaign_id: str,
    build: Build,
    *,
    command_id: str,
    meta: Meta,
    expected_version: int | None = None,
) -> Executed:
    """One command inside the caller's transaction, as its last statements: the log's lock is held from here to the commit."""
    campaign_no = await conn.fetchval("SELECT campaign_no FROM campaign WHERE campaign_id = $1", campaign_id)
    if campaign_no is not None:
        await own_control(conn, campaign_no)
    else:
        await event_log.own_event_log(conn)  # of two creations under one command id the second finds what the first did
    done = await event_log.of_command(conn, command_id)
    recorded = await event_log.read_stream(conn, stream_of(campaign_id))
    campaign = c.fold([r.event for r in recorded])
    if done:
        return Executed(campaign=campaign, events=done)
    if expected_version is not None and expected_version != campaign.version:
        raise VersionConflictError(
            f"Campaign {campaign_id} is at version {campaign.version}, the request was made for {expected_version}."
        )
    position, digest = await ledger.head(conn)
    halts = await release_halts(conn, campaign.release_id, campaign.campaign_no)
    command = build(
        campaign, Standing(ledger_position=position, ledger_digest=digest, now=now_ms(), release_halts=tuple(halts))
    )
    if campaign.state is None and not isinstance(command, c.Create):
        raise CampaignNotFoundError(f"There is no campaign {campaign_id}.")
    events = c.decide(campaign, command)
    if not events:
        return Executed(campaign=campaign, events=[])
    appended = await event_log.append(
        conn, stream_of(campaign_id), campaign.version, events, command_id=command_id, meta=meta
    )
    for item in appended:
        campaign = c.evolve(campaign, item.event)
        await project(conn, campaign, item)
    return Executed(campaign=campaign, events=appended)


async def release_halts(conn: asyncpg.Connection, release_id: str, campaign_no: int) -> list[str]:
    """Other campaigns in which a release was halted, by its gates or by people, once per halt, oldest first."""
    rows = await conn.fetch(
        "SELECT c.campaign_id FROM campaign c JOIN event_log e ON e.stream = 'campaign/' || c.campaign_id"
        " WHERE c.release_id = $1 AND c.campaign_no <> $2 AND e.type IN ('CampaignHalted', 'StratumHalted')"
        " AND e.data ->> 'by' IS DISTINCT FROM 'orchestrator' ORDER BY e.position",
        release_id,
        campaign_no,
    )
    return [row["campaign_id"] for row in rows]


_UPSERT = """
INSERT INTO campaign AS t (campaign_no, campaign_id, name, release_id, state, version, author, digest, plan, dossier, gate_epoch,
    phase, phase_state, soak_until, promoted_since_halt, enrolment, halt, created_at, updated_at, setbacks, breaker,
    brake)
VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9::jsonb,$10::jsonb,$11,$12,$13,$14,$15,$16::jsonb,$17::jsonb,$18,$18,$19,$20::jsonb,$21::jsonb)
ON CONFLICT (campaign_no) DO UPDATE SET state = excluded.state, version = excluded.version, digest = excluded.digest,
    plan = excluded.plan, dossier = excluded.dossier, gate_epoch = excluded.gate_epoch, phase = excluded.phase,
    phase_state = excluded.phase_state, soak_until = excluded.soak_until, promoted_since_halt = excluded.promoted_since_halt,
    enrolment = coalesce(excluded.enrolment, t.enrolment), halt = excluded.halt, updated_at = excluded.updated_at,
    setbacks = excluded.setbacks, breaker = excluded.breaker, brake = excluded.brake"""

_CONTROL = """
INSERT INTO control AS t (campaign_no, stratum, state, version, gate_epoch, hold, held_at) VALUES ($1, -1, $2, $3, $4, $5, $6)
ON CONFLICT (campaign_no, stratum) DO UPDATE SET state = excluded.state, version = excluded.version,
    gate_epoch = excluded.gate_epoch, hold = excluded.hold, held_at = excluded.held_at"""


def _json(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


async def project(conn: asyncpg.Connection, campaign: c.Campaign, item: Recorded) -> None:
    """Write the rows that follow from one event; used by the append and by the rebuild, so both give the same rows."""
    enrolment = None
    if isinstance(item.event, e.CohortEnrolled | e.MembersJoined):
        enrolment = msgspec.to_builtins(campaign.enrolment) | ({"joined": campaign.joined} if campaign.joined else {})
    await conn.execute(
        _UPSERT,
        campaign.campaign_no,
        campaign.campaign_id,
        campaign.name,
        campaign.release_id,
        str(campaign.state),
        campaign.version,
        campaign.author,
        campaign.digest,
        _json(campaign.plan),
        _json(campaign.dossier),
        campaign.gate_epoch,
        campaign.phase,
        str(campaign.phase_state),
        campaign.soak_until,
        campaign.promoted_since_halt,
        _json(enrolment),
        _json(campaign.halt),
        item.recorded_at,
        campaign.setbacks,
        _json(campaign.breaker) if campaign.breaker.openings else None,
        None if campaign.brake == OFF else _json(campaign.brake),
    )
    if isinstance(item.event, e.StratumHalted):
        number = sorted(campaign.dossier["strata"]).index(item.event.stratum)
        await conn.execute(
            "INSERT INTO control (campaign_no, stratum, state, version, gate_epoch) VALUES ($1, $2, 'halted', $3, $4)",
            campaign.campaign_no,
            number,
            campaign.version,
            campaign.gate_epoch,
        )
    if campaign.state in c.LIVE or campaign.state in c.TERMINAL:
        held = campaign.breaker if campaign.breaker.held else None
        await conn.execute(
            _CONTROL,
            campaign.campaign_no,
            str(campaign.state),
            campaign.version,
            campaign.gate_epoch,
            None if held is None else str(held.stage),
            None if held is None else held.at,
        )


class SqlCampaignStore:
    """``orchestrator.app.ports.CampaignStore`` on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def next_campaign_no(self) -> int:
        async with transaction(self._engine) as conn:
            no: Any = await conn.fetchval("SELECT nextval('campaign_no')")
        return no

    async def load(self, campaign_id: str) -> c.Campaign:
        async with transaction(self._engine) as conn:
            return await load(conn, campaign_id)

    async def execute(
        self, campaign_id: str, build: Build, *, command_id: str, meta: Meta, expected_version: int | None = None
    ) -> Executed:
        async with transaction(self._engine) as conn:
            done = await execute(
                conn, campaign_id, build, command_id=command_id, meta=meta, expected_version=expected_version
            )
            if done.events:
                failpoints.hit("command.before_commit")
        if done.events:
            failpoints.hit("command.after_commit")
        return done
