"""Whose device it is: campaigns of higher priority go first."""

from __future__ import annotations

import pytest

from tests.support.world import T0, World

PLAN = {
    "phases": [{"name": "some", "percent": 50.0, "soak": "1s"}, {"name": "all", "percent": 100.0, "soak": "1s"}],
    "max_in_flight": {"initial": 500, "maximum": 500},
    "offer_ttl": "1h",
    "cohort": {"stratify_by": ["attribute.hw_revision"], "salt": "salt"},
}
LATER = 600_001


@pytest.fixture
async def world(engine):
    made = World(engine)
    await made.setup()
    return made


async def launched(world: World, **changes):
    campaign = await world.launch(**PLAN | changes)
    return await world.open_phase(campaign.campaign_id, 0, T0)


async def queued(world: World, campaign, phase: int = 0) -> set[int]:
    rows = await world.rows(
        "SELECT device_no FROM offer_queue WHERE campaign_no = $1 AND phase = $2", campaign.campaign_no, phase
    )
    return {row["device_no"] for row in rows}


async def test_a_device_that_waits_for_a_campaign_of_higher_priority_is_not_offered_by_a_lower_one(world):
    low = await launched(world, cohort={"salt": "other"})
    high = await launched(world, priority=200)
    waiting, own = await queued(world, high), await queued(world, low)
    assert waiting & own
    done = await world.decisions.dispatch(low.campaign_id, 0, 500, T0)
    # What the higher one has not opened yet does not count.
    assert set(await world.offered(low.campaign_no)) == own - waiting
    assert (done.granted, done.outranked) == (len(own - waiting), len(own & waiting))
    held = await world.decisions.dispatch(low.campaign_id, 0, 500, T0 + LATER)
    assert held.hold == f"{len(own & waiting)} devices wait for a campaign of higher priority."
    await world.decisions.dispatch(high.campaign_id, 0, 500, T0)
    assert set(await world.offered(high.campaign_no)) == waiting


@pytest.mark.parametrize("stopped", ["paused", "not due", "not opened", "shut", "its stratum"])
async def test_a_campaign_that_offers_nothing_now_stands_before_nobody(world, stopped):
    low = await launched(world)
    schedule = {"schedule": {"start_at": T0 + 1_000}} if stopped == "shut" else {}
    if stopped == "not opened":
        high = await world.launch(**PLAN, priority=200)
        await world.decisions.enrol(high.campaign_id, T0)
    else:
        high = await launched(world, priority=200, **schedule)
    match stopped:
        case "paused":
            await world.rows("UPDATE control SET state = 'paused' WHERE campaign_no = $1 RETURNING 1", high.campaign_no)
        case "not due":
            await world.rows(
                "UPDATE offer_queue SET not_before = $2 WHERE campaign_no = $1 RETURNING 1", high.campaign_no, T0 + 1
            )
        case "its stratum":
            for stratum in range(3):
                await world.rows(
                    "INSERT INTO control VALUES ($1, $2, 'halted', 1, 1) RETURNING 1", high.campaign_no, stratum
                )
        case _:
            pass
    own = await queued(world, low)
    assert (await world.decisions.dispatch(low.campaign_id, 0, 500, T0)).granted == len(own)


async def test_of_equal_priority_whoever_comes_first_gets_the_device(world):
    first, second = [await launched(world, priority=200) for _ in range(2)]
    assert (await world.decisions.dispatch(second.campaign_id, 0, 500, T0)).granted == 100
    done = await world.decisions.dispatch(first.campaign_id, 0, 500, T0)
    assert (done.granted, done.outranked) == (0, 0)
