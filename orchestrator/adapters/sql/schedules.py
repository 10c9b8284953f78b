"""A campaign's schedule, asked with the time zones of its devices."""

from __future__ import annotations

from collections.abc import Collection

import asyncpg

from orchestrator.adapters import zones
from orchestrator.adapters.sql.rules import CampaignRules
from orchestrator.domain.window import Shut

NEVER = 2**62
"""In place of a moment that never comes, ms."""


def shut(rules: CampaignRules, now: int) -> Shut | None:
    """Whether the whole campaign may offer and start nothing at ``now`` (ms)."""
    schedule = rules.dossier.plan.schedule
    found = schedule.shut(now)
    if found is not None or not schedule.windows or schedule.per_device:
        return found
    return schedule.outside(now, zones.zone(schedule.timezone, schedule.fallback_timezone))


async def outside(
    conn: asyncpg.Connection, rules: CampaignRules, device_nos: Collection[int], now: int
) -> dict[int, int]:
    """Those of the devices that are outside their own windows, and when the next one opens (ms)."""
    schedule = rules.dossier.plan.schedule
    if not schedule.per_device or not device_nos:
        return {}
    rows = await conn.fetch(
        "SELECT device_no, attributes ->> 'timezone' AS zone FROM device WHERE device_no = ANY($1::int[])",
        list(device_nos),
    )
    later: dict[int, int] = {}
    for row in rows:
        found = schedule.outside(now, zones.zone(row["zone"], schedule.fallback_timezone))
        if found is not None:
            later[row["device_no"]] = NEVER if found.until is None else found.until
    return later
