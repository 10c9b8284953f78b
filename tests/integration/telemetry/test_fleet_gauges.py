from __future__ import annotations

import asyncio

import pytest

from orchestrator.app.breaker import Breakers
from orchestrator.errors import UnavailableError
from orchestrator.telemetry.fleet_gauges import FleetGauges
from schemas import device_events as d
from tests.support.world import T0, TOPIC, World


@pytest.fixture
async def world(engine) -> World:
    world = World(engine)
    await world.setup()
    return world


@pytest.fixture
def telemetry(telemetry_to):
    made = telemetry_to("", "relay")
    yield made
    made.shutdown()


def by(found, label):
    return {dict(labels)[label]: value for labels, value in found.items()}


async def canary(world: World, failing: int, started: int = 20) -> str:
    """A running campaign of which devices started, and some of them failed."""
    campaign = await world.launch()
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 40, T0)
    offered = sorted((await world.offered(campaign.campaign_no)).items())[:started]
    for number, action in offered:
        await world.offers.start(number, action)
    for index, (number, action) in enumerate(offered):
        world.fact(number, action, d.TRIAL, T0 + 1_000)
        if index < failing:
            world.fact(number, action, d.REVERTED, T0 + 2_000, failure_class="health")
    await world.project()
    return campaign.campaign_id


async def test_the_gauges_show_what_the_counter_table_holds(world, engine, telemetry, series):
    campaign_id = await canary(world, failing=1)
    await FleetGauges(engine, telemetry.instruments, TOPIC).read()
    shown = series(telemetry, "ota_campaign_device_count")
    rows = await world.rows("SELECT state, count(*) AS n FROM assignment GROUP BY state")
    assert {k: v for k, v in by(shown, "device_state").items() if v} == {row["state"]: row["n"] for row in rows}
    assert {dict(labels)["campaign_id"] for labels in shown} == {campaign_id}
    (info,) = series(telemetry, "ota_campaign_info")
    assert dict(info) == {"campaign_id": campaign_id, "state": "running", "release": "rel_1"}


async def test_the_harm_ratio_stays_below_its_limit_until_the_rule_halts(world, engine, telemetry, series):
    await canary(world, failing=1)
    gauges = FleetGauges(engine, telemetry.instruments, TOPIC)
    await gauges.read()
    (ratio,) = series(telemetry, "ota_campaign_gate_harm_ratio").values()
    (limit,) = series(telemetry, "ota_campaign_gate_harm_ratio_limit").values()
    assert ratio == pytest.approx(1 / 20)
    assert ratio < limit
    assert by(series(telemetry, "ota_campaign_halts_total"), "cause") == {"gate": 0, "enrolment": 0, "operator": 0}


async def test_a_halt_is_counted_once_and_its_ratio_has_reached_the_limit(world, engine, telemetry, series):
    campaign_id = await canary(world, failing=12)
    gauges = FleetGauges(engine, telemetry.instruments, TOPIC)
    await gauges.read()
    await gauges.read()
    assert by(series(telemetry, "ota_campaign_halts_total"), "cause")["gate"] == 1
    assert by(series(telemetry, "ota_campaign_info"), "campaign_id") == {campaign_id: 1}
    (ratio,) = series(telemetry, "ota_campaign_gate_harm_ratio").values()
    (limit,) = series(telemetry, "ota_campaign_gate_harm_ratio_limit").values()
    assert ratio >= limit


async def test_what_a_consumer_of_the_log_has_not_taken_is_its_outbox(world, engine, telemetry, series):
    await world.launch()
    head = await world.value("SELECT position FROM event_head")
    await world.value("UPDATE relay_position SET position = $1 WHERE consumer = 'kafka' RETURNING 1", head)
    await FleetGauges(engine, telemetry.instruments, TOPIC).read()
    assert by(series(telemetry, "ota_outbox_depth"), "consumer") == {"kafka": 0, "temporal": head}
    ages = by(series(telemetry, "ota_outbox_oldest_age_seconds"), "consumer")
    assert ages["kafka"] == 0
    assert 0 <= ages["temporal"] < 3_600


async def test_the_lag_of_the_projection_is_the_distance_to_the_ends_of_the_log(world, engine, telemetry, series):
    await canary(world, failing=0)
    ends = {partition: len(records) for partition, records in world.log.items()}

    async def ahead():
        return {partition: end + 5 for partition, end in ends.items()}

    await FleetGauges(engine, telemetry.instruments, TOPIC, ahead).read()
    assert by(series(telemetry, "ota_projection_position_lag"), "projection") == {"fleet": 5 * len(ends)}


async def test_partitions_that_lost_unread_facts_are_shown_and_a_broker_that_is_away_shows_none(
    world, engine, telemetry, series
):
    async def damaged():
        return 3

    async def away():
        raise UnavailableError

    await FleetGauges(engine, telemetry.instruments, TOPIC, damaged=damaged).read()
    assert by(series(telemetry, "ota_projection_log_damaged"), "projection") == {"fleet": 3}
    await FleetGauges(engine, telemetry.instruments, TOPIC, damaged=away).read()
    assert series(telemetry, "ota_projection_log_damaged") == {}


async def test_without_the_broker_the_lag_is_missing_and_the_rest_is_there(world, engine, telemetry, series):
    await canary(world, failing=0)

    async def away():
        raise UnavailableError("Kafka does not answer.")

    await FleetGauges(engine, telemetry.instruments, TOPIC, away).read()
    assert series(telemetry, "ota_projection_position_lag") == {}
    assert series(telemetry, "ota_campaign_info")


async def test_a_campaign_that_ended_yesterday_is_no_longer_shown(world, engine, telemetry, series):
    await canary(world, failing=0)
    gauges = FleetGauges(engine, telemetry.instruments, TOPIC)
    await world.value("UPDATE campaign SET state = 'completed' RETURNING 1")
    await gauges.read()
    assert series(telemetry, "ota_campaign_info")
    await world.value("UPDATE campaign SET updated_at = updated_at - 90000000 RETURNING 1")
    await gauges.read()
    assert series(telemetry, "ota_campaign_info") == {}
    assert series(telemetry, "ota_campaign_device_count") == {}


async def test_when_the_leadership_ends_the_gauges_are_empty(world, engine, telemetry, series):
    await canary(world, failing=0)
    running = asyncio.create_task(FleetGauges(engine, telemetry.instruments, TOPIC).run())
    while not series(telemetry, "ota_campaign_info"):
        assert not running.done()
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert series(telemetry, "ota_campaign_info") == {}
    assert series(telemetry, "ota_outbox_depth") == {}


async def test_a_breaker_that_is_not_closed_is_shown_with_its_cause(world, engine, telemetry, series):
    campaign_id = await canary(world, failing=0)
    offered = await world.offered(1)
    for number, action in offered.items():
        world.fact(number, action, d.FAILED, T0 + 2_000, failure_class="transport")
    await world.project()
    gauges = FleetGauges(engine, telemetry.instruments, TOPIC)
    await gauges.read()
    assert series(telemetry, "ota_campaign_breaker_held") == {}
    await Breakers(world.store, world.decisions).look(campaign_id, T0 + 3_000, T0 + 3_000)
    await gauges.read()
    ((labels, value),) = series(telemetry, "ota_campaign_breaker_held").items()
    assert (dict(labels), value) == ({"campaign_id": campaign_id, "stage": "open", "cause": "failures"}, 1)
