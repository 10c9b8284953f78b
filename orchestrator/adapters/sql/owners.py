"""Owners' wills: stated in the event log, projected into ``owner_will``, asked by every slice, poll and start.

A statement locks the device's assignments before it is appended, and a start reads the will after it has locked them. So after the
commit of an opt-out no start of the device commits, and one that was under way is waited for. A slice does not lock the will: an
offer that is being made at that moment may still be made, but it is neither shown nor started, and expires.

A statement also brings the device forward in the queues in which it is withheld. An entry that a slice has in hand just then is left
to it, and looked at again after ``domain.owner.WILL_LOOK_AGAIN_MS`` at the latest.

Not here: the rule (``domain.owner.withheld``); SQL only fetches what it asks about.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import asyncpg
import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import failpoints
from orchestrator.adapters.clock import now_ms
from orchestrator.adapters.sql import event_log
from orchestrator.adapters.sql.engine import driver, transaction
from orchestrator.adapters.sql.filters import compile_query
from orchestrator.adapters.sql.locks import own_event_log
from orchestrator.adapters.sql.rules import CampaignRules
from orchestrator.app.owners import BuildWill, WillStatus
from orchestrator.app.ports import Meta, Recorded, VersionConflictError
from orchestrator.app.registry import DeviceNotFoundError
from orchestrator.domain import owner
from orchestrator.domain.owner import NOTHING_SAID, Will, Withheld
from orchestrator.domain.plan import Plan
from schemas.owner_events import Consent, OwnerWillStated

_STATED: Final = """INSERT INTO owner_will
    (device_no, opted_out, postponed_until, consents, version, stated_at, actor, on_behalf_of, reason)
VALUES ($1, $2, $3, $4::jsonb, $5, $6, $7, $8, $9) ON CONFLICT (device_no) DO UPDATE SET opted_out = excluded.opted_out,
    postponed_until = excluded.postponed_until, consents = excluded.consents, version = excluded.version,
    stated_at = excluded.stated_at, actor = excluded.actor, on_behalf_of = excluded.on_behalf_of, reason = excluded.reason"""
_READ: Final = """SELECT i.device_id, w.opted_out, w.postponed_until, w.consents, w.version, w.stated_at, w.actor, w.on_behalf_of,
    w.reason FROM device_identity i LEFT JOIN owner_will w USING (device_no) WHERE i.device_id = $1"""
_FORWARD: Final = """WITH c AS MATERIALIZED (
    SELECT campaign_no, phase, rank FROM offer_queue WHERE device_no = $1 AND withheld IS NOT NULL FOR UPDATE SKIP LOCKED)
UPDATE offer_queue q SET withheld = NULL, not_before = $2 FROM c
WHERE q.campaign_no = c.campaign_no AND q.phase = c.phase AND q.rank = c.rank"""
_LOCKED: Final = "SELECT FROM assignment WHERE device_no = $1 ORDER BY campaign_no FOR UPDATE"
_WILLS: Final = """SELECT device_no, opted_out, postponed_until, consents, true AS meets FROM owner_will
WHERE device_no = ANY($1::int[]) AND (opted_out OR postponed_until > $2)"""
_ASKED: Final = """SELECT d.device_no, w.opted_out, w.postponed_until, w.consents, d.meets
FROM (SELECT device_no, {meets} AS meets FROM device WHERE device_no = ANY($1::int[])) d LEFT JOIN owner_will w USING (device_no)"""

_COUNTED: Final = """SELECT why, count(*)::bigint AS n FROM (SELECT CASE
    WHEN w.opted_out AND {1}::bool THEN 'opted_out'
    WHEN w.postponed_until > {0}::bigint AND {2}::bool THEN 'postponed'
    WHEN {3}::bool AND NOT EXISTS (SELECT FROM jsonb_array_elements(w.consents) c
        WHERE (c ->> 'release_id' = {4}::text OR c ->> 'campaign_id' = {5}::text)
            AND (c ->> 'until' IS NULL OR (c ->> 'until')::bigint > {0}::bigint)) THEN 'consent'
    WHEN NOT d.meets THEN 'preconditions' END AS why
    FROM (SELECT device_no, {meets} AS meets FROM device WHERE {condition}) d {kind} JOIN owner_will w USING (device_no)) found
