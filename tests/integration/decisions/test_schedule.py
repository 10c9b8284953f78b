"""A closed window offers nothing, starts nothing and shows nothing; an open one goes on where it was."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from orchestrator.adapters.sql import offers
from orchestrator.adapters.sql.engine import transaction
from tests.support.world import World

NOON = round(datetime(2026, 11, 18, 12, tzinfo=UTC).timestamp() * 1_000)
HOUR = 3_600_000
NIGHTS = [{"from": "22:00", "to": "05:00"}]
TOKYO_NIGHT = NOON + HOUR
"""13:00 UTC: 22:00 in Tokyo, noon in Lisbon."""


@pytest.fixture
async def world(engine):
    made = World(engine)
    await made.setup()
    return made


@pytest.fixture
def clock(monkeypatch):
    """The database's clock, as starts and polls read it."""
    now = [NOON]

    async def read(_):
        return now[0]

    monkeypatch.setattr(offers, "_now", read)
    return now


async def launched(world: World, schedule) -> str:
    campaign = await world.launch(schedule=schedule, max_in_flight={"initial": 500, "maximum": 500})
    await world.open_phase(campaign.campaign_id, 0, NOON)
    return campaign.campaign_id


async def test_outside_its_windows_a_campaign_offers_nothing_and_says_until_when(world):
    campaign_id = await launched(world, {"windows": NIGHTS, "timezone": "UTC"})
    closed = await world.decisions.dispatch(campaign_id, 0, 10, NOON)
    assert (closed.granted, closed.state, closed.next_due_at) == (0, "running", NOON + 10 * HOUR)
    assert closed.hold == "Outside its windows until 2026-11-18T22:00:00Z."
    assert closed.remaining == 40
    assert (await world.decisions.dispatch(campaign_id, 0, 10, NOON + 10 * HOUR)).granted == 10


async def test_a_campaign_that_has_ended_or_is_frozen_offers_nothing(world):
    freeze = {"from": NOON, "to": NOON + HOUR, "reason": "stock taking"}
    campaign_id = await launched(world, {"freezes": [freeze], "end_at": NOON + 2 * HOUR})
    frozen = await world.decisions.dispatch(campaign_id, 0, 10, NOON)
    assert frozen.hold == "Frozen until 2026-11-18T13:00:00Z: stock taking."
    assert (await world.decisions.dispatch(campaign_id, 0, 10, NOON + HOUR)).granted == 10
    assert "ended" in str((await world.decisions.dispatch(campaign_id, 0, 10, NOON + 2 * HOUR)).hold)


async def test_each_device_is_offered_in_its_own_night_and_the_others_wait_for_theirs(world):
    async with transaction(world.engine) as conn:
        await conn.execute(
            "UPDATE device SET attributes = attributes || jsonb_build_object('timezone',"
            " CASE device_no % 3 WHEN 0 THEN 'Asia/Tokyo' WHEN 1 THEN 'Europe/Lisbon' ELSE 'no/where' END)"
        )
    campaign_id = await launched(world, {"windows": NIGHTS, "timezone": "device", "fallback_timezone": "Europe/Lisbon"})
    granted = 0
    for _ in range(5):
        granted += (await world.decisions.dispatch(campaign_id, 0, 20, TOKYO_NIGHT)).granted
    offered = [row["device_no"] for row in await world.rows("SELECT device_no FROM assignment")]
    assert granted == len(offered) > 0
    assert all(device % 3 == 0 for device in offered)
    waiting = await world.rows("SELECT DISTINCT not_before FROM offer_queue WHERE phase = 0")
    assert [row["not_before"] for row in waiting] == [NOON + 10 * HOUR]
    assert len(offered) + await world.value("SELECT count(*) FROM offer_queue WHERE phase = 0") == 40


async def test_an_offer_that_waits_is_hidden_and_not_started_until_the_window_opens_again(world, clock):
    campaign_id = await launched(world, {"windows": NIGHTS, "timezone": "UTC"})
    await world.decisions.dispatch(campaign_id, 0, 10, NOON + 10 * HOUR)
    campaign = await world.store.load(campaign_id)
    (device, action), (other, _), *_ = (await world.offered(campaign.campaign_no)).items()

    clock[0] = NOON + 20 * HOUR
    assert await world.offers.start(device, action) is None
    hidden = await world.offers.current(device)
    assert hidden is not None
    assert hidden.shown == "nothing"

    clock[0] = NOON + 35 * HOUR
    assert await world.offers.start(device, action) is not None
    shown = await world.offers.current(other)
    assert shown is not None
    assert shown.shown == "deployment"

    clock[0] = NOON + 45 * HOUR  # what has started goes on
    going = await world.offers.current(device)
    assert going is not None
    assert going.shown == "deployment"
