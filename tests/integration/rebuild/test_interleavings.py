"""The fold gives the same rows for any interleaving of the logs that keeps each log's order and puts no effect before its cause."""

from __future__ import annotations

import random
from dataclasses import dataclass

import msgspec
import pytest

from orchestrator.adapters.sql import event_log, ledger
from orchestrator.adapters.sql.catch_up import CatchUp, Cut, read_cut
from orchestrator.adapters.sql.comparison import SHADOW, Sides, differences
from orchestrator.adapters.sql.engine import driver, make_engine, transaction
from orchestrator.adapters.sql.shadow import open_shadow
from schemas import device_events as d
from schemas.ledger import Kind
from tests.integration.rebuild.conftest import Story
from tests.support.world import TOPIC

STORIES = 4
INTERLEAVINGS = 5


@dataclass
class Causes:
    """What must have been followed before a record can be."""

    decisions: dict[int, int]
    """Ledger position to the event that froze its campaign's dossier."""
    whole: list[int]
    """Ledger positions after which no enrolment goes on."""
    facts: dict[tuple[int, int], tuple[int, int]]
    """Partition and offset to the positions of an event and of a ledger row."""


async def causes(story: Story) -> Causes:
    async with driver(story.world.engine) as conn:
        events = await event_log.read_all(conn, 0, 10**6)
        entries = await ledger.read(conn, 0, 10**6)
    frozen = {
        int(event.stream.rpartition("_")[2]): event.position for event in events if event.type == "CampaignSubmitted"
    }
    registered = {
        device.device_no: event.position
        for event in events
        if event.type == "DevicesRegistered"
        for device in event.event.devices
    }
    offered = {
        entry.action_base + i: entry.position
        for entry in entries
        if entry.kind is Kind.OFFER
        for i in range(len(entry.device_nos))
    }
    facts: dict[tuple[int, int], tuple[int, int]] = {}
    for partition, records in story.world.log.items():
        for record in records:
            try:
                event = d.decode_event(record.value)
            except (msgspec.DecodeError, TypeError):
                continue
            of_device = event.type in {d.ATTRIBUTES, d.HEALTH}
            action = 0 if of_device else d.decode_report(event.data).action_id
            facts[partition, record.offset] = registered[event.device_no], offered.get(action, 0)
    ends = [
        entry.position
        for entry, following in zip(entries, [*entries[1:], None], strict=True)
        if following is None or not (entry.kind is following.kind is Kind.ENROL)
    ]
    return Causes({entry.position: frozen[entry.campaign_no] for entry in entries}, ends, facts)


async def interleave(dice: random.Random, catch_up: CatchUp, end: Cut, known: Causes) -> int:
    """Follow the logs to ``end`` in random steps; how many."""
    events, decisions, facts = 0, 0, dict.fromkeys(end.facts, 0)
    steps = 0
    while (events, decisions, facts) != (end.events, end.decisions, end.facts):
        steps += 1
        match dice.randrange(2 + len(facts)):
            case 0:
                events = min(end.events, events + dice.randrange(1, 8))
            case 1:
                ahead = [
                    at
                    for at in known.whole
                    if at > decisions and all(known.decisions[n] <= events for n in range(decisions + 1, at + 1))
                ]
                decisions = dice.choice(ahead[:5]) if ahead else decisions
            case partition:
                partition -= 2
                for _ in range(dice.randrange(1, 30)):
                    at = facts[partition]
                    event, row = known.facts.get((partition, at), (0, 0))
                    if at < end.facts[partition] and event <= events and row <= decisions:
                        facts[partition] = at + 1
        await catch_up.follow(Cut(events, decisions, dict(facts), end.identity))
    return steps


@pytest.mark.parametrize("seed", range(STORIES))
async def test_any_interleaving_of_the_logs_gives_the_same_rows(story: Story, seed):
    story.dice = random.Random(seed)
    await story.live(80)
    assert await story.world.value("SELECT count(*) FROM decision_ledger WHERE cause = 'superseded'") > 0
    slots = await story.world.rows("SELECT device_no, campaign_no, attempt FROM device_slot ORDER BY 1")
    assert [tuple(row.values()) for row in slots] == await story.slots()
    moved = {row["type"] for row in await story.world.rows("SELECT type FROM event_log WHERE type LIKE 'Breaker%'")}
    assert "BreakerOpened" in moved
    known = await causes(story)
    fresh = make_engine(story.settings.database_url, pool_size=2, search_path=f"{SHADOW},public")
    try:
        for number in range(INTERLEAVINGS):
            dice = random.Random(f"{seed} {number}")
            async with transaction(story.world.engine) as conn:
                shadow = await open_shadow(conn, TOPIC, restart=True)
                end = await read_cut(conn, TOPIC)
            catch_up = CatchUp(
                *(story.world.engine, fresh, TOPIC, shadow, story.sources()),
                batch=dice.randrange(1, 40),
                progress=lambda *_: None,
            )
            assert await interleave(dice, catch_up, end, known) > 30
            async with driver(story.world.engine) as live:
                assert await differences(Sides(live, live), 1_000) == []
    finally:
        await fresh.dispose()