WHERE why IS NOT NULL GROUP BY why ORDER BY why"""


async def project(conn: asyncpg.Connection, item: Recorded) -> None:
    """Write the row that follows from one event; used by the append and by the rebuild."""
    event: OwnerWillStated = item.event
    await conn.execute(
        _STATED,
        *(event.device_no, event.opted_out, event.postponed_until, msgspec.json.encode(event.consents).decode()),
        *(item.version, item.recorded_at, event.actor, event.on_behalf_of, event.reason),
    )


async def withheld(
    conn: asyncpg.Connection, rules: CampaignRules, device_nos: Collection[int], now: int
) -> dict[int, Withheld]:
    """Those of the devices that the campaign may not offer to, nor let start, at ``now`` (ms). One statement, two index lookups."""
    if not device_nos:
        return {}
    plan = rules.dossier.plan
    if plan.preconditions is None and plan.owner.consent == "not_required":
        # Whoever has said nothing may be offered to: only wills are looked at.
        rows = await conn.fetch(_WILLS, list(device_nos), now)
    else:
        meets, parameters = ("true", []) if plan.condition is None else compile_query(plan.condition, 2)
        rows = await conn.fetch(_ASKED.format(meets=meets), list(device_nos), *parameters)
    found: dict[int, Withheld] = {}
    for row in rows:
        why = owner.withheld(
            plan.owner, _will(row), rules.release_id, rules.campaign_id, meets_preconditions=row["meets"], now=now
        )
        if why is not None:
            found[row["device_no"]] = why
    return found


async def count(
    conn: asyncpg.Connection,
    plan: Plan,
    cohort: tuple[str, Sequence[Any]],
    *,
    release_id: str,
    campaign_id: str,
    now: int,
) -> dict[str, int]:
    """Devices of a cohort that are withheld at ``now`` (ms), by reason: the rule as SQL, compared with it by a test.

    Args:
        conn: where to ask.
        plan: the campaign's.
        cohort: a condition on ``device``, and its parameters, numbered from 1 on.
        release_id: what the campaign rolls out.
        campaign_id: the campaign.
        now: ms.
    """
    condition, parameters = cohort
    first = len(parameters) + 1
    meets, asked = ("true", []) if plan.condition is None else compile_query(plan.condition, first + 6)
    # Whoever has said nothing is looked at only where the plan asks for something.
    asks = plan.preconditions is not None or plan.owner.consent == "required"
    places = [f"${number}" for number in range(first, first + 6)]
    query = _COUNTED.format(*places, meets=meets, condition=condition, kind="LEFT" if asks else "INNER")
    policy = plan.owner
    honoured = policy.opt_out == "honoured", policy.postpone == "honoured", policy.consent == "required"
    rows = await conn.fetch(query, *parameters, now, *honoured, release_id, campaign_id, *asked)
    return {row["why"]: row["n"] for row in rows}


def _will(row: asyncpg.Record) -> Will:
    if row["opted_out"] is None:
        return NOTHING_SAID
    return Will(
        opted_out=row["opted_out"],
        postponed_until=row["postponed_until"],
        consents=msgspec.convert(row["consents"], tuple[Consent, ...]),
    )


class SqlOwners:
    """``orchestrator.app.owners.Wills`` on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def read(self, device_id: str) -> WillStatus:
        async with driver(self._engine) as conn:
            return await read(conn, device_id)

    async def state(
        self,
        device_id: str,
        build: BuildWill,
        *,
        longest_ms: int,
        command_id: str,
        meta: Meta,
        expected_version: int | None = None,
    ) -> WillStatus:
        async with transaction(self._engine) as conn:
            number: Any = await conn.fetchval("SELECT device_no FROM device_identity WHERE device_id = $1", device_id)
            if number is None:
                raise DeviceNotFoundError(f"There is no device {device_id[:64]!r}.")
            now = now_ms()
            await conn.execute(_FORWARD, number, now)
            await conn.execute(_LOCKED, number)
            await own_event_log(conn)
            if not await event_log.of_command(conn, command_id):
                stream = f"owner/{number}"
                will = owner.fold([item.event for item in await event_log.read_stream(conn, stream)])
                if expected_version is not None and expected_version != will.version:
                    raise VersionConflictError(
                        f"The will of {device_id} is at version {will.version}, the request was made for {expected_version}."
                    )
                events = owner.decide(will, build(number, now), longest_ms)
                if events:
                    appended = await event_log.append(
                        conn, stream, will.version, events, command_id=command_id, meta=meta
                    )
                    for item in appended:
                        await project(conn, item)
                    failpoints.hit("command.before_commit")
            return await read(conn, device_id)


async def read(conn: asyncpg.Connection, device_id: str) -> WillStatus:
    """What holds for a device. Raises DeviceNotFoundError."""
    row = await conn.fetchrow(_READ, device_id)
    if row is None:
        raise DeviceNotFoundError(f"There is no device {device_id[:64]!r}.")
    if row["version"] is None:
        return WillStatus(device_id=device_id)
    said = {name: row[name] for name in WillStatus.__struct_fields__ if name != "consents"}
    return WillStatus(**said, consents=msgspec.convert(row["consents"], list[Consent]))
