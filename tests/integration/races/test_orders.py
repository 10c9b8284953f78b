"""Two transactions about the same devices, each of them first once: both orders end as the logs say, and the oracle agrees."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from orchestrator.adapters.sql.locks import CONTROL
from orchestrator.domain.campaign import Campaign
from orchestrator.domain.commands import Halt
from schemas import device_events as d
from schemas.campaign_events import CampaignHalted
from tests.integration.races.conftest import ROWS, Line, Race
from tests.support.world import T0

OPEN = {"max_in_flight": {"initial": 500, "maximum": 500}}
CANARIES = 40
"""Devices of the first phase of the plan."""
AGAIN = T0 + 200_000
"""When an offer that expired at its time to live may be made again."""


async def launch(race: Race) -> Campaign:
    campaign = await race.world.launch(**OPEN)
    await race.world.open_phase(campaign.campaign_id, 0, T0)
    await race.world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    return campaign


async def start(race: Race, offered: dict[int, int]) -> list[int]:
    """The devices whose start was granted, of those that ask for their deployments at once."""
    views = await asyncio.gather(*(race.world.offers.start(*item) for item in offered.items()))
    return [device for device, view in zip(offered, views, strict=True) if view is not None]


async def join(line: Line, works: dict[str, Coroutine[Any, Any, Any]], first: str) -> None:
    """``first`` first."""
    for name in sorted(works, key=lambda name: name != first):
        await line.join(works[name])


async def in_ledger(race: Race, kind: str) -> int:
    """How many devices the ledger's rows of a kind speak of."""
    return await race.world.value(
        "SELECT coalesce(sum(cardinality(device_nos)), 0)::int FROM decision_ledger WHERE kind = $1", kind
    )


async def judged(race: Race) -> None:
    verdict = await race.judge()
    assert verdict.clean, verdict


@pytest.mark.parametrize("seen", [d.DOWNLOADING, d.TRIAL])
@pytest.mark.parametrize("first", ["confirmation", "expiry"])
async def test_a_confirmation_at_the_deadline_counts_whoever_is_first(race, first, seen):
    campaign = await launch(race)
    offered = await race.world.offered(campaign.campaign_no)
    assert len(await start(race, offered)) == CANARIES
    at = await race.world.value("SELECT max(started_at) FROM assignment")
    for item in offered.items():
        race.world.fact(*item, seen, at)
    await race.world.project()
    for item in offered.items():
        race.world.fact(*item, d.CONFIRMED, at + 19_999)
    due = at + 20_000
    works = {
        "confirmation": race.world.project(),
        "expiry": race.world.decisions.sweep(campaign.campaign_id, due, due),
    }
    async with race.behind(ROWS) as line:
        await join(line, works, first)
    silent = CANARIES if first == "expiry" else 0
    assert await in_ledger(race, "expire") == silent
    assert await race.world.value("SELECT count(*) FROM assignment WHERE state <> 'confirmed'") == 0
    # Silence in trial was judged when it was found, and a device's first release failure stays counted.
    blamed = silent if seen == d.TRIAL else 0
    assert await race.world.value("SELECT count(*) FROM assignment WHERE failed_at IS NOT NULL") == blamed
    assert await race.world.value("SELECT count(*) FROM event_log WHERE type = 'CampaignHalted'") == bool(blamed)
    await judged(race)


@pytest.mark.parametrize("first", ["start", "expiry"])
async def test_an_offer_is_either_started_or_expired(race, first):
    campaign = await launch(race)
    offered = await race.world.offered(campaign.campaign_no)
    works = {
        "start": start(race, offered),
        "expiry": race.world.decisions.sweep(campaign.campaign_id, T0 + 60_000, 0),
    }
    async with race.behind(ROWS) as line:
        await join(line, works, first)
    ends = {"start": "accepted", "expiry": "expired"}
    assert await race.world.value("SELECT count(*) FROM assignment WHERE state = $1", ends[first]) == CANARIES
    assert await in_ledger(race, "start") == (CANARIES if first == "start" else 0)
    assert await in_ledger(race, "expire") == await in_ledger(race, "retry") == (0 if first == "start" else CANARIES)
    assert len(line.results[first == "expiry"]) == (CANARIES if first == "start" else 0)
    await judged(race)


@pytest.mark.parametrize("first", ["start", "offer"])
async def test_a_late_start_of_the_last_attempt_does_not_start_the_next_one(race, first):
    campaign = await launch(race)
    late = await race.world.offered(campaign.campaign_no)
    await race.world.decisions.sweep(campaign.campaign_id, T0 + 60_000, 0)
    works = {
        "start": start(race, late),
        "offer": race.world.decisions.dispatch(campaign.campaign_id, 0, 500, AGAIN),
    }
    async with race.behind(ROWS) as line:
        await join(line, works, first)
    assert line.results[first == "offer"] == []
    assert await in_ledger(race, "start") == 0
    again = await race.world.offered(campaign.campaign_no)
    assert again.keys() == late.keys()
    assert not set(again.values()) & set(late.values())
    assert len(await start(race, again)) == CANARIES
    await judged(race)


@pytest.mark.parametrize("first", ["start", "halt"])
async def test_a_start_is_committed_before_the_halt_or_never(race, first):
    campaign = await launch(race)
    offered = await race.world.offered(campaign.campaign_no)
    works = {"start": start(race, offered), "halt": race.world.command(campaign.campaign_id, halt)}
    async with race.behind("SELECT pg_advisory_xact_lock($1, $2)", CONTROL, campaign.campaign_no) as line:
        await join(line, works, first)
    assert await in_ledger(race, "start") == (CANARIES if first == "start" else 0)
    if first == "halt":
        assert line.results[1] == []
    await judged(race)


def halt(campaign: Campaign, standing: Any) -> Halt:
    return Halt(
        event=CampaignHalted(
            by="ann",
            reason="race",
            phase=campaign.phase,
            gate_epoch=campaign.gate_epoch,
            ledger_position=standing.ledger_position,
        )
    )
