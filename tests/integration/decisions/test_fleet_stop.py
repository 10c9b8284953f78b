"""One stop over all campaigns: in force at its commit, with the database alone."""

from __future__ import annotations

import pytest

from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.fleet_stop import SqlFleetControl
from orchestrator.adapters.sql.locks import own_control
from orchestrator.app.ports import Meta
from schemas import device_events as d
from tests.support.waiting import until
from tests.support.world import T0, World

META = Meta(actor="ann", reason="recall")


@pytest.fixture
async def world(engine):
    made = World(engine)
    await made.setup()
    return made


async def offering(world: World):
    campaign = await world.launch()
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 10, T0)
    return campaign, await world.offered(campaign.campaign_no)


async def test_a_stopped_fleet_offers_and_starts_nothing_and_goes_on_where_it_was(world):
    campaign, offered = await offering(world)
    (started, action), (waiting, other), *_ = offered.items()
    assert await world.offers.start(started, action) is not None
    control = SqlFleetControl(world.engine)
    await control.stop("recall", command_id="stop", meta=META)

    assert (await world.decisions.dispatch(campaign.campaign_id, 0, 10, T0 + 1)).granted == 0
    assert await world.offers.start(waiting, other) is None
    hidden, kept = await world.offers.current(waiting), await world.offers.current(started)
    assert hidden is not None and hidden.shown == "nothing"  # noqa: PT018
    assert kept is not None and kept.shown == "deployment"  # noqa: PT018
    status = await control.status()
    assert (status.stopped, status.by, status.reason) == (True, "ann", "recall")
    assert (status.offers_after, status.starts_after) == (0, 0)
    assert (await world.store.load(campaign.campaign_id)).state == "running"

    await control.release("all clear", command_id="release", meta=META)
    assert not (await control.status()).stopped
    assert await world.offers.start(waiting, other) is not None
    assert (await world.decisions.dispatch(campaign.campaign_id, 0, 10, T0 + 2)).granted == 10


async def test_reports_and_halts_go_on_while_the_fleet_is_stopped(world):
    campaign, offered = await offering(world)
    for item in offered.items():
        await world.offers.start(*item)
    await SqlFleetControl(world.engine).stop("recall", command_id="stop", meta=META)
    for device, action in offered.items():
        world.fact(device, action, d.REVERTED, T0 + 100, failure_class="boot")
    await world.project()
    assert (await world.store.load(campaign.campaign_id)).state == "halted"


async def test_repeating_a_command_changes_nothing(world):
    control = SqlFleetControl(world.engine)
    for command in ("one", "one", "two"):
        await control.stop("recall", command_id=command, meta=META)
    for command in ("three", "three", "one"):
        await control.release("all clear", command_id=command, meta=META)
    kinds = await world.rows("SELECT type FROM event_log WHERE stream = 'fleet' ORDER BY version")
    assert [row["type"] for row in kinds] == ["FleetStopped", "FleetReleased"]


async def test_an_offer_under_way_is_waited_for_and_the_next_one_is_refused(world):
    import asyncio

    campaign, _ = await offering(world)
    async with transaction(world.engine) as conn:
        await own_control(conn, campaign.campaign_no)
        slice_ = asyncio.create_task(world.decisions.dispatch(campaign.campaign_id, 0, 10, T0 + 1))

        async def at_control():
            return await world.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") == 1

        await until(at_control)
        # The slice holds its share of the fleet's lock already: the stop comes after it, or before all of it.
        stop = asyncio.create_task(SqlFleetControl(world.engine).stop("recall", command_id="stop", meta=META))

        async def both_wait():
            return await world.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") == 2

        await until(both_wait)
    granted = (await slice_).granted
    await stop
    status = await SqlFleetControl(world.engine).status()
    assert granted == 10
    assert (status.offers_after, status.starts_after) == (0, 0)
