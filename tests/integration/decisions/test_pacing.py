"""How fast a phase offers, and to whom first."""

from __future__ import annotations

import pytest

from orchestrator.adapters.sql.engine import transaction
from schemas import device_events as d
from tests.support.world import T0, World

MINUTE = 60_000


@pytest.fixture
async def world(engine):
    made = World(engine)
    await made.setup()
    return made


async def launched(world: World, rate=None):
    phase = {"name": "all", "percent": 100.0, "soak": "5s"} | ({"rate": rate} if rate else {})
    campaign = await world.launch(phases=[phase], max_in_flight={"initial": 500, "maximum": 500}, offer_ttl="30m")
    await world.open_phase(campaign.campaign_id, 0, T0)
    return campaign


async def offered_in(world: World, campaign_id: str, begin: int, minutes: int) -> int:
    """Devices offered by slices every second."""
    granted = 0
    for second in range(minutes * 60):
        granted += (await world.decisions.dispatch(campaign_id, 0, 500, begin + second * 1_000)).granted
    return granted


async def test_a_ramp_waits_for_confirmations_before_it_grows(world):
    ramp = {"base": 6, "factor": 2.0, "every": 10, "maximum": 60}
    campaign = await launched(world, {"exponential": ramp})
    first = await offered_in(world, campaign.campaign_id, T0, 2)
    assert 12 <= first <= 14  # six a minute, and what the bucket had saved
    offered = await world.offered(campaign.campaign_no)
    for item in list(offered.items())[:10]:
        await world.offers.start(*item)
        world.fact(*item, d.CONFIRMED, T0 + 2 * MINUTE)
    await world.project()
    assert 12 <= await offered_in(world, campaign.campaign_id, T0 + 2 * MINUTE, 1) <= 14


async def test_devices_that_were_seen_within_the_offers_time_to_live_go_first(world):
    campaign = await launched(world)
    queued = [
        row["device_no"]
        for row in await world.rows("SELECT device_no FROM offer_queue WHERE phase = 0 ORDER BY rank LIMIT 40")
    ]
    awake, stale = queued[20:30], queued[0]
    async with transaction(world.engine) as conn:
        await conn.executemany(
            "INSERT INTO presence (device_no, last_seen_at) VALUES ($1, $2)",
            [(device, T0 - MINUTE) for device in awake] + [(stale, T0 - 31 * MINUTE)],
        )
    assert (await world.decisions.dispatch(campaign.campaign_id, 0, 10, T0)).granted == 10
    assert set(await world.offered(campaign.campaign_no)) == set(awake)
    assert (await world.decisions.dispatch(campaign.campaign_id, 0, 10, T0)).granted == 10
    assert set(await world.offered(campaign.campaign_no)) == {*awake, *queued[:10]}
