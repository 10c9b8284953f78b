"""``orchestrator.app.queries.Queries`` on PostgreSQL: keyset pages and single things, no OFFSET, no COUNT over rows.

Counts of devices are sums of counters. What is read of one campaign is of one snapshot, so its numbers agree with each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import asyncpg
import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql import event_log, owners
from orchestrator.adapters.sql.campaigns import CampaignNotFoundError, release_halts, stream_of
from orchestrator.adapters.sql.component_queries import component_counts, component_status
from orchestrator.adapters.sql.engine import driver
from orchestrator.adapters.sql.health_gate import readings
from orchestrator.adapters.sql.pace_status import brake_status, revision_status
from orchestrator.adapters.sql.registry import ARTIFACT, RELEASE
from orchestrator.adapters.sql.remediation import remediated_by
from orchestrator.adapters.sql.retrying import RETRY_RANK
from orchestrator.app.ports import Recorded
from orchestrator.app.queries import (
    AssignmentStatus,
    BreakerStatus,
    CampaignStatus,
    CampaignSummary,
    DeviceStatus,
    DeviceSummary,
    Enrolment,
    ExternalStatus,
    GateStatus,
    HaltStatus,
    HealthStatus,
    HoldStatus,
    Key,
    Page,
    PhaseStatus,
    StratumHaltStatus,
    TimelineEntry,
)
from orchestrator.app.registry import Artifact, DeviceNotFoundError, HardwareModel, Release, ReleaseNotFoundError
from orchestrator.domain import campaign as c
from orchestrator.domain.breaker import Stage
from orchestrator.domain.external import gate_names
from orchestrator.domain.halt_rule import false_halt_bound
from orchestrator.domain.health_rule import HealthGate, standings
from schemas.campaign_events import BreakerClosed, BreakerOpened, BreakerProbing, CampaignHalted, StratumHalted

T = TypeVar("T")

SCANNED: Final = 20_000
"""Devices that one filtered page looks at, at most: keeps a rare match from reading the whole table in one request."""

ASSIGNMENTS: Final = 50
"""Campaigns of a device that are shown; the earlier ones are in its timeline."""

_SUMMARY = (
    "campaign_no, campaign_id, name, release_id, state, version, author, phase,"
    " jsonb_array_length(plan->'phases') AS phase_count, created_at, updated_at"
)
_DEVICE = (
    "d.device_no, d.device_id, d.hardware_model, d.attributes, d.version, d.digest, d.registered_at, d.reported_at,"
    " p.last_seen_at"
)
_ASSIGNMENTS = f"""SELECT c.campaign_id, c.name AS campaign_name, c.release_id, a.phase, s.key AS stratum, a.attempt, a.action_id,
    a.state, a.changed_at, a.offered_at, a.started_at, a.cancel_requested_at, a.failure_class, a.reason,
    q.not_before AS next_attempt_at, l.device_no IS NOT NULL AS current
FROM assignment a JOIN campaign c ON c.campaign_no = a.campaign_no
JOIN stratum s ON s.campaign_no = a.campaign_no AND s.stratum = a.stratum
LEFT JOIN device_slot l ON l.device_no = a.device_no AND l.campaign_no = a.campaign_no AND l.attempt = a.attempt
LEFT JOIN offer_queue q ON q.campaign_no = a.campaign_no AND q.phase = a.phase AND q.rank = {RETRY_RANK} + a.device_no
WHERE a.device_no = $1 ORDER BY a.campaign_no DESC LIMIT $2"""
_ENTRY = (
    "event_id, type, recorded_at, campaign_no, attempt, failure_class, reason, detail, components, version, digest, partition,"
    ' "offset"'
)
_TIMELINE = f"""SELECT t.event_id, t.type, t.recorded_at, c.campaign_id, t.attempt, t.failure_class, t.reason, t.detail,
    t.components, t.version, t.digest, t.partition, t."offset"
