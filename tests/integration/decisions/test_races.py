"""What happens when two decide at once: the database says who was first, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.adapters.sql.decisions import SqlDecisions
from orchestrator.adapters.sql.engine import make_engine
from orchestrator.adapters.sql.offers import SqlOffers
from orchestrator.domain import campaign as c
from schemas import device_events as d
from schemas.campaign_events import CampaignHalted
from tests.support.world import IDENTITY, T0, TOPIC, World

WRITERS = 24


@pytest.fixture
async def world(engine):
    made = World(engine)
    await made.setup()
    return made


def halt(reason: str):
    return lambda campaign, standing: c.Halt(
        event=CampaignHalted(
            by="ann",
            reason=reason,
            phase=campaign.phase,
            gate_epoch=campaign.gate_epoch,
            ledger_position=standing.ledger_position,
        )
    )


async def test_a_halt_is_not_starved_by_writers_and_nothing_follows_it(world, database_url):
    campaign = await world.launch(
        max_in_flight={"initial": 500, "maximum": 500},
        phases=[{"name": "all", "percent": 100.0, "soak": "5s"}],
    )
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 60, T0)
    pool = make_engine(database_url, pool_size=WRITERS)
    ids = make_engine(database_url, pool_size=2)
    stop = asyncio.Event()
    started: list[int] = []

    async def start(offers: SqlOffers) -> None:
        while not stop.is_set():
            for device, action in list((await world.offered(campaign.campaign_no)).items())[:3]:
                if await offers.start(device, action) is not None:
                    started.append(device)
            await asyncio.sleep(0)

    async def offer(decisions: SqlDecisions) -> None:
        while not stop.is_set():
            await decisions.dispatch(campaign.campaign_id, 0, 3, T0 + 1)
            await asyncio.sleep(0)

    writers = [asyncio.create_task(start(SqlOffers(pool, TOPIC))) for _ in range(WRITERS // 2)]
    writers += [asyncio.create_task(offer(SqlDecisions(pool, ids))) for _ in range(WRITERS // 2)]
    try:
        async with asyncio.timeout(60):
            while len(started) < 10:  # noqa: ASYNC110  the writers are what it waits for
                await asyncio.sleep(0.01)
            halted = await world.command(campaign.campaign_id, halt("race"))
    finally:
        stop.set()
        await asyncio.gather(*writers)
        await pool.dispose()
        await ids.dispose()
    assert halted.halt is not None
    after = await world.value(
        "SELECT count(*) FROM decision_ledger WHERE campaign_no = $1 AND position > $2 AND kind IN ('offer', 'start')",
        campaign.campaign_no,
        halted.halt.ledger_position,
    )
    assert after == 0
    await world.recount()


async def test_two_projections_that_count_failures_at_once_halt_once(world):
    campaign = await world.launch(max_in_flight={"initial": 500, "maximum": 500})
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    for device, action in (await world.offered(campaign.campaign_no)).items():
        world.fact(device, action, d.REVERTED, T0 + 1, failure_class="boot")
    unread = world.unread()
    other = World(world.engine)
    await other.projection.claim(
        IDENTITY, {item.partition: (0, item.next_offset) for item in unread if item.partition % 2}
    )
    mine = [item for item in unread if item.partition % 2 == 0]
    theirs = [item for item in unread if item.partition % 2]
    first, second = await asyncio.gather(world.projection.apply(mine), other.projection.apply(theirs))
    assert len(first.halts) + len(second.halts) == 1
    assert await world.value("SELECT count(*) FROM event_log WHERE type = 'CampaignHalted'") == 1
    await world.recount()


async def test_an_expiry_that_races_a_confirmation_ends_confirmed_whoever_is_first(world):
    campaign = await world.launch()
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    offered = await world.offered(campaign.campaign_no)
    await asyncio.gather(*(world.offers.start(*item) for item in offered.items()))
    at = await world.value("SELECT max(started_at) FROM assignment")
    for device, action in offered.items():
        world.fact(device, action, d.CONFIRMED, at + 19_999)
    due = at + 20_000
    await asyncio.gather(world.project(), world.decisions.sweep(campaign.campaign_id, due, due))
    assert await world.value("SELECT count(*) FROM assignment WHERE state <> 'confirmed'") == 0
    await world.recount()


async def test_a_late_start_of_an_expired_offer_is_refused_while_it_is_offered_again(world):
    campaign = await world.launch()
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    first = await world.offered(campaign.campaign_no)
    await world.decisions.sweep(campaign.campaign_id, T0 + 60_000, 0)
    results = await asyncio.gather(
        world.decisions.dispatch(campaign.campaign_id, 0, 500, T0 + 200_000),
        *(world.offers.start(*item) for item in first.items()),
    )
    assert results[1:] == [None] * len(first)
    assert await world.value("SELECT count(*) FROM decision_ledger WHERE kind = 'start'") == 0
    await world.recount()


async def test_sweeps_at_once_expire_each_device_once(world):
    campaign = await world.launch()
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    swept = await asyncio.gather(*(world.decisions.sweep(campaign.campaign_id, T0 + 60_000, 0) for _ in range(4)))
    assert sum(item.expired for item in swept) == 40
    assert (
        await world.value("SELECT sum(cardinality(device_nos))::int FROM decision_ledger WHERE kind = 'expire'") == 40
    )
    await world.recount()
