"""The breaker's hold, and what it is judged on.

The hold stands on the campaign's control row, so slices and starts see it where they see a halt: in a statement of its own under the
shared control lock, which an opening takes exclusively. While it probes, only offers that were made since may be started.

Not here: the decision (``domain.breaker``), its event (``app.breaker``).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql import retrying, rows
from orchestrator.adapters.sql.engine import driver
from orchestrator.adapters.sql.rules import CampaignRules, RulesCache
from orchestrator.app.ports import BreakerReading
from orchestrator.domain.assignment import Assignment
from orchestrator.domain.breaker import Breaker, BreakerSpec, Probes, Reading, Stage, bucket_ms, probe_outcome
from orchestrator.domain.delivery import Delivery
from orchestrator.domain.running import Pauses

_COUNTS: Final = """SELECT outcome, sum(n)::bigint AS n FROM delivery
WHERE campaign_no = $1 AND bucket BETWEEN $2 AND $3 GROUP BY outcome HAVING sum(n) <> 0"""
_OFFERED: Final = """SELECT coalesce(sum(cardinality(device_nos)), 0)::bigint FROM decision_ledger
WHERE campaign_no = $1 AND position > $2 AND kind = 'offer'"""
_PROBES: Final = f"""SELECT l.attempt AS probe, {", ".join(f"a.{name}" for name in Assignment.__struct_fields__)}
FROM decision_ledger l CROSS JOIN unnest(l.device_nos) d
JOIN assignment a ON a.device_no = d AND a.campaign_no = l.campaign_no
WHERE l.campaign_no = $1 AND l.position > $2 AND l.kind = 'offer'"""


@dataclass(frozen=True, slots=True)
class Hold:
    """Of a breaker that is not closed."""

    stage: Stage
    at: int
    """Since when (ms). While it probes, offers of later may be started."""


async def hold(conn: asyncpg.Connection, campaign_no: int) -> Hold | None:
    """The campaign's hold, if there is one; a statement of its own, after the shared control lock."""
    row = await conn.fetchrow("SELECT hold, held_at FROM control WHERE campaign_no = $1 AND stratum = -1", campaign_no)
    return None if row is None or row["hold"] is None else Hold(Stage(row["hold"]), row["held_at"])


async def current(conn: asyncpg.Connection, campaign_no: int) -> Breaker:
    """The breaker's state."""
    found: Any = await conn.fetchval("SELECT breaker FROM campaign WHERE campaign_no = $1", campaign_no)
    return parse(found)


def parse(column: Any) -> Breaker:
    """State from the column, which is empty until it opens for the first time."""
    return Breaker() if column is None else msgspec.convert(column, Breaker)


async def pauses(conn: asyncpg.Connection, campaign_no: int) -> Pauses:
    """When the campaign's deadlines stood still."""
    return (await current(conn, campaign_no)).pauses


async def probes_left(conn: asyncpg.Connection, rules: CampaignRules) -> int:
    """Offers that may still go out in this probing. The caller holds the pacing row, so no other slice counts the same ones."""
    spec = rules.dossier.plan.breaker
    if spec is None:
        return 0
    since = (await current(conn, rules.campaign_no)).position
    offered: Any = await conn.fetchval(_OFFERED, rules.campaign_no, since)
    return max(0, spec.probes - offered)


async def read_breaker(
    engine: AsyncEngine, cache: RulesCache, campaign_no: int, now: int, heard_until: int
) -> BreakerReading | None:
    """What the breaker is judged on, of one snapshot; None for a campaign without one."""
    async with driver(engine) as conn, conn.transaction(isolation="repeatable_read", readonly=True):
        rules = (await cache.get(conn, [campaign_no])).get(campaign_no)
        spec = None if rules is None else rules.dossier.plan.breaker
        if rules is None or spec is None:
            return None
        row = await conn.fetchrow("SELECT state, breaker FROM campaign WHERE campaign_no = $1", campaign_no)
        assert row is not None
        breaker = parse(row["breaker"])
        if breaker.stage is Stage.PROBING:
            probes, waiting = await _probes(conn, rules, breaker, heard_until), await _waiting(conn, campaign_no)
            reading = Reading(counts={}, probes=probes, waiting=waiting)
        else:
            reading = Reading(counts={} if breaker.held else await _counts(conn, campaign_no, spec, breaker, now))
    return BreakerReading(spec=spec, breaker=breaker, reading=reading, state=row["state"], offer_ttl=rules.offer_ttl)


async def _counts(
    conn: asyncpg.Connection, campaign_no: int, spec: BreakerSpec, breaker: Breaker, now: int
) -> dict[str, int]:
    """Outcomes of the window, in whole buckets; of the one in which it was closed nothing counts."""
    width = bucket_ms(spec)
    first = (now - spec.window) // width + 1
    if breaker.openings:
        first = max(first, breaker.at // width + 1)
    found = await conn.fetch(_COUNTS, campaign_no, first, now // width)
    return {row["outcome"]: row["n"] for row in found}


async def _probes(conn: asyncpg.Connection, rules: CampaignRules, breaker: Breaker, heard_until: int) -> Probes:
    found = await conn.fetch(_PROBES, rules.campaign_no, breaker.position)
    outcomes = Counter(
        probe_outcome(row, record["probe"], heard_until, rules.confirm_deadline)
        for record, row in zip(found, rows.parse(list(record)[1:] for record in found), strict=True)
    )
    failed = {name: n for name, n in outcomes.items() if name and name != Delivery.DELIVERED}
    return Probes(
        offered=len(found),
        delivered=outcomes[Delivery.DELIVERED],
        failed={str(name): n for name, n in failed.items()},
        pending=outcomes[None],
    )


async def _waiting(conn: asyncpg.Connection, campaign_no: int) -> bool:
    """Whether devices wait for an offer, or for the decision that they do."""
    found: Any = await conn.fetchval(
        "SELECT EXISTS (SELECT 1 FROM offer_queue q JOIN campaign c USING (campaign_no)"
        " WHERE q.campaign_no = $1 AND q.phase <= c.phase AND NOT EXISTS (SELECT 1 FROM control k"
        " WHERE k.campaign_no = $1 AND k.stratum = q.stratum AND k.state = 'halted'))"
        " OR EXISTS (SELECT 1 FROM due_queue WHERE due_at = $2 AND campaign_no = $1 AND what = $3)",
        campaign_no,
        retrying.AT_ONCE,
        retrying.RETRY,
    )
    return found
