"""``orchestrator.app.as_of.Archive`` on PostgreSQL: the logs as they are in the database, read up to a moment.

Of the fleet everything is counted in one statement of two passes, over the ledger and over the timeline: an assignment's state is the
highest place among its records (``domain.as_of.place``), and what a device ran follows from few shapes that are counted and judged
once each (``domain.as_of.ran``). One device is folded with the domain's own fold; a test compares the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql.engine import driver
from orchestrator.app.as_of import AssignmentAsOf, CampaignAsOf, DeviceAsOf, FleetAsOf, RanCount
from orchestrator.app.backtest import Basis
from orchestrator.app.registry import DeviceNotFoundError
from orchestrator.domain.as_of import PLACES, Member, Ran, Released, Reported, folded, place, ran, state_at
from orchestrator.domain.assignment import (
    ACTIVE,
    IN_TRIAL,
    SEEN,
    Assignment,
    Observation,
    Offer,
    State,
    expiry,
    loss,
    start,
    withdrawal,
)
from orchestrator.domain.campaign import CampaignState
from schemas import device_events as d
from schemas.ledger import Cause, Kind

MOST_COUNTS: Final = 1_000
"""Different counts of what ran that are listed: devices report versions as they like."""

MOST_CAMPAIGNS: Final = 500

TIMEOUT: Final = 300.0
"""Seconds for the fleet's statement: a million devices with four million reports took two minutes on two cores that were six times
busy, before each pass read the timeline by itself."""

MEMORY: Final = "64MB"
"""For each of its sorts and hashes."""

_TIME: Final = 48
"""Bits of a time in ms: enough for nine thousand years."""

_STATES: Final = {event_type: State(state) for event_type, state in d.UPDATE_STATES.items()}

_FIRST: Final = place(0, State.OFFERED)

# Kind, and cause or state seen where it matters, to the place within the attempt.
_LEDGER_PLACES: Final = (
    (Kind.OFFER, "", place(0, State.OFFERED)),
    (Kind.START, "", place(0, State.ACCEPTED)),
    (Kind.EXPIRE, "", place(0, State.EXPIRED)),
    *((Kind.WITHDRAW, str(cause), place(0, withdrawal(0, cause, 0).state)) for cause in Cause),
    *((Kind.UNKNOWN, str(seen), place(0, State.UNKNOWN, seen)) for seen in sorted(SEEN)),
)

_SAID: Final = f"""said AS MATERIALIZED (
    SELECT campaign_no, device_no, max(attempt::bigint * {PLACES} + place) AS highest,
        max(CASE WHEN place = {place(0, State.CONFIRMED)} THEN (attempt::bigint << {_TIME}) - at END) AS confirmed
    FROM (
        SELECT l.campaign_no, u.device_no, l.attempt, k.place, l.at FROM decision_ledger l
        JOIN unnest($2::text[], $3::text[], $4::int[]) k(kind, more, place) ON k.kind = l.kind
            AND k.more = CASE l.kind WHEN 'withdraw' THEN l.cause WHEN 'unknown' THEN l.seen ELSE '' END
        CROSS JOIN unnest(l.device_nos) u(device_no) WHERE l.at <= $1
        UNION ALL
        SELECT f.campaign_no, f.device_no, f.attempt, k.place, f.recorded_at FROM facts f
        JOIN unnest($5::text[], $6::int[]) k(type, place) ON k.type = f.type WHERE f.campaign_no IS NOT NULL) records
    GROUP BY campaign_no, device_no)"""

_FACTS: Final = """facts AS NOT MATERIALIZED (
    SELECT device_no, campaign_no, attempt, type, recorded_at, version, digest, 2147483647 AS loss, "offset" FROM timeline
    WHERE recorded_at <= $1
    UNION ALL SELECT device_no, campaign_no, attempt, type, recorded_at, version, digest, loss, "offset" FROM fact_archive
    WHERE recorded_at <= $1)"""

_COUNTS: Final = f"""WITH {_FACTS}, {_SAID},
confirmed AS (
    SELECT DISTINCT ON (s.device_no) s.device_no, s.at, c.release_id FROM (
        SELECT device_no, campaign_no, (((confirmed >> {_TIME}) + 1) << {_TIME}) - confirmed AS at FROM said
        WHERE highest % {PLACES} = {place(0, State.CONFIRMED)}) s JOIN campaign c ON c.campaign_no = s.campaign_no
    ORDER BY s.device_no, s.at DESC, s.campaign_no DESC),
versions AS (SELECT DISTINCT ON (device_no) device_no, version, recorded_at AS at FROM facts WHERE version IS NOT NULL
    ORDER BY device_no, loss DESC, "offset" DESC),
