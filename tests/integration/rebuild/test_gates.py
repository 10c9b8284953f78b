"""Verdicts, soaks that wait for devices and holds that outlast their patience, on the real database and after a rebuild."""

from __future__ import annotations

from orchestrator.adapters.sql.process import SqlEnrolments
from orchestrator.app.process import CampaignProcess, GateResult
from orchestrator.domain import campaign as c
from schemas import device_events as d
from tests.integration.rebuild.conftest import Story
from tests.support.memory_process import Heard
from tests.support.world import T0

DEADLINE = 20_000
PHASES = [
    {
        "name": "canary",
        "count": 40,
        "soak": "1s",
        "soak_devices": 12,
        "patience": "1m",
        "external": [{"name": "lab", "patience": "30s"}],
        "promote": {"p1": 0.3, "beta": 0.05},
    },
    {"name": "rest", "percent": 100.0, "soak": "1s"},
]


async def test_a_phase_waits_for_devices_and_a_laboratory_and_a_rebuild_tells_the_same(story: Story):
    world = story.world
    campaign = await world.launch(phases=PHASES)
    cid, no = campaign.campaign_id, campaign.campaign_no
    process = CampaignProcess(world.store, world.decisions, SqlEnrolments(world.engine), Heard())
    assert await process.open_phase(cid, 0, T0) == "running"
    while (await process.dispatch(cid, 0, T0)).granted:
        pass
    reading = await world.decisions.read_gate(cid, 0, T0)
    assert (reading.matured, reading.outstanding) == (0, 40)
    await process.evaluate_gate(cid, 0, T0)
    assert (await world.store.load(cid)).soak_until == T0 + 1_000

    async def confirm(count: int) -> None:
        for device, action in sorted((await world.offered(no)).items())[:count]:
            assert await world.offers.start(device, action)
            world.fact(device, action, d.CONFIRMED, T0)
        await world.project()

    await confirm(11)
    started = await world.value("SELECT max(first_started_at) FROM assignment WHERE campaign_no = $1", no)
    ripe = started + 2 * DEADLINE
    assert "11 of 12 devices have matured" in (await process.evaluate_gate(cid, 0, ripe)).reason
    await confirm(4)
    ripe = await world.value("SELECT max(first_started_at) FROM assignment WHERE campaign_no = $1", no) + 2 * DEADLINE
    await process.evaluate_gate(cid, 0, ripe)
    assert (await world.store.load(cid)).soak_ended_at == ripe
    assert "'lab'" in (await process.evaluate_gate(cid, 0, ripe)).reason
    for _ in range(3):
        assert (await process.evaluate_gate(cid, 0, ripe + 30_000)).result is GateResult.NOT_YET
    told = await world.rows("SELECT data FROM event_log WHERE type = 'HoldOutlasted'")
    assert [(row["data"]["gate"], row["data"]["since"], row["data"]["matured"]) for row in told] == [("lab", ripe, 15)]
    verdict = c.GiveVerdict(
        phase=0,
        gate="lab",
        verdict="promote",
        reason="ok",
        evidence=None,
        gate_epoch=1,
        at=ripe,
        ledger_position=0,
        actor="lab",
    )
    await world.command(cid, lambda *_: verdict, "run-7")
    await world.command(cid, lambda *_: verdict, "run-7")
    assert await world.value("SELECT count(*) FROM event_log WHERE type = 'ExternalVerdictGiven'") == 1
    assert (await process.evaluate_gate(cid, 0, ripe + 40_000)).result is GateResult.PROMOTED
    await world.command(cid, lambda *_: c.GiveVerdict(**{**_fields(verdict), "verdict": "halt"}))
    assert (await world.store.load(cid)).state is c.CampaignState.HALTED
    assert await story.verify() == []
    await story.rebuild()
    assert (await world.store.load(cid)).state is c.CampaignState.HALTED


def _fields(command: c.GiveVerdict) -> dict[str, object]:
    return {name: getattr(command, name) for name in command.__struct_fields__}
