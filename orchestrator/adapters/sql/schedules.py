"""When devices may start: a campaign's schedule, asked with the time zones of its devices, and the spread of its starts."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

import asyncpg

from orchestrator.adapters import zones
from orchestrator.adapters.sql.rules import CampaignRules
from orchestrator.domain.pacing import may_start
from orchestrator.domain.window import Shut

NEVER = 2**62
"""In place of a moment that never comes, ms."""


class Offered(Protocol):
    """An offer, as its row or its view has it."""

    @property
    def device_no(self) -> int: ...
    @property
    def phase(self) -> int: ...
    @property
    def attempt(self) -> int: ...
    @property
    def offered_at(self) -> int: ...


def shut(rules: CampaignRules, now: int) -> Shut | None:
    """Whether the whole campaign may offer and start nothing at ``now`` (ms)."""
    schedule = rules.dossier.plan.schedule
    found = schedule.shut(now)
    if found is not None or not schedule.windows or schedule.per_device:
        return found
    return schedule.outside(now, zones.zone(schedule.timezone, schedule.fallback_timezone))


def own(rules: CampaignRules, zone: str | None, now: int) -> Shut | None:
    """Whether a device in that zone, if it says one, is outside its own windows."""
    schedule = rules.dossier.plan.schedule
    return schedule.outside(now, zones.zone(zone, schedule.fallback_timezone)) if schedule.per_device else None


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
        found = own(rules, row["zone"], now)
        if found is not None:
            later[row["device_no"]] = NEVER if found.until is None else found.until
    return later


def early(rules: CampaignRules, offers: Iterable[Offered], now: int) -> set[int]:
    """Devices whose wait from their offer, by the jitter of its phase, is not over."""
    plan = rules.dossier.plan
    return {
        offer.device_no
        for offer in offers
        if not may_start(
            plan.salt, offer.device_no, offer.attempt, offer.offered_at, plan.phases[offer.phase].jitter, now
        )
    }
