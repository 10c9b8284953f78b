"""What is left of the facts of a partition whose log was damaged: kept, and folded again by a rebuild in the place of the log.

The broker destroys the facts that had been read together with those that had not. Of the former the timeline has all that the fold
needs, so at an accepted loss its rows of the partition move here and are truth from then on. All of them move, also such as the log
still holds: then a rebuild folds the archive and reads the log from where the projection reads on, and no offset means two records.

What devices report of their health is in the timeline whole, as its detail. Of attributes only version and digest are. They are a
register, not a join, so the last report of a device carries what the device table held after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any, Final

import asyncpg

from orchestrator.adapters.sql import component_rows, health, rows
from orchestrator.adapters.sql.rules import RulesCache
from orchestrator.domain.assignment import Observation, State, observe
from orchestrator.domain.components import ComponentState
from orchestrator.domain.log_loss import LogIdentity
from schemas import device_events as d

SHARD: Final = 105
"""Counter shard of archived facts."""

PAGE: Final = 5_000
"""Facts folded at once by a rebuild."""

TIMEOUT: Final = 3_600.0
"""Seconds to move a partition's rows: a million takes some ten seconds."""

_KEEP: Final = """WITH moved AS (DELETE FROM timeline WHERE "partition" = $1 RETURNING *),
last AS (SELECT device_no, max("offset") AS "offset" FROM moved WHERE type = $3 GROUP BY device_no)
INSERT INTO fact_archive ("partition", loss, "offset", device_no, campaign_no, attempt, gate_epoch, event_id, type, recorded_at,
    failure_class, reason, detail, components, version, digest, twin)
SELECT m."partition", $2, m."offset", m.device_no, m.campaign_no, m.attempt,
    CASE WHEN m.campaign_no IS NULL THEN NULL WHEN a.attempt = m.attempt THEN a.gate_epoch ELSE (
        SELECT l.gate_epoch FROM decision_ledger l WHERE l.campaign_no = m.campaign_no AND l.kind = 'offer'
        AND l.attempt = m.attempt AND m.device_no = ANY(l.device_nos)) END,
    m.event_id, m.type, m.recorded_at, m.failure_class, m.reason, m.detail, m.components, m.version, m.digest,
    CASE WHEN l."offset" = m."offset" THEN jsonb_build_object('attributes', t.attributes, 'version', t.version,
        'digest', t.digest, 'reported_at', t.reported_at) END
FROM moved m LEFT JOIN assignment a ON a.device_no = m.device_no AND a.campaign_no = m.campaign_no
LEFT JOIN last l ON l.device_no = m.device_no LEFT JOIN device t ON t.device_no = m.device_no"""
_KEEP_DEAD: Final = """WITH moved AS (DELETE FROM dead_letter WHERE topic = $1 AND "partition" = $2 RETURNING *)
INSERT INTO dead_letter_archive (topic, "partition", loss, "offset", code, detail, event_id, key, value, recorded_at)
SELECT topic, "partition", $3, "offset", code, detail, event_id, key, value, recorded_at FROM moved"""
_LATEST: Final = """SELECT DISTINCT ON (e.stream) u."partition", (e.data->>'to_offset')::bigint AS to_offset
FROM unnest($3::int[], $4::text[]) u("partition", stream) JOIN event_log e ON e.stream = u.stream
WHERE NOT EXISTS (SELECT 1 FROM projection_position p
    WHERE p.projection = $1 AND p.topic = $2 AND p."partition" = u."partition")
ORDER BY e.stream, e.version DESC"""
_FACTS: Final = """SELECT device_no, campaign_no, attempt, gate_epoch, type, recorded_at, failure_class, reason FROM fact_archive
WHERE "partition" = $1 AND type = ANY($2::text[]) ORDER BY device_no, campaign_no"""
_COMPONENTS: Final = """SELECT device_no, campaign_no, attempt, recorded_at, failure_class, components FROM fact_archive
WHERE "partition" = $1 AND components IS NOT NULL"""
_HEALTH: Final = """SELECT device_no, recorded_at, detail FROM fact_archive WHERE "partition" = $1 AND type = $2"""
_TWINS: Final = """UPDATE device t SET attributes = u.twin->'attributes', version = u.twin->>'version', digest = u.twin->>'digest',
    reported_at = (u.twin->>'reported_at')::bigint
FROM (SELECT DISTINCT ON (device_no) device_no, twin FROM fact_archive WHERE "partition" = $1 AND twin IS NOT NULL
    ORDER BY device_no, loss DESC) u WHERE t.device_no = u.device_no"""