digests AS (SELECT DISTINCT ON (device_no) device_no, digest, recorded_at AS at FROM facts WHERE digest IS NOT NULL
    ORDER BY device_no, loss DESC, "offset" DESC),
shapes AS (
    SELECT d.hardware_model, c.release_id, CASE WHEN v.at > coalesce(c.at, 0) THEN v.version END AS version,
        CASE WHEN g.at > coalesce(c.at, 0) THEN g.digest END AS digest,
        g.at > coalesce(c.at, 0) AND v.at > coalesce(c.at, 0) AND g.at < v.at AS older, count(*) AS n
    FROM device d LEFT JOIN confirmed c USING (device_no) LEFT JOIN versions v USING (device_no)
    LEFT JOIN digests g USING (device_no) WHERE d.registered_at <= $1 GROUP BY 1, 2, 3, 4, 5)
SELECT * FROM (
    SELECT 0 AS kind, NULL::int AS campaign_no, NULL::bigint AS highest, hardware_model, release_id, version, digest, older, n
    FROM shapes
    UNION ALL SELECT 1, campaign_no, highest % {PLACES}, NULL, NULL, NULL, NULL, NULL, count(*) FROM said GROUP BY campaign_no, 3) c"""

MOVES: Final = {
    "CampaignCreated": CampaignState.DRAFT,
    "CampaignSubmitted": CampaignState.SUBMITTED,
    "CampaignApproved": CampaignState.APPROVED,
    "CampaignLaunched": CampaignState.RUNNING,
    "CampaignPaused": CampaignState.PAUSED,
    "CampaignResumed": CampaignState.RUNNING,
    "CampaignHalted": CampaignState.HALTED,
    "CampaignAborted": CampaignState.ABORTED,
    "CampaignCompleted": CampaignState.COMPLETED,
}
"""What brings a campaign into another state; ``campaign.evolve`` in SQL. An approval that is not complete leaves it submitted."""

_CAMPAIGNS: Final = """SELECT c.campaign_no, c.campaign_id, c.name, c.release_id, m.type, m.complete, m.recorded_at, m.position FROM (
    SELECT DISTINCT ON (stream) stream, type, type <> 'CampaignApproved' OR (data->>'complete')::boolean AS complete, recorded_at,
        position
    FROM event_log WHERE recorded_at <= $1 AND type = ANY($2::text[]) ORDER BY stream, version DESC) m
JOIN campaign c ON m.stream = 'campaign/' || c.campaign_id ORDER BY c.campaign_no DESC"""

_BASIS: Final = """SELECT (SELECT coalesce(max(position), 0) FROM event_log WHERE recorded_at <= $1) AS events,
    (SELECT coalesce(max(position), 0) FROM decision_ledger WHERE at <= $1) AS decisions"""
_BASIS_FACTS: Final = """SELECT DISTINCT ON ("partition") "partition", upto FROM (
    SELECT "partition", 2147483647 AS loss, max("offset") + 1 AS upto FROM timeline WHERE recorded_at <= $1 GROUP BY 1
    UNION ALL SELECT "partition", loss, max("offset") + 1 FROM fact_archive WHERE recorded_at <= $1 GROUP BY 1, 2) p
ORDER BY "partition", loss DESC"""
_RELEASES: Final = """SELECT release_id, version, artifacts, components FROM release
WHERE created_at <= $1 ORDER BY created_at, release_id"""

_DEVICE: Final = """SELECT d.device_no, d.device_id, d.hardware_model, d.registered_at FROM device_identity i
JOIN device d ON d.device_no = i.device_no WHERE i.device_id = $1"""
_MEMBERSHIPS: Final = """SELECT a.campaign_no, a.phase, a.stratum, s.key, c.campaign_id, c.name, c.release_id FROM assignment a
JOIN campaign c ON c.campaign_no = a.campaign_no JOIN stratum s ON s.campaign_no = a.campaign_no AND s.stratum = a.stratum
WHERE a.device_no = $1 ORDER BY a.campaign_no DESC"""
_DECISIONS: Final = """SELECT campaign_no, kind, attempt, cause, seen, gate_epoch, at,
    action_base + array_position(device_nos, $2) - 1 AS action_id
FROM decision_ledger WHERE campaign_no = ANY($3::int[]) AND at <= $1 AND $2 = ANY(device_nos) ORDER BY position"""
_STATED: Final = """SELECT * FROM (
    SELECT campaign_no, attempt, type, recorded_at, failure_class, reason, version, digest, 2147483647 AS loss, "offset"
    FROM timeline WHERE device_no = $2 AND recorded_at <= $1
    UNION ALL SELECT campaign_no, attempt, type, recorded_at, failure_class, reason, version, digest, loss, "offset"
    FROM fact_archive WHERE device_no = $2 AND recorded_at <= $1) f ORDER BY loss, "offset\""""

