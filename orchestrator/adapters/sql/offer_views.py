"""What devices are shown, as the database has it in one statement: assignment, control, cancellation and overlay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import asyncpg
import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql.engine import driver
from orchestrator.app.ports import OfferedComponent, OfferView
from orchestrator.domain.assignment import State, standing
from orchestrator.domain.campaign import CampaignState
from orchestrator.domain.visibility import shown

_VIEW = """SELECT a.device_no, a.campaign_no, a.action_id, a.attempt, a.phase, a.offered_at, a.state, a.progress,
    a.cancel_requested_at IS NOT NULL AS cancel,
    c.campaign_id, coalesce((SELECT h.state FROM control h WHERE h.campaign_no = a.campaign_no AND h.stratum = a.stratum),
        CASE WHEN k.state = 'running' AND (k.hold = 'open' OR (k.hold = 'probing' AND a.offered_at <= k.held_at)
            OR EXISTS (SELECT 1 FROM control f WHERE f.campaign_no = 0 AND f.state = 'stopped'))
            THEN 'paused' ELSE k.state END) AS control, r.release_id, r.name AS release_name, r.version AS release_version,
    f.sha256, f.sha1, f.md5, f.size, f.filename,
    (SELECT jsonb_agg(jsonb_build_object('name', p.part ->> 'name', 'kind', p.part ->> 'kind', 'sha256', x.sha256,
            'sha1', x.sha1, 'md5', x.md5, 'size', x.size, 'filename', x.filename) ORDER BY p.place)
        FROM jsonb_array_elements(r.components -> d.hardware_model) WITH ORDINALITY p(part, place)
        JOIN artifact x ON x.hardware_model = d.hardware_model AND x.sha256 = p.part ->> 'sha256') AS components,
    EXISTS (SELECT FROM owner_will w WHERE w.device_no = a.device_no) AS owner_spoke,
    (SELECT array_agg(o.state) FROM report_overlay o WHERE o.device_no = a.device_no AND o.action_id = a.action_id) AS overlay
FROM device_slot s JOIN assignment a ON a.device_no = s.device_no AND a.campaign_no = s.campaign_no
JOIN campaign c ON c.campaign_no = a.campaign_no
JOIN control k ON k.campaign_no = a.campaign_no AND k.stratum = -1
JOIN device_identity d ON d.device_no = a.device_no
JOIN release r ON r.release_id = c.release_id
JOIN artifact f ON f.hardware_model = d.hardware_model AND f.sha256 = r.artifacts ->> d.hardware_model
WHERE s.device_no = ANY($1::int[])"""
_COMPONENTS = """SELECT u.action, p.part ->> 'name' AS name, p.part ->> 'kind' AS kind
FROM unnest($1::bigint[], $2::int[], $3::int[]) u(action, campaign, device)
JOIN campaign c ON c.campaign_no = u.campaign JOIN release r ON r.release_id = c.release_id
JOIN device_identity d ON d.device_no = u.device
CROSS JOIN LATERAL jsonb_array_elements(r.components -> d.hardware_model) p(part)"""


def _view(row: asyncpg.Record) -> OfferView:
    progress = State(row["progress"])
    states = [State(row["state"]), *(State(state) for state in row["overlay"] or ())]
    state = max(states, key=lambda each: standing(each, progress))
    return OfferView(
        campaign_no=row["campaign_no"],
        campaign_id=row["campaign_id"],
        device_no=row["device_no"],
        action_id=row["action_id"],
        attempt=row["attempt"],
        phase=row["phase"],
        offered_at=row["offered_at"],
        owner_spoke=row["owner_spoke"],
        state=(progress if state is State.UNKNOWN else state).value,
        shown=shown(state, CampaignState(row["control"]), cancel_requested=row["cancel"], progress=progress),
        release_id=row["release_id"],
        release_name=row["release_name"],
        release_version=row["release_version"],
        sha256=row["sha256"],
        sha1=row["sha1"],
        md5=row["md5"],
        size=row["size"],
        filename=row["filename"],
        components=msgspec.convert(row["components"] or [], list[OfferedComponent]),
    )


async def read_views(engine: AsyncEngine, device_nos: Sequence[int]) -> dict[int, OfferView]:
    """By device; one without a slot is absent."""
    async with driver(engine) as conn:
        rows = await conn.fetch(_VIEW, device_nos)
    return {row["device_no"]: _view(row) for row in rows}


async def read_components(conn: asyncpg.Connection, given: Mapping[int, tuple[int, int]]) -> dict[int, dict[str, str]]:
    """Action to its components with their kinds; ``given`` says to which (campaign, device) each action belongs."""
    pairs = list(given.values())
    rows = await conn.fetch(_COMPONENTS, list(given), [pair[0] for pair in pairs], [pair[1] for pair in pairs])
    found: dict[int, dict[str, str]] = {action: {} for action in given}
    for row in rows:
        found[row["action"]][row["name"]] = row["kind"]
    return found
