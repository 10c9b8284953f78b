"""The end of waiting: what is withheld when its campaign completes leaves the queues, and the ledger says which devices and why."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql import ledger
from orchestrator.adapters.sql.dispatch import control_state
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.locks import share_control
from orchestrator.domain.campaign import CampaignState
from orchestrator.domain.owner import Reason
from schemas.ledger import Cause, Entry, Kind

MOST: Final = 5_000
"""Devices of one transaction: a ledger row of them is read and hashed whole."""

_TAKE: Final = """WITH c AS MATERIALIZED (
    SELECT phase, rank FROM offer_queue WHERE campaign_no = $1 AND withheld IS NOT NULL
    ORDER BY phase, rank LIMIT $2 FOR UPDATE)
DELETE FROM offer_queue q USING c WHERE q.campaign_no = $1 AND q.phase = c.phase AND q.rank = c.rank
RETURNING q.device_no, q.attempt, q.withheld"""
_CLOSED: Final = """SELECT cause, sum(cardinality(device_nos))::bigint AS n FROM decision_ledger
WHERE campaign_no = $1 AND kind = 'unqueue' AND cause = ANY($2::text[]) GROUP BY cause ORDER BY cause"""


class _StoppedError(Exception):
    pass


async def close_withheld(engine: AsyncEngine, campaign_no: int, now: int) -> dict[str, int]:
    """Close all that is withheld, while the campaign runs; what was ever closed, by reason. Repeating it closes nothing twice."""
    while True:
        try:
            async with transaction(engine) as conn:
                if not await _close(conn, campaign_no, now):
                    rows = await conn.fetch(_CLOSED, campaign_no, list(Reason))
                    return {row["cause"]: row["n"] for row in rows}
        except _StoppedError:
            return {}


async def _close(conn: asyncpg.Connection, campaign_no: int, now: int) -> bool:
    # No slice is under way while the row is held: what it has in hand would come back into the queue after this.
    await conn.execute("SELECT FROM pacing WHERE campaign_no = $1 FOR UPDATE", campaign_no)
    taken = await conn.fetch(_TAKE, campaign_no, MOST)
    if not taken:
        return False
    devices: dict[tuple[str, int], list[int]] = defaultdict(list)
    for row in taken:
        devices[row["withheld"], row["attempt"]].append(row["device_no"])
    await share_control(conn, campaign_no)
    state, version, epoch = await control_state(conn, campaign_no)
    if state != CampaignState.RUNNING:
        raise _StoppedError
    await ledger.append(
        conn,
        [
            Entry(
                campaign_no=campaign_no,
                kind=Kind.UNQUEUE,
                device_nos=sorted(devices[why, attempt]),
                at=now,
                gate_epoch=epoch,
                attempt=attempt,
                cause=Cause(why),
                control_version=version,
            )
            for why, attempt in sorted(devices)
        ],
    )
    return True
