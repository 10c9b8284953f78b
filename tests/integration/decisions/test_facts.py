"""Exactly once: repetition, zombies, holes and poison against the real database."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest

from orchestrator.adapters.sql import rows
from orchestrator.adapters.sql.facts import Delivery, FactProjection
from orchestrator.adapters.sql.positions import BrokenChainError, FencedError, LogDamageError, LogIdentity
from orchestrator.domain.assignment import Assignment, Observation, State, observe
from schemas import device_events as d
from tests.support.world import IDENTITY, T0, TOPIC, World


@pytest.fixture
async def world(engine):
    made = World(engine)
    await made.setup()
    campaign = await made.launch()
    await made.open_phase(campaign.campaign_id, 0, T0)
    await made.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    made.offers_made = await made.offered(campaign.campaign_no)
    return made


async def test_the_same_statement_twice_counts_once(world):
    device, action = next(iter(world.offers_made.items()))
    world.fact(device, action, d.REVERTED, T0 + 1, event_id="same", failure_class="health")
    world.fact(device, action, d.REVERTED, T0 + 1, event_id="same", failure_class="health")
    await world.project()
    assert await world.value("SELECT sum(failed)::int FROM gate_count") == 1
    assert await world.value("SELECT count(DISTINCT event_id) FROM timeline") == 1
    await world.recount()


async def test_records_that_are_delivered_again_are_passed_over(world):
    for device, action in list(world.offers_made.items())[:10]:
        world.fact(device, action, d.CONFIRMED, T0 + 1)
    again = world.unread()
    await world.project()
    applied = await world.projection.apply(again)
    assert applied.facts == 0
    assert await world.value("SELECT count(*) FROM timeline") == 10


async def test_a_zombie_that_lost_its_partitions_cannot_commit(world):
    for device, action in list(world.offers_made.items())[:4]:
        world.fact(device, action, d.CONFIRMED, T0 + 1)
    unread = world.unread()
    other = FactProjection(world.engine, TOPIC)
    await other.claim(IDENTITY, {p: (0, len(records)) for p, records in world.log.items()})
    with pytest.raises(FencedError):
        await world.projection.apply(unread)
    assert await world.value("SELECT count(*) FROM timeline") == 0
    assert (await other.apply(unread)).facts == 4


async def test_a_batch_that_was_dropped_on_the_way_is_noticed(world):
    device, action = next(iter(world.offers_made.items()))
    partition = device % len(world.log)
    for at in range(4):
        world.fact(device, action, d.PROGRESS, T0 + at)
    records = world.log[partition]
    with pytest.raises(BrokenChainError):
        await world.projection.apply([Delivery(partition, records[2:], previous=2)])
    with pytest.raises(LogDamageError):
        await world.projection.apply([Delivery(partition, [records[0], records[3]], previous=0)])
    assert await world.value("SELECT count(*) FROM timeline") == 0


@pytest.mark.parametrize(
    ("identity", "bounds", "position"),
    [
        (LogIdentity(cluster_id="cluster", topic_id="recreated"), (0, 10), 0),
        (LogIdentity(cluster_id="other", topic_id="topic"), (0, 10), 0),
        (IDENTITY, (3, 10), 0),
        (IDENTITY, (0, 2), 5),
    ],
    ids=["topic recreated", "another cluster", "retention passed unread events", "log shorter than the position"],
)
async def test_a_damaged_log_is_refused_when_it_is_claimed(world, identity, bounds, position):
    await world.rows("UPDATE projection_position SET next_offset = $1 WHERE partition = 0 RETURNING 1", position)
    with pytest.raises(LogDamageError):
        await FactProjection(world.engine, TOPIC).claim(identity, {0: bounds})


async def test_poison_becomes_dead_letters_with_their_reasons_and_blocks_nothing(world):
    device, action = next(iter(world.offers_made.items()))
    partition = device % len(world.log)
    event = msgspec.json.decode(
        d.encode(
            d.DeviceEvent(
                id="e",
                source="t",
                type=d.CONFIRMED,
                subject="x",
                device_no=device,
                recorded_at=T0,
                data=msgspec.Raw(msgspec.json.encode(d.Report(action_id=action))),
            )
        )
    )
    poison = {
        "event.malformed": b"{not json",
        "event.empty": None,
        "event.unknown_type": msgspec.json.encode(event | {"type": "device.update.exploded"}),
        "event.unknown_version": msgspec.json.encode(event | {"v": 99}),
        "event.out_of_range": msgspec.json.encode(event | {"device_no": 2**40}),
        "event.unknown_action": msgspec.json.encode(event | {"data": {"action_id": 5}}),
        "event.foreign_action": msgspec.json.encode(event | {"device_no": device + 1}),
        "event.too_large": b"x" * (1 << 20) + b"x",
    }
    for value in poison.values():
        world.raw(partition, value)
    world.raw(partition, msgspec.json.encode(event | {"data": {"action_id": "seven"}}))
    world.fact(device, action, d.CONFIRMED, T0 + 1, reason="nul\0byte")
    applied = await world.project()
    assert applied.transitions["confirmed"] == 1
    letters = await world.rows('SELECT code FROM dead_letter ORDER BY "offset"')
    assert [row["code"] for row in letters] == [*poison, "event.malformed"]
    assert await world.value("SELECT next_offset FROM projection_position WHERE partition = $1", partition) == 10


async def test_a_record_that_the_database_refuses_stands_alone_in_the_dead_letters(world, monkeypatch):
    devices = list(world.offers_made.items())[:8]
    for device, action in devices:
        world.fact(device, action, d.CONFIRMED, T0 + 1, reason="bad" if device == devices[3][0] else None)
    original = d.decode_update

    def refuse(raw):
        event = original(raw)
        if event.data.reason == "bad":
            raise OverflowError("no such report can be stored")
        return event

    monkeypatch.setattr(d, "decode_update", refuse)
    await world.project()
    assert await world.value("SELECT count(*) FROM assignment WHERE state = 'confirmed'") == 7
    assert [row["code"] for row in await world.rows("SELECT code FROM dead_letter")] == ["event.unprocessable"]
    await world.recount()


async def test_facts_in_any_batching_and_order_over_devices_give_the_same_counters(world):
    rng = random.Random(7)
    kinds = [d.ACCEPTED, d.DOWNLOADING, d.INSTALLED, d.TRIAL, d.CONFIRMED, d.REVERTED, d.FAILED, d.REJECTED]
    for _ in range(300):
        device, action = rng.choice(list(world.offers_made.items()))
        world.fact(
            device, action, rng.choice(kinds), T0 + rng.randrange(50), failure_class=rng.choice([None, "transport"])
        )
        if rng.random() < 0.1:
            await world.project()
    await world.project()
    await world.recount()


@pytest.mark.parametrize("own", [1, 5, 1_000], ids=["each change apart", "some", "all together"])
async def test_rows_are_written_as_they_were_folded_whichever_columns_change(world, monkeypatch, own):
    monkeypatch.setattr(rows, "OWN_STATEMENT", own)
    rng = random.Random(own)
    devices = list(world.offers_made.items())
    expected = {(row.device_no, row.campaign_no): row for row in await _assignments(world)}
    for _ in range(10):
        for device, action in rng.sample(devices, rng.randrange(1, len(devices))):
            kind, at = rng.choice(list(d.UPDATE_STATES)), T0 + rng.randrange(50)
            report = {
                "failure_class": rng.choice([None, "boot", "transport"]),
                "reason": rng.choice([None, "a", "b"]),
            }
            world.fact(device, action, kind, at, **report)
            state = State(d.UPDATE_STATES[kind])
            (key,) = (key for key in expected if key[0] == device)
            expected[key] = observe(expected[key], Observation(attempt=1, state=state, at=at, **report))
        await world.project()
    assert {(row.device_no, row.campaign_no): row for row in await _assignments(world)} == expected
    await world.recount()


async def _assignments(world: World) -> list[Assignment]:
    columns = ", ".join(Assignment.__struct_fields__)
    return rows.parse(row.values() for row in await world.rows(f"SELECT {columns} FROM assignment"))


async def test_starts_and_facts_at_once_keep_the_counters_right(world):
    devices = list(world.offers_made.items())
    for device, action in devices:
        world.fact(device, action, d.DOWNLOADING, T0 + 1)
        world.fact(device, action, d.REVERTED if device % 7 == 0 else d.CONFIRMED, T0 + 2)
    await asyncio.gather(world.project(), *(world.offers.start(*item) for item in devices))
    await world.recount()
