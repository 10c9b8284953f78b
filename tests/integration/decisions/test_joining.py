"""Devices that come after the enrolment of a campaign with continuous membership."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from orchestrator.adapters.sql import joining
from orchestrator.adapters.sql.queries import SqlQueries
from orchestrator.app.ports import Member
from orchestrator.domain import campaign as c
from orchestrator.domain.cohort import HOLDBACK
from orchestrator.domain.dossier import Dossier
from orchestrator.domain.membership import PAUSE_MS, place
from orchestrator.domain.selection import select
from schemas import device_events as d
from schemas import registry_events as r
from tests.support.world import T0, TARGET, World, plan

CONTINUOUS = {"membership": "continuous", "max_members": 230}
LATER = T0 + PAUSE_MS


@pytest.fixture
async def world(engine):
    made = World(engine)
    await made.setup()
    return made


async def launched(world: World, **cohort) -> c.Campaign:
    campaign = await world.launch(cohort=plan()["cohort"] | CONTINUOUS | cohort)
    await world.open_phase(campaign.campaign_id, 0, T0)
    return campaign


async def register(world: World, *numbers: int, **attributes: str) -> None:
    found = {"hw_revision": "A"} | attributes
    devices = [
        r.RegisteredDevice(device_no=no, device_id=f"dev-{no:04}", hardware_model="sensor-a", attributes=found)
        for no in numbers
    ]
    await world._register(r.DevicesRegistered(devices=devices, actor="test"))


def report(world: World, device: int, version: str | None = None, **attributes: str) -> None:
    data = msgspec.json.encode(d.Attributes(attributes=attributes, version=version))
    event = d.DeviceEvent(
        id=f"at-{device}-{len(world.log[device % 4])}",
        source="test",
        type=d.ATTRIBUTES,
        subject=f"dev-{device:04}",
        device_no=device,
        recorded_at=T0,
        data=msgspec.Raw(data),
    )
    world.raw(device % 4, d.encode(event))


async def late(world: World) -> dict[int, int]:
    rows = await world.rows("SELECT phase, device_nos FROM decision_ledger WHERE kind = 'enrol' AND cause = 'joined'")
    return {device: row["phase"] for row in rows for device in row["device_nos"]}


async def test_what_was_registered_joins_where_its_hash_puts_it_and_once(world):
    campaign = await launched(world)
    assert await world.decisions.join(campaign.campaign_id, T0) == 0
    await register(world, *range(301, 321))
    assert await world.decisions.join(campaign.campaign_id, T0 + 1) == 0  # not yet time to look again
    assert await world.decisions.join(campaign.campaign_id, LATER) == 20
    assert await world.decisions.join(campaign.campaign_id, LATER + PAUSE_MS) == 0
    dossier = Dossier.model_validate(campaign.dossier)
    devices = [Member(no, f"dev-{no:04}", "sensor-a", {"hw_revision": "A"}) for no in range(301, 321)]
    expected = {m.device_no: place(dossier, m) for m in select(dossier.plan, devices, TARGET)}
    assert await late(world) == expected
    queued = await world.rows("SELECT device_no, phase FROM offer_queue WHERE device_no > 300 ORDER BY phase, rank")
    assert [(row["phase"], row["device_no"]) for row in queued] == sorted(
        (phase, no) for no, phase in expected.items() if phase != HOLDBACK
    )
    event = msgspec.json.decode(
        await world.value("SELECT data::text FROM event_log WHERE type = 'MembersJoined'"), type=dict
    )
    assert (event["members"], sum(event["phases"]) + event["holdback"], event["refused"]) == (20, 20, {})
    assert event["ledger_position"] == await world.value("SELECT max(position) FROM decision_ledger")


async def test_what_begins_to_match_joins_and_what_no_longer_does_stays(world):
    campaign = await launched(world, selector="attribute.hw_revision=in=(A,B)")
    await world.decisions.join(campaign.campaign_id, T0)
    report(world, 2, hw_revision="A")  # was C
    report(world, 1, version="2.0.0", hw_revision="Z")  # a member
    await world.project()
    assert await world.decisions.join(campaign.campaign_id, LATER) == 1
    assert list(await late(world)) == [2]
    assert await world.value("SELECT count(*) FROM decision_ledger WHERE kind = 'enrol' AND 1 = ANY(device_nos)") == 1


async def test_what_came_between_the_count_and_the_enrolment_joins_with_the_first_pass(world, monkeypatch):
    monkeypatch.setattr(joining, "SCANNED", 50)
    world.counted_at = await world.value("SELECT max(registered_at) FROM device")
    await world.rows("UPDATE device SET registered_at = registered_at + 1 WHERE device_no IN (7, 190)")
    await world.rows("UPDATE device SET registered_at = registered_at - 1 WHERE device_no NOT IN (7, 190)")
    campaign = await launched(world)
    found = [await world.decisions.join(campaign.campaign_id, T0 + n * PAUSE_MS) for n in range(6)]
    assert sum(found) == 2
    assert sorted(await late(world)) == [7, 190]


async def test_who_may_not_join_is_counted_once_and_shown(world):
    campaign = await launched(world, max_members=203)
    await world.decisions.join(campaign.campaign_id, T0)
    await register(world, *range(301, 306))
    await register(world, 400, 401, hw_revision="Z")
    for n in range(1, 4):
        report(world, 400, seen=str(n))
        await world.project()
        await world.decisions.join(campaign.campaign_id, T0 + n * PAUSE_MS)
    assert sorted(await late(world)) == [301, 302, 303]
    status = await SqlQueries(world.engine).campaign(campaign.campaign_id)
    assert status.enrolment is not None
    assert (status.enrolment.members, status.enrolment.joined) == (203, 3)
    assert status.enrolment.refused == {"full": 2, "unknown_stratum": 2}
    assert sum(phase.devices or 0 for phase in status.phases) + status.enrolment.holdback == 203


async def test_a_refused_device_that_comes_to_an_approved_stratum_joins(world):
    campaign = await launched(world)
    await world.decisions.join(campaign.campaign_id, T0)
    await register(world, 400, hw_revision="Z")
    await world.decisions.join(campaign.campaign_id, LATER)
    report(world, 400, hw_revision="B")
    await world.project()
    assert await world.decisions.join(campaign.campaign_id, LATER + PAUSE_MS) == 1
    assert await world.value("SELECT count(*) FROM late_refusal") == 0


async def test_a_stopped_campaign_takes_nobody_and_takes_them_when_it_goes_on(world):
    campaign = await launched(world)
    await world.decisions.join(campaign.campaign_id, T0)
    await world.command(campaign.campaign_id, lambda *_: c.Pause(actor="ann", reason="r", ledger_position=0))
    await register(world, 301)
    assert await world.decisions.join(campaign.campaign_id, LATER) == 0
    await world.command(campaign.campaign_id, lambda *_: c.Resume(actor="ann", reason="r", ledger_position=0))
    assert await world.decisions.join(campaign.campaign_id, LATER) == 1
    await world.command(campaign.campaign_id, lambda *_: c.Abort(actor="ann", reason="r", ledger_position=0))
    await register(world, 302)
    assert await world.decisions.join(campaign.campaign_id, LATER + PAUSE_MS) == 0


async def test_a_snapshot_takes_nobody(world):
    campaign = await world.launch()
    await world.open_phase(campaign.campaign_id, 0, T0)
    await register(world, 301)
    assert await world.decisions.join(campaign.campaign_id, LATER) == 0
    assert await world.value("SELECT count(*) FROM late_look") == 0


async def test_two_looks_at_once_take_everybody_once(world):
    campaign = await launched(world)
    await world.decisions.join(campaign.campaign_id, T0)
    await register(world, *range(301, 311))
    joined = await asyncio.gather(*(world.decisions.join(campaign.campaign_id, LATER) for _ in range(3)))
    assert sum(joined) == 10
    assert await world.value("SELECT count(*) FROM event_log WHERE type = 'MembersJoined'") == 1


async def test_the_gate_does_not_wait_for_late_members_and_says_how_many_there_are(world):
    campaign = await launched(world)
    await world.decisions.join(campaign.campaign_id, T0)
    before = await world.decisions.read_gate(campaign.campaign_id, 1, T0)
    await register(world, *range(301, 321))
    await world.decisions.join(campaign.campaign_id, LATER)
    after = await world.decisions.read_gate(campaign.campaign_id, 1, T0)
    assert (after.queued, before.late) == (before.queued, 0)
    assert after.late == list((await late(world)).values()).count(1)


async def test_late_members_are_offered_behind_the_enrolled_under_the_same_caps(world):
    campaign = await launched(world)
    await world.decisions.join(campaign.campaign_id, T0)
    await register(world, *range(301, 325))
    await world.decisions.join(campaign.campaign_id, LATER)
    mine = [no for no, phase in (await late(world)).items() if phase == 0]
    done = await world.decisions.dispatch(campaign.campaign_id, 0, 500, LATER)
    assert (done.granted, done.remaining) == (40 + len(mine), 0)
    offered = await world.rows("SELECT device_no FROM assignment ORDER BY action_id")
    assert set(mine) <= {row["device_no"] for row in offered}
    await world.recount()


async def test_a_look_that_lost_its_place_finds_the_same_members(world):
    campaign = await launched(world)
    await register(world, 301, 302)
    await world.decisions.join(campaign.campaign_id, T0)
    await world.rows("TRUNCATE late_look, late_refusal")
    await register(world, 303)
    assert await world.decisions.join(campaign.campaign_id, LATER) == 1
    assert sorted(await late(world)) == [301, 302, 303]