_STATES: Final = {event_type: State(state) for event_type, state in d.UPDATE_STATES.items()}


def stream_of(topic: str, partition: int) -> str:
    """Stream of the losses of a partition."""
    return f"facts/{topic}/{partition}"


async def keep(conn: asyncpg.Connection, topic: str, partition: int, loss: int) -> int:
    """Move everything that was projected of a partition into the archive; the number of facts. The caller holds its position."""
    moved = await conn.execute(_KEEP, partition, loss, d.ATTRIBUTES, timeout=TIMEOUT)
    await conn.execute(_KEEP_DEAD, topic, partition, loss, timeout=TIMEOUT)
    return int(moved.rpartition(" ")[2])


async def restore(
    conn: asyncpg.Connection, projection: str, topic: str, identity: LogIdentity, partitions: Iterable[int]
) -> None:
    """Begin those of ``partitions`` that suffered a loss: fold their archives, and set their positions to where the log goes on.

    In the caller's transaction, on connections whose tables are those to fill; a partition that has a position there is left alone.
    The ledger must have been applied: facts speak of its offers.
    """
    wanted = sorted(partitions)
    latest = await conn.fetch(_LATEST, projection, topic, wanted, [stream_of(topic, each) for each in wanted])
    cache = RulesCache()
    for loss in latest:
        page: list[asyncpg.Record] = []
        async for row in conn.cursor(_FACTS, loss["partition"], sorted(_STATES), prefetch=PAGE):
            page.append(row)
            if len(page) == PAGE:
                await _fold(conn, cache, page)
                page = []
        await _fold(conn, cache, page)
        await _fold_components(conn, loss["partition"])
        await conn.execute(_TWINS, loss["partition"])
        await _restore_health(conn, loss["partition"])
        await conn.execute(
            'INSERT INTO projection_position (projection, topic, "partition", topic_id, cluster_id, next_offset, epoch)'
            " VALUES ($1, $2, $3, $4, $5, $6, 0)",
            *(projection, topic, loss["partition"], identity.topic_id, identity.cluster_id, loss["to_offset"]),
        )


async def _fold(conn: asyncpg.Connection, cache: RulesCache, facts: list[asyncpg.Record]) -> None:
    said = {key: list(group) for key, group in groupby(facts, lambda fact: (fact["device_no"], fact["campaign_no"]))}
    found = await rows.lock(conn, said)
    if missing := said.keys() - found.keys():
        raise LookupError(f"archived facts without an assignment for (device, campaign) {sorted(missing)[:3]}")
    changes = rows.Changes(await cache.get(conn, {campaign for _, campaign in found}), SHARD)
    for key, old in found.items():
        new = old
        for fact in said[key]:
            new = observe(new, _observation(fact))
        changes.add(old, new)
    await changes.write(conn)


async def _fold_components(conn: asyncpg.Connection, partition: int) -> None:
    """In memory this holds a state per component that was spoken of, not the facts."""
    found: dict[component_rows.Key, ComponentState] = {}
    async for row in conn.cursor(_COMPONENTS, partition, prefetch=PAGE):
        which = row["device_no"], row["campaign_no"], row["attempt"]
        said = component_rows.states(*which, row["recorded_at"], row["failure_class"], row["components"])
        component_rows.collect(found, said)
    await component_rows.write(conn, found, SHARD)


async def _restore_health(conn: asyncpg.Connection, partition: int) -> None:
    page: health.Reports = {}
    async for row in conn.cursor(_HEALTH, partition, d.HEALTH, prefetch=PAGE):
        report = d.decode_health(row["detail"])
        key, numbers = health.keyed(row["device_no"], row["recorded_at"], report)
        page[key] = min(numbers, page.get(key, numbers))
        if len(page) == PAGE:
            await health.record(conn, page)
            page = {}
    await health.record(conn, page)


def _observation(fact: Any) -> Observation:
    return Observation(
        attempt=fact["attempt"],
        state=_STATES[fact["type"]],
        at=fact["recorded_at"],
        failure_class=fact["failure_class"],
        reason=fact["reason"],
        gate_epoch=fact["gate_epoch"],
    )
