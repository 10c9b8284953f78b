"""The cohort is frozen once, as it was approved."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from orchestrator.adapters.sql.engine import transaction
from orchestrator.domain import campaign as c
from tests.support.world import T0, World


@pytest.fixture
async def world(engine):
    made = World(engine)
    await made.setup()
    return made


async def test_members_holdback_and_queue_are_what_was_approved(world):
    campaign = await world.launch()
    await world.decisions.enrol(campaign.campaign_id, T0)
    enrolled = await world.value("SELECT enrolment FROM campaign")
    assert (enrolled["members"], enrolled["holdback"], enrolled["phases"]) == (200, 2, [40, 158])
    assert await world.value("SELECT count(*) FROM offer_queue WHERE phase = 0") == 40
    frozen = await world.rows("SELECT phase, device_nos FROM decision_ledger WHERE kind = 'enrol'")
    everyone = [device for row in frozen for device in row["device_nos"]]
    assert sorted(everyone) == sorted(world.fleet)
    held = {device for row in frozen if row["phase"] == -1 for device in row["device_nos"]}
    queued = {row["device_no"] for row in await world.rows("SELECT device_no FROM offer_queue")}
    assert not held & queued


async def test_two_enrolments_at_once_enrol_once(world):
    campaign = await world.launch()
    await asyncio.gather(*(world.decisions.enrol(campaign.campaign_id, T0) for _ in range(3)))
    assert await world.value("SELECT count(*) FROM offer_queue") == 198
    assert await world.value("SELECT count(*) FROM event_log WHERE type = 'CohortEnrolled'") == 1


async def test_a_device_that_registers_after_the_submission_stays_out(world):
    campaign = await world.launch()
    async with transaction(world.engine) as conn:
        later = await conn.fetchval("SELECT max(recorded_at) + 1 FROM event_log")
        await conn.execute(
            "INSERT INTO device VALUES (900, 'dev-new', 'sensor-a', $1::jsonb, NULL, NULL, $2, NULL)",
            msgspec.json.encode({"hw_revision": "A"}).decode(),
            later,
        )
    state = await world.decisions.enrol(campaign.campaign_id, T0)
    assert state.state is c.CampaignState.RUNNING
    assert await world.value("SELECT count(*) FROM offer_queue WHERE device_no = 900") == 0


async def test_a_fleet_that_outgrew_its_dossier_halts_the_campaign_before_any_offer(world):
    campaign = await world.launch()
    async with transaction(world.engine) as conn:
        await conn.execute("""UPDATE device SET attributes = '{"hw_revision": "Z"}' WHERE device_no < 5""")
    state = await world.decisions.enrol(campaign.campaign_id, T0)
    assert state.state is c.CampaignState.HALTED
    assert state.halt is not None
    assert "no longer fits" in state.halt.reason
    assert await world.value("SELECT count(*) FROM decision_ledger") == 0
    assert await world.value("SELECT count(*) FROM offer_queue") == 0