FROM (SELECT {_ENTRY} FROM timeline WHERE device_no = $1 UNION ALL SELECT {_ENTRY} FROM fact_archive WHERE device_no = $1) t
LEFT JOIN campaign c ON c.campaign_no = t.campaign_no
WHERE $2::bigint IS NULL OR (t.recorded_at, t.partition, t."offset") < ($2, $3, $4)
ORDER BY t.recorded_at DESC, t.partition DESC, t."offset" DESC LIMIT $5"""
_AFTER_HALT = """SELECT kind, sum(cardinality(device_nos))::bigint AS n FROM decision_ledger
WHERE campaign_no = $1 AND position > $2 AND ($3::bigint IS NULL OR position <= $3) AND kind IN ('offer', 'start')
GROUP BY kind"""


class SqlQueries:
    """Reads for people."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def campaign(self, campaign_id: str) -> CampaignStatus:
        async with driver(self._engine) as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            return await _campaign(conn, campaign_id)

    async def campaigns(self, limit: int, after: Key | None, *, state: str | None = None) -> Page[CampaignSummary]:
        rows = await self._fetch(
            f"SELECT {_SUMMARY} FROM campaign WHERE ($1::int IS NULL OR campaign_no < $1)"
            " AND ($2::text IS NULL OR state = $2) ORDER BY campaign_no DESC LIMIT $3",
            None if after is None else after[0],
            state,
            limit + 1,
        )
        return _page(rows, limit, _as(CampaignSummary), lambda row: (row["campaign_no"],))

    async def campaign_events(self, campaign_id: str, limit: int, after: Key | None) -> Page[Recorded]:
        async with driver(self._engine) as conn:
            if not await conn.fetchval("SELECT true FROM campaign WHERE campaign_id = $1", campaign_id):
                raise CampaignNotFoundError(f"There is no campaign {campaign_id[:64]!r}.")
            # Campaign streams stay below a few hundred events.
            found = await event_log.read_stream(conn, stream_of(campaign_id), 0 if after is None else int(after[0]))
        return Page(items=found[:limit], after=(found[limit - 1].version,) if len(found) > limit else None)

    async def devices(
        self,
        limit: int,
        after: Key | None,
        *,
        hardware_model: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> Page[DeviceSummary]:
        start = -1 if after is None else int(after[0])
        filtered = hardware_model is not None or bool(attributes)
        window = SCANNED if filtered else limit + 1
        rows = await self._fetch(
            "WITH w AS MATERIALIZED (SELECT * FROM device WHERE device_no > $1 ORDER BY device_no LIMIT $2)"
            f" SELECT {_DEVICE} FROM w d LEFT JOIN presence p ON p.device_no = d.device_no"
            " WHERE ($3::text IS NULL OR d.hardware_model = $3) AND d.attributes @> $4::jsonb ORDER BY d.device_no LIMIT $5",
            start,
            window,
            hardware_model,
            msgspec.json.encode(dict(attributes or {})).decode(),
            limit + 1,
        )
        page = _page(rows, limit, _as(DeviceSummary), lambda row: (row["device_no"],))
        if page.after is None and filtered:
            # Everything in the window was looked at; the list ends only where the window did not fill.
            seen = await self._fetch(
                "SELECT count(*) AS n, max(device_no) AS last FROM"
                " (SELECT device_no FROM device WHERE device_no > $1 ORDER BY device_no LIMIT $2) w",
                start,
                window,
            )
            return Page(items=page.items, after=(seen[0]["last"],) if seen[0]["n"] == window else None)
        return page

    async def device(self, device_id: str) -> DeviceStatus:
        async with driver(self._engine) as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            row = await conn.fetchrow(
                f"SELECT {_DEVICE}, i.token_hash IS NOT NULL AS token_issued FROM device_identity i"
                " JOIN device d ON d.device_no = i.device_no LEFT JOIN presence p ON p.device_no = i.device_no"
                " WHERE i.device_id = $1",
                device_id,
            )
            if row is None:
                raise DeviceNotFoundError(f"There is no device {device_id[:64]!r}.")
            found = await conn.fetch(_ASSIGNMENTS, row["device_no"], ASSIGNMENTS)
            will = await owners.read(conn, device_id)
            components = await component_status(conn, row["device_no"], row["hardware_model"])
        assignments = [msgspec.convert(dict(item), AssignmentStatus) for item in found]
        current = next((item for item in assignments if item.current), None)
        plain = {**row, "will": will, "assignment": current, "assignments": assignments, "components": components}
        return msgspec.convert(plain, DeviceStatus, from_attributes=True)

    async def timeline(self, device_id: str, limit: int, after: Key | None) -> Page[TimelineEntry]:
        async with driver(self._engine) as conn:
            number: Any = await conn.fetchval("SELECT device_no FROM device_identity WHERE device_id = $1", device_id)
            if number is None:
                raise DeviceNotFoundError(f"There is no device {device_id[:64]!r}.")
            rows = await conn.fetch(_TIMELINE, number, *(after or (None, None, None)), limit + 1)
        return _page(rows, limit, _as(TimelineEntry), lambda row: (row["recorded_at"], row["partition"], row["offset"]))

    async def releases(self, limit: int, after: Key | None) -> Page[Release]:
        rows = await self._fetch(
            f"SELECT {RELEASE} FROM release WHERE ($1::text IS NULL OR release_id < $1) ORDER BY release_id DESC LIMIT $2",
            None if after is None else after[0],
            limit + 1,
        )
        return _page(rows, limit, _as(Release), lambda row: (row["release_id"],))

    async def release(self, release_id: str) -> Release:
        rows = await self._fetch(f"SELECT {RELEASE} FROM release WHERE release_id = $1", release_id)
        if not rows:
            raise ReleaseNotFoundError(f"There is no release {release_id[:64]!r}.")
        return msgspec.convert(dict(rows[0]), Release)

    async def artifacts(self, limit: int, after: Key | None) -> Page[Artifact]:
        rows = await self._fetch(
            f"SELECT {ARTIFACT} FROM artifact WHERE ($1::text IS NULL OR (sha256, hardware_model) > ($1, $2))"
            " ORDER BY sha256, hardware_model LIMIT $3",
            *(after or (None, None)),
            limit + 1,
        )
        return _page(rows, limit, _as(Artifact), lambda row: (row["sha256"], row["hardware_model"]))

    async def hardware_models(self, limit: int, after: Key | None) -> Page[HardwareModel]:
        rows = await self._fetch(
            "SELECT name, profile, created_at FROM hardware_model WHERE ($1::text IS NULL OR name > $1) ORDER BY name LIMIT $2",
            None if after is None else after[0],
            limit + 1,
        )
        return _page(rows, limit, _as(HardwareModel), lambda row: (row["name"],))

    async def _fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        async with driver(self._engine) as conn:
            return await conn.fetch(query, *args)


def _as(kind: type[T]) -> Callable[[asyncpg.Record], T]:
    return lambda row: msgspec.convert(dict(row), kind)


def _page(
    rows: Sequence[asyncpg.Record],
    limit: int,
    make: Callable[[asyncpg.Record], T],
    key: Callable[[asyncpg.Record], Key],
) -> Page[T]:
    """A page of at most ``limit`` out of rows that were read with one more, to see whether there is a next one."""
    kept = rows[:limit]
    return Page(items=[make(row) for row in kept], after=key(kept[-1]) if len(rows) > limit else None)


# --------------------------------------------------------------------------- one campaign


async def _campaign(conn: asyncpg.Connection, campaign_id: str) -> CampaignStatus:
    row = await conn.fetchrow(
        f"SELECT {_SUMMARY}, digest, plan, dossier->'phases' AS shares, gate_epoch, phase_state, soak_until, enrolment"
        " FROM campaign WHERE campaign_id = $1",
        campaign_id,
    )
    if row is None:
        raise CampaignNotFoundError(f"There is no campaign {campaign_id[:64]!r}.")
    number: int = row["campaign_no"]
    recorded = await event_log.read_stream(conn, stream_of(campaign_id))
    campaign = c.fold([item.event for item in recorded])
    counts = await _counts(conn, number)
    refused: Any = await conn.fetchval("SELECT refused FROM late_look WHERE campaign_no = $1", number)
    enrolment = None
    if row["enrolment"] is not None:
        enrolment = msgspec.convert(row["enrolment"] | {"refused": refused or {}}, Enrolment)
    exposed: Any = await conn.fetchval(
        "SELECT coalesce(sum(started), 0)::bigint FROM gate_count WHERE campaign_no = $1", number
    )
    gate = await conn.fetch(
        "SELECT rule, scope, gate_epoch, n, f, bound, verdict, evaluated_at FROM gate WHERE campaign_no = $1"
        " ORDER BY gate_epoch DESC, rule, scope",
        number,
    )
    released = await conn.fetchrow("SELECT name, version FROM release WHERE release_id = $1", row["release_id"])
    total: defaultdict[str, int] = defaultdict(int)
    for states in counts.values():
        for state, n in states.items():
            total[state] += n
    return CampaignStatus(
        campaign_id=row["campaign_id"],
        name=row["name"],
        release_id=row["release_id"],
        release_name=released["name"] if released else "",
        release_version=released["version"] if released else "",
        state=row["state"],
        version=row["version"],
        author=row["author"],
        phase=row["phase"],
        phase_count=row["phase_count"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        digest=row["digest"],
        plan=campaign.plan,
        gate_epoch=row["gate_epoch"],
        false_halt_at_most=false_halt_bound(campaign.plan["halt"], row["gate_epoch"]),
        false_halt_after_resume=false_halt_bound(campaign.plan["halt"], max(1, row["gate_epoch"]) + 1),
        approvals=list(campaign.approvals),
        approvals_required=campaign.plan["approvals"]["required"],
        resume_approvals=list(campaign.resume_approvals),
        release_halted_in=list(dict.fromkeys(await release_halts(conn, row["release_id"], number))),
        enrolment=enrolment,
        exposed=exposed,
        spared=None if enrolment is None else enrolment.members - enrolment.holdback - exposed,
        counts=dict(total),
        phases=_phases(campaign, row, counts),
        gate=[msgspec.convert(dict(item), GateStatus) for item in gate],
        health=await _health(conn, campaign),
        halt=await _halt(conn, number, recorded),
        breaker=_breaker(campaign, recorded),
        withheld=campaign.withheld if campaign.state in c.TERMINAL else await _withheld(conn, number),
        halted_strata=[_halted_stratum(item) for item in recorded if isinstance(item.event, StratumHalted)],
        components=await component_counts(conn, number),
        brake=brake_status(campaign, recorded),
        revision=revision_status(campaign, recorded),
        remediates=campaign.plan["cohort"].get("updated_by"),
        remediated_by=await remediated_by(conn, recorded),
    )


def _breaker(campaign: c.Campaign, recorded: Sequence[Recorded]) -> BreakerStatus | None:
    spec = (campaign.dossier.get("plan") or campaign.plan).get("breaker")
    if spec is None:
        return None
    moves = [item.event for item in recorded if isinstance(item.event, BreakerOpened | BreakerProbing | BreakerClosed)]
    opened = next((event for event in reversed(moves) if isinstance(event, BreakerOpened)), None)
    last = moves[-1] if moves else None
    held = campaign.breaker
    return BreakerStatus(
        stage=held.stage,
        cause=last.cause if isinstance(last, BreakerClosed) else held.cause,
        openings=held.openings,
        setbacks=campaign.setbacks,
        changed_at=None if last is None else last.at,
        until=held.until if held.stage is Stage.OPEN else None,
        outcomes=None if opened is None else opened.outcomes,
        failures=None if opened is None else opened.failures,
        classes={} if opened is None else opened.classes,
        share=spec["share"],
        minimum=spec["minimum"],
    )


async def _health(conn: asyncpg.Connection, campaign: c.Campaign) -> list[HealthStatus]:
    gates = [HealthGate.model_validate(gate) for gate in campaign.dossier.get("health", ())]
    if not gates:
        return []
    known = await readings(conn, campaign.campaign_no, campaign.gate_epoch)
    return [
        HealthStatus(
            rule=stand.rule,
            test=stand.test,
            signal=stand.signal,
            scope=stand.scope_key,
            events=stand.events,
            exposure_ms=stand.exposure_ms,
            held_events=stand.held_events,
            held_exposure_ms=stand.held_exposure_ms,
            expected=stand.expected,
            log_e=stand.log_e,
            limit=stand.limit,
            alpha=stand.alpha,
            until=stand.until,
        )
        for gate in gates
        if gate.name in known
        for stand in standings(gate, known[gate.name], campaign.halted_strata)
    ]


def _halted_stratum(item: Recorded) -> StratumHaltStatus:
    event: StratumHalted = item.event
    return StratumHaltStatus(
        stratum=event.stratum,
        reason=event.reason,
        at=item.recorded_at,
        phase=event.phase,
        position=event.ledger_position,
        rule=event.rule,
        n=event.n,
        f=event.f,
        bound=event.bound,
        log_e=event.log_e,
        p0=event.p0,
        alpha=event.alpha,
        failed_at=event.failed_at,
        fact=event.fact,
    )


async def _withheld(conn: asyncpg.Connection, campaign_no: int) -> dict[str, int]:
    rows = await conn.fetch(
        "SELECT withheld, count(*) AS n FROM offer_queue WHERE campaign_no = $1 AND withheld IS NOT NULL"
        " GROUP BY withheld ORDER BY withheld",
        campaign_no,
    )
    return {row["withheld"]: row["n"] for row in rows}


async def _counts(conn: asyncpg.Connection, campaign_no: int) -> dict[int, dict[str, int]]:
    rows = await conn.fetch(
        "SELECT phase, state, sum(n)::bigint AS n FROM counter WHERE campaign_no = $1 GROUP BY phase, state"
        " HAVING sum(n) <> 0 ORDER BY phase, state",
        campaign_no,
    )
    counts: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for row in rows:
        counts[row["phase"]][row["state"]] = row["n"]
    return counts


def _phases(campaign: c.Campaign, row: asyncpg.Record, counts: Mapping[int, dict[str, int]]) -> list[PhaseStatus]:
    shares: list[Any] = row["shares"] or []
    enrolled = campaign.enrolment.phases if campaign.enrolment else []

    def state(index: int) -> c.PhaseState:
        if index == campaign.phase:
            return campaign.phase_state
        return c.PhaseState.PROMOTED if index < campaign.phase else c.PhaseState.WAITING

    return [
        PhaseStatus(
            phase=index,
            name=phase["name"],
            state=state(index),
            devices=enrolled[index] if enrolled else shares[index]["size"] if shares else None,
            counts=counts.get(index, {}),
            approved=index in campaign.phase_approvals,
            soak_until=campaign.soak_until if index == campaign.phase else None,
            soak_ended_at=campaign.soak_ended_at if index == campaign.phase else None,
            external=_external(campaign, index),
            outlasted=[
                HoldStatus(reason=hold.reason, gate=hold.gate, detail=hold.detail, since=hold.since, at=hold.at)
                for hold in campaign.outlasted
                if hold.phase == index
            ],
        )
        for index, phase in enumerate(campaign.phases)
    ]


def _external(campaign: c.Campaign, phase: int) -> list[ExternalStatus]:
    given = {verdict.gate: verdict for verdict in campaign.verdicts if verdict.phase == phase}
    found: list[ExternalStatus] = []
    for name in gate_names(campaign.phases[phase]):
        said = given.get(name)
        found.append(
            ExternalStatus(
                name=name,
                verdict=said and said.verdict,
                reason=said and said.reason,
                evidence=said and said.evidence,
                actor=said and said.actor,
                at=said and said.at,
            )
        )
    return found


async def _halt(conn: asyncpg.Connection, campaign_no: int, recorded: Sequence[Recorded]) -> HaltStatus | None:
    halted = next((item for item in reversed(recorded) if isinstance(item.event, CampaignHalted)), None)
    if halted is None:
        return None
    event: CampaignHalted = halted.event
    resumed = next((r for r in recorded if r.version > halted.version and r.type == "CampaignResumed"), None)
    until = None if resumed is None else resumed.event.ledger_position
    rows = await conn.fetch(_AFTER_HALT, campaign_no, event.ledger_position, until)
    after = {row["kind"]: row["n"] for row in rows}
    return HaltStatus(
        by=event.by,
        reason=event.reason,
        at=halted.recorded_at,
        phase=event.phase,
        gate_epoch=event.gate_epoch,
        position=event.ledger_position,
        offers_after=after.get("offer", 0),
        starts_after=after.get("start", 0),
        rule=event.rule,
        scope=event.scope,
        n=event.n,
        f=event.f,
        bound=event.bound,
        log_e=event.log_e,
        p0=event.p0,
        alpha=event.alpha,
        strata=[msgspec.to_builtins(item) for item in event.strata],
        failed_at=event.failed_at,
        fact=event.fact,
        signal=event.signal,
        events=event.events,
        exposure_ms=event.exposure_ms,
        held_events=event.held_events,
        held_exposure_ms=event.held_exposure_ms,
        expected=event.expected,
    )
