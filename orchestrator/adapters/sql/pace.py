"""The pace in force: plan, brake and what has gone well so far, read in the slice's transaction.

Growth inside a phase counts devices of the open phase that confirmed without any release failure and whose first start was in the
running gate epoch (``maturity.good``). So it begins at nothing with each phase and with each resume after a halt, a device that first
failed or started before the halt adds nothing, and it can be at most the phase's size, which is what the blast bound reckons with.
The counter is moved by the transaction that applies the confirmation: one that is not seen yet only makes the cap smaller.

Not here: holding the pacing row, and giving up if the pace changed before the commit (``dispatch``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import asyncpg
import msgspec

from orchestrator.adapters.sql.rules import CampaignRules
from orchestrator.domain import pacing
from orchestrator.domain.brake import OFF, Brake


@dataclass(frozen=True, slots=True)
class Pace:
    """What a slice may do.

    Attributes:
        cap: offers outstanding or started and not yet ended, at most.
        per_minute: offers a minute, at most; None without a limit.
        promoted: promoted phases that the cap has doubled with.
        growth: what the open phase has added to it.
    """

    cap: int
    per_minute: int | None
    promoted: int
    growth: int


async def in_force(conn: asyncpg.Connection, rules: CampaignRules, phase: int) -> Pace:
    """The pace of a slice of ``phase``: the open one, or one before it whose devices are offered again."""
    campaign = await conn.fetchrow(
        "SELECT promoted_since_halt, setbacks, phase, gate_epoch, brake FROM campaign WHERE campaign_no = $1",
        rules.campaign_no,
    )
    assert campaign is not None
    plan, opened = rules.dossier.plan, max(campaign["phase"], phase)
    brake = OFF if campaign["brake"] is None else msgspec.convert(campaign["brake"], Brake)
    growth = 0
    if plan.max_in_flight.add is not None:
        growth = plan.max_in_flight.growth(await _confirmed(conn, rules.campaign_no, opened, campaign["gate_epoch"]))
    promoted = min(
        campaign["promoted_since_halt"], opened
    )  # the open phase's own promotion counts from the next one on
    cap = pacing.in_flight_cap(
        plan.max_in_flight.initial,
        plan.max_in_flight.maximum,
        promoted,
        plan.phases[opened].max_in_flight,
        growth=growth,
        setbacks=campaign["setbacks"],
    )
    rate = plan.phases[phase].rate
    per_minute = brake.per_minute
    if rate is not None:
        planned = rate.now(**await _progress(conn, rules.campaign_no, phase))
        per_minute = pacing.lowest(planned, brake.per_minute)
    cap = pacing.lowest(cap, plan.phases[phase].max_in_flight, brake.max_in_flight)
    return Pace(cap=cap, per_minute=per_minute, promoted=promoted, growth=growth)


async def _confirmed(conn: asyncpg.Connection, campaign_no: int, phase: int, gate_epoch: int) -> int:
    total: Any = await conn.fetchval(
        "SELECT coalesce(sum(good), 0)::bigint FROM maturity WHERE campaign_no = $1 AND phase = $2 AND gate_epoch = $3",
        campaign_no,
        phase,
        gate_epoch,
    )
    return total


async def _progress(conn: asyncpg.Connection, campaign_no: int, phase: int) -> dict[str, int]:
    """Devices of the phase that were confirmed and offered so far: what a growing rate grows with."""
    row = await conn.fetchrow(
        "SELECT coalesce(sum(n) FILTER (WHERE state = 'confirmed'), 0)::bigint AS confirmed,"
        " coalesce(sum(n), 0)::bigint AS offered FROM counter WHERE campaign_no = $1 AND phase = $2",
        campaign_no,
        phase,
    )
    assert row is not None
    return dict(row)