_Releases = dict[str, dict[str, Released]]
"""Hardware model to release id to the release."""


class SqlArchive:
    """Reads in one snapshot."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def fleet(self, at: int) -> FleetAsOf:
        async with driver(self._engine) as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            await conn.execute(f"SET LOCAL work_mem = '{MEMORY}'")
            kinds, more, places = zip(*((str(k), m, p) for k, m, p in _LEDGER_PLACES), strict=True)
            types, ranks = zip(*((kind, place(0, state)) for kind, state in _STATES.items()), strict=True)
            rows = await conn.fetch(_COUNTS, at, kinds, more, places, types, ranks, timeout=TIMEOUT)
            moves = await conn.fetch(_CAMPAIGNS, at, list(MOVES), timeout=TIMEOUT)
            releases = await _releases(conn, at)
            basis = await _basis(conn, at)
        counts = _ran_counts([row for row in rows if row["kind"] == 0], releases)
        states: dict[int, dict[str, int]] = {}
        for row in rows:
            if row["kind"] == 1:
                states.setdefault(row["campaign_no"], {})[state_at(row["highest"]).value] = row["n"]
        return FleetAsOf(
            at=at,
            devices=sum(count.devices for count in counts),
            ran=counts[:MOST_COUNTS],
            other=sum(count.devices for count in counts[MOST_COUNTS:]),
            campaigns=[_campaign(row, states.get(row["campaign_no"], {})) for row in moves[:MOST_CAMPAIGNS]],
            campaigns_left_out=max(0, len(moves) - MOST_CAMPAIGNS),
            basis=basis,
        )

    async def device(self, device_id: str, at: int) -> DeviceAsOf:
        async with driver(self._engine) as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            row = await conn.fetchrow(_DEVICE, device_id)
            if row is None:
                raise DeviceNotFoundError(f"There is no device {device_id[:64]!r}.")
            if row["registered_at"] > at:
                raise DeviceNotFoundError(f"Device {device_id[:64]!r} was registered later.")
            number: int = row["device_no"]
            memberships = await conn.fetch(_MEMBERSHIPS, number)
            campaigns = [each["campaign_no"] for each in memberships]
            decisions = await conn.fetch(_DECISIONS, at, number, campaigns, timeout=TIMEOUT)
            stated = await conn.fetch(_STATED, at, number)
            releases = (await _releases(conn, at)).get(row["hardware_model"], {})
            basis = await _basis(conn, at)
        found = [(each, _folded(number, each, decisions, stated)) for each in memberships]
        assigned = [(each, assignment) for each, assignment in found if assignment is not None]
        last = max(
            ((a.changed_at, a.campaign_no, each) for each, a in assigned if a.state is State.CONFIRMED),
            key=lambda item: item[:2],
            default=None,
        )
        reported = _reported(stated)
        confirmed = None if last is None else releases.get(last[2]["release_id"])
        return DeviceAsOf(
            at=at,
            device_no=number,
            device_id=row["device_id"],
            hardware_model=row["hardware_model"],
            registered_at=row["registered_at"],
            version=reported.version,
            version_at=reported.version_at or None,
            digest=reported.digest,
            digest_at=reported.digest_at or None,
            confirmed_campaign_id=None if last is None else last[2]["campaign_id"],
            confirmed_at=None if last is None else last[0],
            ran=ran(confirmed, reported if last is None else reported.after(last[0]), _by_digest(releases)),
            assignments=[_assignment(each, assignment) for each, assignment in assigned],
            basis=basis,
        )


async def _basis(conn: asyncpg.Connection, at: int) -> Basis:
    row = await conn.fetchrow(_BASIS, at, timeout=TIMEOUT)
    assert row is not None
    facts = await conn.fetch(_BASIS_FACTS, at, timeout=TIMEOUT)
    return Basis(
        events=row["events"], decisions=row["decisions"], facts={str(each["partition"]): each["upto"] for each in facts}
    )


async def _releases(conn: asyncpg.Connection, at: int) -> _Releases:
    """Those that were registered by then, the oldest first."""
    found: _Releases = {}
    for row in await conn.fetch(_RELEASES, at):
        artifacts: dict[str, str] = row["artifacts"]
        for model, digest in artifacts.items():
            release = Released(release_id=row["release_id"], version=row["version"], digest=digest)
            found.setdefault(model, {})[release.release_id] = release
    return found


def _by_digest(releases: Mapping[str, Released]) -> dict[str, Released]:
    """Of several releases with the same artifact the first."""
    found: dict[str, Released] = {}
    for release in releases.values():
        if release.digest is not None:
            found.setdefault(release.digest, release)
    return found


def _ran_counts(shapes: Sequence[asyncpg.Record], releases: _Releases) -> list[RanCount]:
    digests = {model: _by_digest(known) for model, known in releases.items()}
    counts: Counter[tuple[str, Ran]] = Counter()
    for row in shapes:
        model: str = row["hardware_model"]
        confirmed = releases.get(model, {}).get(row["release_id"])
        # Only the order of the two times matters.
        news = Reported(version=row["version"], version_at=2, digest=row["digest"], digest_at=1 if row["older"] else 2)
        counts[model, ran(confirmed, news, digests.get(model, {}))] += row["n"]
    ordered = sorted(
        counts.items(),
        key=lambda item: (
            item[0][0],
            -item[1],
            item[0][1].release_id or "",
            item[0][1].version or "",
            item[0][1].digest or "",
        ),
    )
    return [
        RanCount(
            hardware_model=model,
            release_id=what.release_id,
            version=what.version,
            digest=what.digest,
            source=what.source,
            devices=n,
        )
        for (model, what), n in ordered
    ]


def _campaign(row: asyncpg.Record, states: dict[str, int]) -> CampaignAsOf:
    state = MOVES[row["type"]] if row["complete"] else CampaignState.SUBMITTED
    return CampaignAsOf(
        campaign_id=row["campaign_id"],
        name=row["name"],
        release_id=row["release_id"],
        state=state.value,
        since=row["recorded_at"],
        position=row["position"],
        in_flight=sum(n for name, n in states.items() if name in ACTIVE),
        in_trial=sum(n for name, n in states.items() if name in IN_TRIAL),
        devices=dict(sorted(states.items())),
    )


# --------------------------------------------------------------------------- one device


def _folded(
    device_no: int, member: asyncpg.Record, decisions: Sequence[asyncpg.Record], stated: Sequence[asyncpg.Record]
) -> Assignment | None:
    number = member["campaign_no"]
    own = [row for row in decisions if row["campaign_no"] == number]
    offers = [
        Offer(attempt=row["attempt"], action_id=row["action_id"], gate_epoch=row["gate_epoch"] or 0, at=row["at"])
        for row in own
        if row["kind"] == Kind.OFFER
    ]
    said = [each for row in own if (each := _decided(row)) is not None]
    said += [
        Observation(
            attempt=row["attempt"],
            state=_STATES[row["type"]],
            at=row["recorded_at"],
            failure_class=row["failure_class"],
            reason=row["reason"],
        )
        for row in stated
        if row["campaign_no"] == number and row["type"] in _STATES
    ]
    which = Member(campaign_no=number, device_no=device_no, phase=member["phase"], stratum=member["stratum"])
    return folded(which, offers, said)


def _decided(row: asyncpg.Record) -> Observation | None:
    attempt, at = row["attempt"], row["at"]
    match row["kind"]:
        case Kind.START:
            return start(attempt, at, row["gate_epoch"])
        case Kind.EXPIRE:
            return expiry(attempt, Cause(row["cause"] or Cause.OFFER_TTL), at)
        case Kind.WITHDRAW:
            return withdrawal(attempt, Cause(row["cause"] or Cause.HALTED), at)
        case Kind.UNKNOWN:
            return loss(attempt, State(row["seen"]), at)
        case _:
            return None


def _reported(stated: Sequence[asyncpg.Record]) -> Reported:
    version, version_at, digest, digest_at = None, 0, None, 0
    for row in stated:
        if row["version"] is not None:
            version, version_at = row["version"], row["recorded_at"]
        if row["digest"] is not None:
            digest, digest_at = row["digest"], row["recorded_at"]
    return Reported(version=version, version_at=version_at, digest=digest, digest_at=digest_at)


def _assignment(member: asyncpg.Record, row: Assignment) -> AssignmentAsOf:
    return AssignmentAsOf(
        campaign_id=member["campaign_id"],
        campaign_name=member["name"],
        release_id=member["release_id"],
        phase=row.phase,
        stratum=member["key"],
        attempt=row.attempt,
        action_id=row.action_id,
        state=row.state.value,
        changed_at=row.changed_at,
        offered_at=row.offered_at,
        started_at=row.started_at,
        failure_class=row.failure_class,
        reason=row.reason,
    )
