"""Two rows of one device that both claim its slot, on the real database: the slot is always the stronger one's."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from orchestrator.adapters.sql import rows
from orchestrator.adapters.sql.engine import driver
from orchestrator.domain.assignment import SEEN, Assignment, State, holds_slot
from orchestrator.domain.campaign import Campaign
from schemas import device_events as d
from tests.support.waiting import until
from tests.support.world import T0, World

EVERYONE = {
    "phases": [{"name": "all", "percent": 100.0, "soak": "1s"}],
    "max_in_flight": {"initial": 500, "maximum": 500},
    "halt": [{"name": "failures", "scope": "campaign", "p0": 0.4, "alpha": 0.01}],
    "retry": {"max_attempts": 3, "backoff": {"initial": "10m"}, "per_class": {"boot": {"max_attempts": 3}}},
}
URGENT = {"priority": 500, "supersede": "waiting"}
DEVICES = 9
LATER = 600_001


@pytest.fixture
async def world(engine):
    made = World(engine, devices=DEVICES)
    await made.setup()
    return made


async def launch(world: World, **changes) -> Campaign:
    campaign = await world.launch(**EVERYONE | changes)
    return await world.open_phase(campaign.campaign_id, 0, T0)


async def offer(world: World, campaign: Campaign, at: int) -> dict[int, int]:
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, at)
    return await world.offered(campaign.campaign_no)


async def tell(world: World, offered: dict[int, int], kind: str, at: int, **report) -> None:
    for item in offered.items():
        world.fact(*item, kind, at, **report)
    await world.project()


async def owners(world: World) -> dict[int, int]:
    """Campaigns to how many slots they have."""
    found = await world.rows("SELECT campaign_no, count(*) AS n FROM device_slot GROUP BY 1")
    return {row["campaign_no"]: row["n"] for row in found}


async def written_off(world: World) -> tuple[Campaign, dict[int, int], int]:
    """A campaign whose devices started, then fell silent and were given up."""
    campaign = await launch(world)
    offered = await offer(world, campaign, T0)
    await asyncio.gather(*(world.offers.start(*item) for item in offered.items()))
    late = await world.value("SELECT max(started_at) FROM assignment") + 20_000
    await world.decisions.sweep(campaign.campaign_id, late, late)
    assert await owners(world) == {}
    return campaign, offered, late


async def test_of_two_that_are_in_trial_the_one_offered_last_has_the_slot_although_both_held_before(world):
    first, given, late = await written_off(world)
    second = await launch(world, priority=200)
    offered = await offer(world, second, late)
    await asyncio.gather(*(world.offers.start(*item) for item in offered.items()))
    await tell(world, given, d.INSTALLED, late + 1)
    assert await owners(world) == {first.campaign_no: DEVICES}
    # Nobody begins or ceases to hold here, and yet the slot changes hands.
    await tell(world, offered, d.INSTALLED, late + 2)
    assert await owners(world) == {second.campaign_no: DEVICES}
    await tell(world, offered, d.CONFIRMED, late + 3)
    assert await owners(world) == {first.campaign_no: DEVICES}
    await tell(world, given, d.REVERTED, late + 4)
    assert await owners(world) == {}


async def test_a_device_in_trial_of_a_campaign_that_gave_it_up_is_shown_nothing_else_until_its_verdict(world):
    low = await launch(world)
    given = await offer(world, low, T0)
    high = await launch(world, **URGENT)
    offered = await offer(world, high, T0 + 1)
    assert (len(offered), await owners(world)) == (DEVICES, {high.campaign_no: DEVICES})
    await tell(world, given, d.DOWNLOADING, T0 + 2)
    assert await owners(world) == {high.campaign_no: DEVICES}
    await tell(world, given, d.TRIAL, T0 + 3)
    assert await owners(world) == {low.campaign_no: DEVICES}
    for device in offered:
        assert (await world.offers.current(device)).campaign_no == low.campaign_no
        assert await world.offers.start(device, offered[device]) is None
    await tell(world, given, d.CONFIRMED, T0 + 4)
    assert await owners(world) == {high.campaign_no: DEVICES}
    for device in offered:
        assert (await world.offers.start(device, offered[device])).campaign_no == high.campaign_no
    await world.recount()


@pytest.mark.parametrize("report", [{"failure_class": "transport"}, {"failure_class": "boot"}])
async def test_a_late_failure_of_an_offer_that_was_taken_over_is_counted_and_not_tried_again(world, report):
    low = await launch(world)
    given = await offer(world, low, T0)
    high = await launch(world, **URGENT)
    await offer(world, high, T0 + 1)
    await tell(world, {1: given[1]}, d.FAILED, T0 + 2, **report)
    row = (await world.rows("SELECT * FROM assignment WHERE campaign_no = $1 AND device_no = 1", low.campaign_no))[0]
    assert (row["state"], row["failed_class"]) == ("failed", "boot" if report["failure_class"] == "boot" else None)
    for at in (T0 + 3, T0 + 3 + LATER):
        await world.decisions.sweep(low.campaign_id, at, at)
    assert await world.value("SELECT count(*) FROM decision_ledger WHERE kind = 'retry' AND campaign_no = $1", 1) == 0
    assert await world.value("SELECT count(*) FROM offer_queue WHERE campaign_no = $1", low.campaign_no) == 0
    assert await owners(world) == {high.campaign_no: DEVICES}


async def test_an_offer_that_commits_while_an_older_trial_is_heard_of_is_hidden_all_the_same(world, database_url):
    first, given, late = await written_off(world)
    second = await launch(world, priority=200)
    holder, watch = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    try:
        # Both pass what they read before either is written: the slot is inserted, its offer's row is not there yet.
        async with holder.transaction():
            await holder.execute("SELECT pg_advisory_xact_lock(7001, $1)", second.campaign_no)
            slices = asyncio.create_task(world.decisions.dispatch(second.campaign_id, 0, 500, late))
            await waiting(watch, 1)
            for item in given.items():
                world.fact(*item, d.TRIAL, late + 1)
            facts = asyncio.create_task(world.project())
            await waiting(watch, 2)
        assert (await slices).granted == DEVICES
        await facts
    finally:
        await holder.close()
        await watch.close()
    assert await owners(world) == {first.campaign_no: DEVICES}


async def waiting(watch: asyncpg.Connection, wanted: int) -> None:
    async def blocked() -> bool:
        found = await watch.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return found == wanted

    await until(blocked)


async def test_the_rows_that_the_database_says_hold_a_slot_are_those_that_the_rule_says_do(world):
    fields = {"campaign_no": 1, "device_no": 1, "phase": 0, "stratum": 0, "attempt": 1, "action_id": 1}
    times = {"gate_epoch": 1, "offered_at": 1, "changed_at": 1}
    async with driver(world.engine) as conn:
        for state in State:
            for progress in sorted(SEEN):
                found = await conn.fetchval(
                    f"SELECT {rows.HOLDS} FROM (VALUES ($1::text, $2::text)) a(state, progress)", state, progress
                )
                assert found == holds_slot(Assignment(**fields, **times, state=state, progress=progress)), state
