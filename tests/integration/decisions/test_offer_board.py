"""Idle polls from memory: work is hidden for a moment at most, never shown by mistake, and never lost."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.adapters.sql.offer_board import OfferBoard
from orchestrator.adapters.sql.offers import SqlOffers
from schemas import device_events as d
from tests.support.world import T0, TOPIC, World


@pytest.fixture
async def world(engine):
    made = World(engine)
    await made.setup()
    return made


@pytest.fixture
async def board(engine):
    made = OfferBoard(engine, poll=0.01, stale=30.0)
    await made.start()
    yield made
    await made.stop()


async def shown(offers: SqlOffers, device: int) -> None:
    async with asyncio.timeout(30):
        while await offers.current(device) is None:  # noqa: ASYNC110  it waits for the board's own reader
            await asyncio.sleep(0.01)


async def test_an_offer_comes_on_the_board_and_goes_off_when_its_work_is_done(world, board):
    campaign = await world.launch()
    await world.open_phase(campaign.campaign_id, 0, T0)
    assert all(board.idle(device) for device in world.fleet)
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    offers = SqlOffers(world.engine, TOPIC, board)
    device, action = next(iter((await world.offered(campaign.campaign_no)).items()))
    await shown(offers, device)
    assert not board.idle(device)
    world.fact(device, action, d.CONFIRMED, T0 + 1)
    await world.project()
    assert await offers.current(device) is None
    assert board.idle(device)


async def test_devices_with_a_slot_are_on_the_board_from_the_start(world):
    campaign = await world.launch()
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    late = OfferBoard(world.engine, poll=60.0)
    await late.start()
    try:
        assert not any(late.idle(device) for device in await world.offered(campaign.campaign_no))
    finally:
        await late.stop()


async def test_an_idle_device_is_answered_without_the_database(world, board):
    offers = SqlOffers(world.engine, TOPIC, board)
    await world.engine.dispose()
    offers._engine = None  # any question would fail
    assert await offers.current(1) is None


async def test_an_offer_made_while_the_database_was_asked_is_not_taken_off(world, board):
    board._devices[7] = 50
    board.take_off(7, 49)
    assert not board.idle(7)
    board.take_off(7, 50)
    assert board.idle(7)


async def test_memory_vouches_for_nobody_once_the_tail_is_stale(world):
    stale = OfferBoard(world.engine, poll=60.0, stale=0.0)
    await stale.start()
    try:
        assert not stale.idle(1)
    finally:
        await stale.stop()
