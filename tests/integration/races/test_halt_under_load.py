"""A halt against 24 gateways that start devices without a pause: it gets its turn while most of them still wait."""

from __future__ import annotations

import asyncio
import sys
import time

from orchestrator.adapters.sql.decisions import SqlDecisions
from orchestrator.adapters.sql.engine import make_engine
from orchestrator.adapters.sql.offers import SqlOffers
from tests.integration.races.conftest import Race
from tests.integration.races.test_orders import halt
from tests.support.world import T0, TOPIC, World

GATEWAYS = 24
DEVICES = 4_800
"""Enough for 200 starts of each gateway, which take far longer than a halt that gets its turn."""
PATIENCE = 90.0
"""Seconds for what takes a few; a halt that starves takes as long as there is anything to start."""


async def test_a_halt_among_24_concurrent_starts_and_slices_is_not_the_last_to_get_its_turn(engine, database_url):
    world = World(engine, devices=DEVICES)
    await world.setup()
    race = Race(world, database_url)
    campaign = await world.launch(
        phases=[{"name": "all", "percent": 100.0, "soak": "1s"}],
        max_in_flight={"initial": DEVICES, "maximum": DEVICES},
    )
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, DEVICES - 500, T0)
    offered = list((await world.offered(campaign.campaign_no)).items())
    pool, ids = make_engine(database_url, pool_size=GATEWAYS + 1), make_engine(database_url, pool_size=1)
    started = 0

    async def gateway(number: int) -> None:
        nonlocal started
        offers = SqlOffers(pool, TOPIC)
        for item in offered[number::GATEWAYS]:
            if await offers.start(*item) is None:
                return  # halted
            started += 1

    async def slices() -> None:
        while (await SqlDecisions(pool, ids).dispatch(campaign.campaign_id, 0, 5, T0)).granted:
            pass

    load = [asyncio.create_task(work) for work in (slices(), *(gateway(number) for number in range(GATEWAYS)))]
    try:
        async with asyncio.timeout(PATIENCE):
            while started < 2 * GATEWAYS:  # noqa: ASYNC110  the gateways are what it waits for
                await asyncio.sleep(0.01)
            before, asked = started, time.monotonic()
            halted = await world.command(campaign.campaign_id, halt)
            took, meanwhile = time.monotonic() - asked, started - before
            await asyncio.gather(*load)
    finally:
        for task in load:
            task.cancel()
        await asyncio.gather(*load, return_exceptions=True)
        await pool.dispose()
        await ids.dispose()
    sys.stdout.write(f"halt after {took * 1_000:.0f} ms, {meanwhile} starts meanwhile, {started} of {len(offered)}\n")
    assert halted.halt is not None
    assert started < len(offered) // 2
    later = "position > $2 AND kind IN ('offer', 'start')"
    after = f"SELECT count(*) FROM decision_ledger WHERE campaign_no = $1 AND {later}"
    assert await world.value(after, campaign.campaign_no, halted.halt.ledger_position) == 0
    verdict = await race.judge()
    assert verdict.clean, verdict
