"""``app.inspection`` on PostgreSQL: counted in the database in one snapshot, with a few ids of each kind.

The conditions are those of ``adapters.sql.fleet``; a test compares the counts with the domain's rules in Python.
"""

from __future__ import annotations

from typing import Any, Final

import asyncpg

from orchestrator.adapters.sql.selection import current, wanted
from orchestrator.app.inspection import SAMPLES, SHOWN, UNSEEN_DAYS, Conflict, Inspection, NotApplicable
from orchestrator.domain.campaign import LIVE
from orchestrator.domain.plan import Plan
from orchestrator.domain.selection import Target

_DAY_MS: Final = 24 * 3_600_000

_ENROLLED: Final = frozenset({"never_seen", "not_seen_lately"})
"""Reasons to expect silence; they keep nobody out, because presence is losable."""

_LISTED: Final = """SELECT u.id AS device_id, CASE WHEN d.device_no IS NULL THEN 'unknown_device' ELSE 'not_selected' END AS reason
FROM unnest(${ids}::text[]) AS u(id) LEFT JOIN device_identity i ON i.device_id = u.id LEFT JOIN device d USING (device_no)
WHERE d.device_no IS NULL OR NOT EXISTS (SELECT 1 FROM device WHERE device.device_no = d.device_no AND {asked})"""

# An ended campaign's devices may still be in flight; they are as busy as those of one that runs.
_BUSY: Final = """SELECT campaign_no, device_no, true AS in_flight FROM device_slot WHERE campaign_no <> ${own}
UNION ALL SELECT campaign_no, device_no, false FROM offer_queue JOIN campaign USING (campaign_no)
WHERE state = ANY(${live}::text[]) AND campaign_no <> ${own}"""


async def inspect(conn: asyncpg.Connection, plan: Plan, target: Target, campaign_no: int, now: int) -> Inspection:
    """Read in the caller's transaction, which should hold one snapshot."""
    parameters: list[Any] = [list(plan.cohort.hardware_models)]
    asked = f"($1::text[] = '{{}}' OR hardware_model = ANY($1::text[])) AND {wanted(plan, 2, parameters)}"
    by_asked = len(parameters)
    parameters.append(list(target.artifacts))
    supported = f"hardware_model = ANY(${len(parameters)}::text[])"
    skipped = current(target, len(parameters) + 1, parameters) if plan.cohort.leaves_out_current else "false"
    member = f"{asked} AND {supported} AND NOT {skipped}"
    found = await _set_aside(conn, asked, supported, skipped, [*parameters, now - UNSEEN_DAYS * _DAY_MS])
    found += await _listed(conn, plan, asked, parameters[:by_asked])
    return Inspection(conflicts=await _conflicts(conn, member, parameters, campaign_no), not_applicable=found)


async def _set_aside(
    conn: asyncpg.Connection, asked: str, supported: str, skipped: str, parameters: list[Any]
) -> list[NotApplicable]:
    reason = (
        f"CASE WHEN NOT {supported} THEN 'hardware_model' WHEN {skipped} THEN 'already_current'"
        " WHEN greatest(last_seen_at, reported_at) IS NULL THEN 'never_seen'"
        f" WHEN greatest(last_seen_at, reported_at) < ${len(parameters)} THEN 'not_seen_lately' END"
    )
    detail = f"CASE WHEN NOT {supported} THEN hardware_model END"
    source = f"FROM device LEFT JOIN presence USING (device_no) WHERE {asked}"
    rows = await conn.fetch(
        f"SELECT {reason} AS reason, {detail} AS detail, count(*)::bigint AS devices {source} GROUP BY 1, 2"
        " ORDER BY devices DESC, reason, detail",
        *parameters,
    )
    at = len(parameters) + 1
    sample = (
        f"SELECT device_id {source} AND {reason} = ${at}::text AND {detail} IS NOT DISTINCT FROM ${at + 1}::text"
        f" ORDER BY device_no LIMIT {SAMPLES}"
    )
    return [
        NotApplicable(
            reason=row["reason"],
            detail=row["detail"],
            devices=row["devices"],
            enrolled=row["reason"] in _ENROLLED,
            samples=[one["device_id"] for one in await conn.fetch(sample, *parameters, row["reason"], row["detail"])],
        )
        for row in [row for row in rows if row["reason"] is not None][:SHOWN]
    ]


async def _listed(conn: asyncpg.Connection, plan: Plan, asked: str, parameters: list[Any]) -> list[NotApplicable]:
    """Ids that the plan lists and that are no device, or one that the plan does not ask for."""
    ids = {*plan.cohort.include, *(device for phase in plan.phases for device in phase.devices or ())}
    if not ids:
        return []
    listed = _LISTED.format(ids=len(parameters) + 1, asked=asked)
    rows = await conn.fetch(
        f"SELECT reason, count(*)::bigint AS devices, (array_agg(device_id ORDER BY device_id))[1:{SAMPLES}] AS samples"
        f" FROM ({listed}) AS l GROUP BY reason ORDER BY reason",
        *parameters,
        sorted(ids),
    )
    return [NotApplicable(**row, detail=None, enrolled=False) for row in rows]


async def _conflicts(conn: asyncpg.Connection, member: str, parameters: list[Any], campaign_no: int) -> list[Conflict]:
    own, live = len(parameters) + 1, len(parameters) + 2
    args = [*parameters, campaign_no, sorted(LIVE)]
    source = f"({_BUSY.format(own=own, live=live)}) AS busy JOIN device USING (device_no)"
    rows = await conn.fetch(
        "SELECT campaign_id, name, state, in_flight, waiting, campaign_no FROM"
        " (SELECT campaign_no, count(*) FILTER (WHERE in_flight) AS in_flight, count(*) FILTER (WHERE NOT in_flight) AS waiting"
        f" FROM {source} WHERE {member} GROUP BY campaign_no) AS counted JOIN campaign USING (campaign_no)"
        f" ORDER BY in_flight + waiting DESC, campaign_no LIMIT {SHOWN}",
        *args,
    )
    sample = f"SELECT device_id FROM {source} WHERE campaign_no = ${live + 1} AND {member} ORDER BY device_no LIMIT {SAMPLES}"
    return [
        Conflict(
            campaign_id=row["campaign_id"],
            name=row["name"],
            state=row["state"],
            in_flight=row["in_flight"],
            waiting=row["waiting"],
            samples=[one["device_id"] for one in await conn.fetch(sample, *args, row["campaign_no"])],
        )
        for row in rows
    ]
