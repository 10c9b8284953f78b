"""The transactions of a campaign against the real database, one after the other."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.domain import campaign as c
from orchestrator.domain.visibility import Shown
from schemas import device_events as d
from tests.support.world import T0, World


@pytest.fixture
async def world(engine):
    made = World(engine)
    await made.setup()
    return made


async def start_all(world: World, offered: dict[int, int]) -> None:
    views = await asyncio.gather(*(world.offers.start(device, action) for device, action in offered.items()))
    assert all(view is not None and view.shown is Shown.DEPLOYMENT for view in views)


async def test_a_good_release_passes_its_canary_and_completes_its_phase(world):
    campaign = await world.launch()
    await world.open_phase(campaign.campaign_id, 0, T0)
    granted = await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    assert (granted.granted, granted.remaining) == (40, 0)
    offered = await world.offered(campaign.campaign_no)
    await start_all(world, offered)
    started_at = await world.value("SELECT max(first_started_at) FROM assignment")
    for device, action in offered.items():
        world.fact(device, action, d.INSTALLED, started_at + 1)
        world.fact(device, action, d.TRIAL, started_at + 2)
        world.fact(device, action, d.CONFIRMED, started_at + 3)
    applied = await world.project()
    assert applied.transitions["confirmed"] == 40
    await world.recount()
    early = await world.decisions.read_gate(campaign.campaign_id, 0, started_at + 10_000)
    assert early.matured == 0
    late = await world.decisions.read_gate(campaign.campaign_id, 0, started_at + 21_000)
    assert (late.matured, late.failures, late.in_flight, late.queued) == (40, 0, 0, 0)
    assert all(late.strata.values())
    assert await world.value("SELECT count(*) FROM device_slot") == 0


async def test_reverted_devices_halt_the_campaign_and_nothing_starts_afterwards(world):
    campaign = await world.launch()
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 20, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 20, T0)
    offered = await world.offered(campaign.campaign_no)
    started = dict(list(offered.items())[:20])
    await start_all(world, started)
    for device, action in list(started.items())[:5]:
        world.fact(device, action, d.REVERTED, T0 + 5, failure_class="health")
    applied = await world.project()
    assert len(applied.halts) == 1
    halt = applied.halts[0]
    assert (halt.by, halt.scope, halt.n, halt.f, halt.bound) == ("gate", "campaign", 20, 5, 5)
    assert halt.strata[0].failures >= halt.strata[-1].failures
    state = await world.store.load(campaign.campaign_id)
    assert state.state is c.CampaignState.HALTED
    waiting = dict(list(offered.items())[20:])
    assert await asyncio.gather(*(world.offers.start(*item) for item in waiting.items())) == [None] * 20
    stopped = await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0 + 10)
    assert (stopped.granted, stopped.state) == (0, "halted")
    after = await world.rows(
        "SELECT kind FROM decision_ledger WHERE campaign_no = $1 AND position > $2 AND kind IN ('offer', 'start')",
        campaign.campaign_no,
        halt.ledger_position,
    )
    assert after == []
    swept = await world.decisions.sweep(campaign.campaign_id, T0 + 20, T0 + 20)
    assert (swept.withdrawn, swept.cancels) == (20, 15)
    await world.recount()
    for device, action in list(started.items())[5:]:
        view = await world.offers.current(device)
        assert view is not None
        assert (view.action_id, view.shown) == (action, Shown.CANCEL)


async def test_a_device_that_falls_silent_in_trial_fails_at_its_deadline_and_keeps_its_slot(world):
    campaign = await world.launch()
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    offered = await world.offered(campaign.campaign_no)
    await start_all(world, offered)
    at = await world.value("SELECT max(started_at) FROM assignment")
    silent = dict(list(offered.items())[:6])
    for device, action in silent.items():
        world.fact(device, action, d.TRIAL, at + 1)
    await world.project()
    due = at + 20_000
    behind = await world.decisions.sweep(campaign.campaign_id, due, at)
    assert (behind.expired, behind.halted) == (0, False), "facts until the deadline are not projected yet"
    swept = await world.decisions.sweep(campaign.campaign_id, due, due)
    assert (swept.expired, swept.silent, swept.halted) == (40, 6, True)
    assert await world.value("SELECT count(*) FROM device_slot") == 6
    assert (await world.store.load(campaign.campaign_id)).halt.f == 6
    await world.recount()
    world.fact(*next(iter(silent.items())), d.CONFIRMED, due + 5)
    await world.project()
    assert await world.value("SELECT count(*) FROM device_slot") == 5
    assert await world.value("SELECT count(*) FROM assignment WHERE state = 'confirmed' AND failed_at IS NOT NULL") == 1
    await world.recount()


async def test_an_offer_that_is_not_started_expires_and_is_offered_once_more(world):
    campaign = await world.launch()
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    first = await world.offered(campaign.campaign_no)
    swept = await world.decisions.sweep(campaign.campaign_id, T0 + 60_000, 0)
    assert (swept.expired, swept.requeued) == (40, 40)
    again = await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0 + 120_000)
    assert again.granted == 40
    second = await world.offered(campaign.campaign_no)
    assert second.keys() == first.keys()
    assert not set(second.values()) & set(first.values())
    device, action = next(iter(first.items()))
    assert await world.offers.start(device, action) is None, "the first offer is over"
    last = await world.decisions.sweep(campaign.campaign_id, T0 + 180_001, 0)
    assert (last.expired, last.requeued) == (40, 0)
    await world.recount()


async def test_a_paused_campaign_starts_nothing_new_and_resumes_where_it_was(world):
    campaign = await world.launch()
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 10, T0)
    offered = await world.offered(campaign.campaign_no)
    await world.command(
        campaign.campaign_id,
        lambda _, s: c.Pause(actor="ann", reason="lunch", ledger_position=s.ledger_position),
    )
    device, action = next(iter(offered.items()))
    assert await world.offers.start(device, action) is None
    view = await world.offers.current(device)
    assert view is not None
    assert view.shown is Shown.NOTHING
    await world.command(
        campaign.campaign_id,
        lambda _, s: c.Resume(actor="ann", reason="back", ledger_position=s.ledger_position),
    )
    assert await world.offers.start(device, action) is not None


async def test_a_device_takes_part_in_one_campaign_at_a_time(world):
    first = await world.launch()
    second = await world.launch(cohort={"stratify_by": [], "salt": "salt"})
    await world.open_phase(first.campaign_id, 0, T0)
    await world.open_phase(second.campaign_id, 0, T0)
    await asyncio.gather(
        world.decisions.dispatch(first.campaign_id, 0, 500, T0),
        world.decisions.dispatch(second.campaign_id, 0, 500, T0),
    )
    doubled = await world.rows(
        "SELECT device_no FROM assignment WHERE state = 'offered' GROUP BY 1 HAVING count(*) > 1"
    )
    assert doubled == []
    queued = await world.value("SELECT count(*) FROM offer_queue WHERE not_before > 0 AND phase = 0")
    offered = await world.value("SELECT count(*) FROM assignment")
    assert queued + offered == 80, "busy devices wait in the queue, none is lost"


async def test_parallel_slices_never_grant_more_than_the_room(world):
    campaign = await world.launch(max_in_flight={"initial": 25, "maximum": 25})
    await world.open_phase(campaign.campaign_id, 0, T0)
    await asyncio.gather(*(world.decisions.dispatch(campaign.campaign_id, 0, 10, T0) for _ in range(4)))
    assert len(await world.offered(campaign.campaign_no)) == 25
