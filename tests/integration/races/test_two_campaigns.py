"""A device that belongs to several campaigns: it has one slot, so it takes part in one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from orchestrator.adapters.sql.decisions import SqlDecisions
from orchestrator.adapters.sql.engine import make_engine
from orchestrator.domain.campaign import Campaign
from schemas import device_events as d
from tests.integration.races.conftest import Race
from tests.support.world import T0

EVERYONE = {
    "phases": [{"name": "all", "percent": 100.0, "soak": "1s"}],
    "max_in_flight": {"initial": 500, "maximum": 500},
    "cohort": {"stratify_by": ["hardware_model", "attribute.hw_revision"], "salt": "salt"},
}
LATER = 5_000
"""Milliseconds after which a device that was busy is looked at again."""
DEVICES = 200
CAMPAIGNS = 4
WORKERS = 2
"""Slices of one campaign at once."""


@pytest.fixture
async def decisions(engine, database_url):
    """Action ids are reserved on connections of their own, as in a worker: of one pool, slices could starve each other."""
    ids = make_engine(database_url, pool_size=2)
    yield SqlDecisions(engine, ids)
    await ids.dispose()


async def launch(race: Race, number: int) -> Campaign:
    campaign = await race.world.launch(
        **EVERYONE | {"cohort": {**EVERYONE["cohort"], "salt": f"salt {number}"}}  # each in an order of its own
    )
    return await race.world.open_phase(campaign.campaign_id, 0, T0)


async def offer(decisions: SqlDecisions, campaigns: Sequence[Campaign], at: int, limit: int = 20) -> None:
    """Slices of all campaigns at once, several of each, until none grants anything."""

    async def slices(campaign: Campaign) -> None:
        while (await decisions.dispatch(campaign.campaign_id, 0, limit, at)).granted:
            pass

    await asyncio.gather(*(slices(campaign) for campaign in campaigns for _ in range(WORKERS)))


async def test_campaigns_that_want_the_same_devices_at_once_get_each_of_them_once(race, decisions):
    campaigns = [await launch(race, number) for number in range(CAMPAIGNS)]
    for turn in range(CAMPAIGNS):
        at = T0 + turn * LATER
        await offer(decisions, campaigns, at)
        out = await race.world.rows("SELECT device_no, action_id FROM assignment WHERE state = 'offered'")
        # Every device that still wants something has one offer, and none has two.
        assert len({row["device_no"] for row in out}) == len(out) == DEVICES
        started = await asyncio.gather(*(race.world.offers.start(row["device_no"], row["action_id"]) for row in out))
        assert None not in started
        for row in out:
            race.world.fact(row["device_no"], row["action_id"], d.CONFIRMED, at + 1)
        await race.world.project()
    assert await race.world.value("SELECT count(*) FROM assignment WHERE state = 'confirmed'") == CAMPAIGNS * DEVICES
    verdict = await race.judge()
    assert verdict.clean, verdict


async def test_a_campaign_does_not_get_the_devices_of_another_one_before_their_end(race, decisions):
    first, second = [await launch(race, number) for number in range(2)]
    await offer(decisions, [first], T0)
    offered = await race.world.offered(first.campaign_no)
    for item in offered.items():
        await race.world.offers.start(*item)
    # Silent in trial: nobody knows what is in the second slot, so nobody else may write it.
    half = sorted(offered)[: DEVICES // 2]
    for device in half:
        race.world.fact(device, offered[device], d.TRIAL, T0 + 1)
    for device in sorted(offered)[DEVICES // 2 :]:
        race.world.fact(device, offered[device], d.FAILED, T0 + 1, failure_class="transport")
    await race.world.project()
    await offer(decisions, [second], T0 + LATER)
    assert sorted(await race.world.offered(second.campaign_no)) == sorted(offered)[DEVICES // 2 :]
    late = await race.world.value("SELECT max(started_at) FROM assignment") + 20_000
    await race.world.decisions.sweep(first.campaign_id, late, late)
    await offer(decisions, [second], late)
    assert len(await race.world.offered(second.campaign_no)) == DEVICES // 2
    for device in half:
        race.world.fact(device, offered[device], d.REVERTED, late + 1, failure_class="boot")
    await race.world.project()
    await offer(decisions, [second], late + LATER)
    assert len(await race.world.offered(second.campaign_no)) == DEVICES
    verdict = await race.judge()
    assert verdict.clean, verdict


async def test_a_device_that_was_written_off_and_is_in_trial_after_all_is_nobodys_but_its_campaigns(race, decisions):
    first, second, third = [await launch(race, number) for number in range(3)]
    await offer(decisions, [first], T0)
    offered = await race.world.offered(first.campaign_no)
    await asyncio.gather(*(race.world.offers.start(*item) for item in offered.items()))
    late = await race.world.value("SELECT max(started_at) FROM assignment") + 20_000
    await decisions.sweep(first.campaign_id, late, late)
    await offer(decisions, [second], late)
    assert len(await race.world.offered(second.campaign_no)) == DEVICES
    for item in offered.items():
        race.world.fact(*item, d.INSTALLED, late + 1)  # recorded before anybody could tell it of another image
    await race.world.project()
    for device in offered:  # what the second one offers is hidden at once
        assert (await race.world.offers.current(device)).campaign_no == first.campaign_no
    await decisions.sweep(second.campaign_id, late + 60_000, late + 60_000)
    assert (
        await race.world.value("SELECT count(*) FROM device_slot WHERE campaign_no = $1", first.campaign_no) == DEVICES
    )
    await offer(decisions, [second, third], late + 200_000)
    assert await race.world.value("SELECT count(*) FROM assignment WHERE state = 'offered'") == 0
    verdict = await race.judge()
    assert verdict.clean, verdict
