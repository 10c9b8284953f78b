"""The demonstration's judge on the real database, where what it must find is known."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.demo.facts import Facts
from schemas import device_events as d
from tests.support.world import T0, World


@pytest.fixture
async def world(engine):
    made = World(engine)
    await made.setup()
    return made


@pytest.fixture
async def facts(database_url):
    connected = await Facts.connect(database_url)
    yield connected
    await connected.close()


@pytest.fixture
async def halted(world):
    """A campaign that halted with 20 of its 40 offers started and 5 devices reverted."""
    campaign = await world.launch()
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 20, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 20, T0)
    started = list((await world.offered(campaign.campaign_no)).items())[:20]
    await asyncio.gather(*(world.offers.start(*item) for item in started))
    for device, action in started[:5]:
        world.fact(device, action, d.REVERTED, T0 + 5, failure_class="health")
    await world.project()
    return campaign.campaign_id


async def test_a_halt_is_read_with_its_numbers_and_nothing_is_beyond_it(facts, halted):
    halt = await facts.halt(halted)
    assert halt is not None
    assert (halt.by, halt.phase, halt.scope, halt.started, halt.failures, halt.bound) == (
        "gate",
        "canary",
        "campaign",
        20,
        5,
        5,
    )
    assert halt.failed_at == T0 + 5
    assert (halt.offers_after, halt.starts_after) == (0, 0)


async def test_offers_and_starts_beyond_the_halt_are_counted_by_device(facts, halted, world):
    beyond = [("offer", [1, 2, 3]), ("start", [1, 2]), ("withdraw", [3])]
    for index, (kind, devices) in enumerate(beyond):
        await world.rows(
            "INSERT INTO decision_ledger (position, campaign_no, kind, device_nos, control_version, at, prev_hash, hash)"
            " SELECT max(position) + 1, $1, $2, $3, 0, $4, '', '' FROM decision_ledger RETURNING position",
            1,
            kind,
            devices,
            T0 + index,
        )
    halt = await facts.halt(halted)
    assert halt is not None
    assert (halt.offers_after, halt.starts_after) == (3, 2)


async def test_an_ended_campaign_is_accounted_for(facts, halted):
    ended = await facts.ended(halted)
    assert (ended.state, ended.cohort, ended.holdback) == ("halted", 200, 2)
    assert (ended.exposed, ended.failures, ended.failed, ended.confirmed) == (20, 5, 5, 0)
    progress = await facts.progress(halted)
    assert (progress.state, progress.in_flight, progress.states["reverted"]) == ("halted", 35, 5)


async def test_every_action_is_known_with_its_campaign(facts, halted, world):
    given = await world.rows("SELECT action_id FROM assignment")
    assert await facts.campaign_of_actions() == {row["action_id"]: halted for row in given}


async def test_stored_statements_are_read_as_sets(facts, halted, world):
    world.raw(0, b"no event at all")
    await world.project()
    assert len(await facts.timeline_ids()) == 5
    assert len(await facts.dead_letter_ids()) == 1


async def test_counters_that_follow_the_rows_differ_in_nothing(facts, halted):
    assert await facts.counter_differences() == 0
    assert await facts.double_assignments() == 0


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE counter SET n = n + 1 WHERE state = 'reverted'",
        "UPDATE gate_count SET failed = failed + 1",
        "UPDATE gate_count SET started = 0",
        "DELETE FROM maturity",
        "UPDATE maturity SET good = good + 1",
        "DELETE FROM assignment WHERE state = 'reverted'",
    ],
)
async def test_a_counter_that_does_not_follow_the_rows_is_found(facts, halted, world, tampering):
    await world.rows(f"{tampering} RETURNING 1")
    assert await facts.counter_differences() > 0


async def test_an_assignment_in_flight_without_the_devices_slot_is_found(facts, halted, world):
    await world.rows(
        "DELETE FROM device_slot WHERE device_no IN (SELECT device_no FROM device_slot LIMIT 3) RETURNING 1"
    )
    assert await facts.double_assignments() == 3
